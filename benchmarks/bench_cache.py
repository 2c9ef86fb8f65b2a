"""Cost of a sample with the frame cache: decoded without it, on the first pass and from the cache. Also bytes of frames on disk.

    python benchmarks/bench_cache.py [--quick]      writes results/cache.csv and cache.png, prints the ratios as JSON

A sample is a probe and a decode of moments a second apart, at most 64 of them over the whole clip, at a square target. `decode`
reads the file each time, `hit` finds its frames, `first` decodes and keeps them in an empty folder. Files are in memory after the
warm-up round for all three: a cold disk adds the time to read what the table says is on it. Before anything is timed, frames that
were found must be those that were decoded; where they are not, nothing is written and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import clips
import harness
import plots
import torch
from clips import Clip
from harness import Measurement, Spread, spread

from lightning_apollo.data.media.config import FrameCacheConfig
from lightning_apollo.data.media.frame_cache import CachedReader
from lightning_apollo.data.media.reader import DirectReader, MediaReader
from lightning_apollo.structures import Frames

MAX_FRAMES = 64


@dataclass(frozen=True)
class Case:
    """A clip and how it is read."""

    mode: str
    clip: Clip
    sizes: tuple[int, ...]  # pixels of a side
    rounds: int

    def read(self, reader: MediaReader, size: int) -> Frames:
        info = reader.probe(str(self.clip.path()), "video")
        num_frames = min(MAX_FRAMES, max(1, int(info.duration_seconds)))
        moments = torch.arange(num_frames, dtype=torch.float64) * (info.duration_seconds / num_frames)
        return reader.decode(info, info.begin_seconds + moments, (size, size))


SMALL = Clip("240p_small", 320, 240, 8, keyframe_interval=48, kilobits=300)
SIZES = (64, 140, 280)
CASES = (
    Case("240p, 8 s", SMALL, SIZES, rounds=15),
    Case("720p, 60 s", clips.LONG_GOP, SIZES, rounds=5),
    Case("720p, an hour", clips.HOUR, SIZES, rounds=3),
)
QUICK_CASES = (Case("tiny, 4 s", clips.TINY, (64,), rounds=2),)


def cached_reader(folder: Path) -> CachedReader:
    return CachedReader(DirectReader(), FrameCacheConfig(str(folder), max_gigabytes=10.0))


def check(case: Case, size: int, reader: CachedReader) -> None:
    """SystemExit where the reader does not find its own frames, or finds others than a decode gives."""
    expected = case.read(DirectReader(), size)
    case.read(reader, size)
    num_decodes, found = reader.num_decodes, case.read(reader, size)
    if reader.num_decodes != num_decodes:
        raise SystemExit(f"{case.mode} at {size} pixels: frames that were kept are not found; nothing is written")
    if not (torch.equal(found.pixels, expected.pixels) and torch.equal(found.pts_seconds, expected.pts_seconds)):
        raise SystemExit(f"{case.mode} at {size} pixels: frames that were found are others; nothing is written")


def measure(case: Case, size: int) -> Iterator[Measurement]:
    """Milliseconds of the three ways, their ratios, and MiB on the disk."""

    def measurement(provider: str, metric: str, unit: str, values: Spread) -> Measurement:
        config = f"at most {MAX_FRAMES} frames, 1 a second, {size}×{size} pixels"
        return Measurement("cache", provider, case.mode, metric, unit, "pixels", str(size), values, config)

    with tempfile.TemporaryDirectory(dir=harness.CACHE) as folder:
        kept, empty = Path(folder) / "kept", Path(folder) / "empty"
        reader = cached_reader(kept)
        check(case, size, reader)

        def read_for_the_first_time() -> None:
            shutil.rmtree(empty, ignore_errors=True)
            case.read(cached_reader(empty), size)

        runs = {
            "decode": lambda: case.read(DirectReader(), size),
            "hit": lambda: case.read(reader, size),
            "first": read_for_the_first_time,
        }
        seconds = harness.interleaved_seconds(runs, case.rounds)
        for provider, values in seconds.items():
            yield measurement(provider, "milliseconds", "ms", spread([value * 1000 for value in values]))
        for slow, fast in (("decode", "hit"), ("first", "decode")):
            ratio = spread(harness.ratios(seconds[slow], seconds[fast]))
            yield measurement(f"{slow}/{fast}", "time_ratio", "x", ratio)
        kept_bytes = sum(path.stat().st_size for path in kept.glob("??/*"))
        for provider, num_bytes in (("file", case.clip.path().stat().st_size), ("hit", kept_bytes)):
            yield measurement(provider, "disk", "MiB", spread([num_bytes / 2**20]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one tiny clip, two rounds, into benchmarks/.cache")
    parser.add_argument("--output", type=Path, help="folder of the CSV and the picture")
    arguments = parser.parse_args()
    harness.use_one_core()
    harness.CACHE.mkdir(parents=True, exist_ok=True)
    cases = QUICK_CASES if arguments.quick else CASES
    measurements = [one for case in cases for size in case.sizes for one in measure(case, size)]
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    rows = harness.record(measurements, output / "cache.csv")
    plots.plot(output / "cache.csv")
    print(harness.markdown(rows, harness.TABLES["cache"]))
    print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
