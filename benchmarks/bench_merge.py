"""Cost of merging the shards of an index, in seconds and memory.

    python benchmarks/bench_merge.py [--quick]      writes results/merge.csv and merge.png, prints the sizes as JSON

The journals of 8 shards are made up: every row is a question about a clip of its own, an empty file, so that sizes and times of
change are asked of a real disk and nothing is probed. `seconds` is one merge in a process of its own, from manifests to written
tables; `peak_memory` all that the process holds, of which about half are PyTorch's libraries, `peak_memory_over_base` what
the merge adds. Where the merged index has not every row and file, nothing is written and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import harness
from harness import Measurement, PeakMemory, spread

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.journal import media_record, write_record
from lightning_apollo.data.index.merge import merge_shards
from lightning_apollo.data.index.rows import FileOfRow, RowFacts
from lightning_apollo.data.index.shards import BLOCK_ROWS, Header, Shard, shard_settings
from lightning_apollo.data.index.write import manifest_digests
from lightning_apollo.data.media.media_facts import MediaKey, ProbeResult
from lightning_apollo.data.source import Source, open_sources
from lightning_apollo.structures import MediaInfo

SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (2_000, 20_000)
SHARDS = 8
FOLDER_FILES = 1000
METRICS = {"seconds": "s", "peak_memory_over_base": "MiB", "peak_memory": "MiB"}


def sources_of(folder: Path) -> list[Source]:
    return open_sources({"films": SourceConfig([str(folder / "films.jsonl")], str(folder))}, ())


def make(folder: Path, num_rows: int) -> None:
    """Manifest, empty files and finished journals."""
    _write_manifest(folder, num_rows)
    sources, shards = sources_of(folder), [Shard(number, SHARDS) for number in range(SHARDS)]
    header = Header(shard_settings(sources, manifest_digests(sources), ""), 30.0)
    shards[0].journal(folder / "index").parent.mkdir(parents=True)
    with ExitStack() as stack:
        journals = [stack.enter_context(shard.journal(folder / "index").open("w")) for shard in shards]
        for journal in journals:
            write_record(journal, asdict(header))
        for first in range(0, num_rows, BLOCK_ROWS):
            numbers = range(first, min(first + BLOCK_ROWS, num_rows))
            block = first // BLOCK_ROWS
            record = {"block": block, "rows": [_row(folder, number) for number in numbers]}
            journals[block % SHARDS].write(f"{json.dumps(record)}\n")
            for number in numbers:
                key, facts = _facts(folder, number)
                place = next(place for place, shard in enumerate(shards) if shard.has_media(key))
                journals[place].write(f"{json.dumps(media_record(key, facts))}\n")


def measure(num_rows: int) -> Iterator[Measurement]:
    """One merge in a process that has done nothing before."""
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=harness.CACHE))
    try:
        make(folder, num_rows)
        harness.run_for_number(__file__, "--merge", str(folder))
        found = json.loads((folder / "found.json").read_text())
    finally:
        shutil.rmtree(folder)
    if found["rows"] != num_rows or found["files"] != num_rows:
        raise SystemExit(f"{num_rows} rows and files became {found}: nothing is written")
    for metric, unit in METRICS.items():
        values, config = spread([found[metric]]), f"{SHARDS} shards, a file for each row"
        yield Measurement("merge", "ours", "merge", metric, unit, "rows", str(num_rows), values, config)


def merge(folder: Path) -> None:
    """Merges, and writes what that took into the folder."""
    peak, begin = PeakMemory(), time.perf_counter()
    index = merge_shards(sources_of(folder), folder / "index")
    seconds = time.perf_counter() - begin
    over_base, whole = peak.mib_over_base(), peak.mib()
    found = {"rows": len(index), "files": index.media.num_rows, "seconds": seconds}
    (folder / "found.json").write_text(json.dumps({**found, "peak_memory_over_base": over_base, "peak_memory": whole}))


def _clip(number: int) -> str:
    return f"{number // FOLDER_FILES:05d}/video_{number:09d}.mp4"


def _write_manifest(folder: Path, num_rows: int) -> None:
    with (folder / "films.jsonl").open("w") as file:
        for number in range(num_rows):
            if number % FOLDER_FILES == 0:
                (folder / _clip(number)).parent.mkdir()
            (folder / _clip(number)).touch()
            turns = [{"from": "human", "value": "<video>\nWhat happens?"}, {"from": "gpt", "value": f"It is {number}."}]
            file.write(f"{json.dumps({'video': _clip(number), 'conversations': turns})}\n")


def _row(folder: Path, number: int) -> RowFacts:
    media = [FileOfRow(str(folder / _clip(number)), "video", None, None, None, None)]
    return RowFacts(f"films.jsonl:{number + 1}", "video", media, [], 2, 30, None, False, None)


def _facts(folder: Path, number: int) -> tuple[MediaKey, ProbeResult]:
    """Facts of a clip of 5 to 125 seconds."""
    path, seconds = folder / _clip(number), 5.0 + number * 7919 % 12_000 / 100
    info = MediaInfo(str(path), "video", 360, 640, 0.0, seconds, int(seconds * 25), 25.0, "h264")
    return MediaKey(str(path), "video"), ProbeResult(info, 0, path.stat().st_mtime_ns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2,000 and 20,000 rows, into benchmarks/.cache")
    parser.add_argument("--output", type=Path, help="folder of the CSV and the picture")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of rows")
    parser.add_argument("--merge", type=Path, metavar="FOLDER", help="merge what lies there, and print the seconds")
    arguments = parser.parse_args()
    if arguments.merge:  # in a process of what `data index merge` loads, on its parent's core
        merge(arguments.merge)
        print(json.loads((arguments.merge / "found.json").read_text())["seconds"])
        return
    harness.use_one_core()
    import plots

    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    measurements = [one for num_rows in sizes for one in measure(num_rows)]
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    rows = harness.record(measurements, output / "merge.csv")
    plots.plot(output / "merge.csv")
    print(harness.markdown(rows, harness.TABLES["merge"]))
    print(json.dumps({f"{row.metric} {row.x_value}": row.p50 for row in rows}))


if __name__ == "__main__":
    main()
