"""Shards and merges that are killed at random moments, as a program: processes forked from one that has imported all.

python -m tests.data.index.killing FOLDER SEED     writes the number of kills, of files and of probes
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.merge import merge_shards
from lightning_apollo.data.index.shard_work import index_shard
from lightning_apollo.data.index.shards import Shard
from lightning_apollo.data.index.tables import Index, IndexFileError
from lightning_apollo.data.media import video as media
from lightning_apollo.data.source import Source, open_sources
from lightning_apollo.structures import MediaInfo, Modality
from tests.small_data import write_pictures

COUNT, NUM_PICTURES, KILLS_OF_MERGE = 3, 60, 8
PROBE_SECONDS = 0.02


def sources_of(folder: Path) -> list[Source]:
    return open_sources({"pictures": SourceConfig([str(folder / "pictures.jsonl")], str(folder))}, ())


def slow_probe(log: Path, address: str, modality: Modality) -> MediaInfo:
    with log.open("a") as file:
        file.write(f"{Path(address).name}\n")
    time.sleep(PROBE_SECONDS)
    return media.probe(address, modality)


def fork(work: Callable[[], object]) -> int:
    """Number of a process that does the work and ends with 0, or with 1 and a traceback."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        work()
        code = 0
    except Exception:
        traceback.print_exc()
    finally:
        os._exit(code)  # nothing of the parent's is finished twice


def ends(process: int, is_time: Callable[[], bool] | None = None) -> bool:
    """True if the process came to its end; False where it was killed when it was time."""
    while is_time is not None:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return _is_end(status)
        if is_time():
            os.kill(process, signal.SIGKILL)
            break
        time.sleep(0.001)
    return _is_end(os.waitpid(process, 0)[1])


def _is_end(status: int) -> bool:
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a process ended with {code}")
    return code == 0


def make_shards(folder: Path, log: Path, chance: random.Random) -> int:
    """Works on all shards at once, again and again, until every one is finished; how many processes were killed."""
    unfinished, num_kills = set(range(COUNT)), 0
    while unfinished:
        work = [partial(index_shard, sources_of(folder), folder / "index", Shard(number, COUNT), 0,
                        probe=partial(slow_probe, log)) for number in sorted(unfinished)]  # fmt: skip
        for number, process in zip(sorted(unfinished), list(map(fork, work)), strict=True):
            target = num_probes(log) + chance.randrange(6)
            if ends(process, (lambda n=target: num_probes(log) > n) if num_kills < 3 * COUNT else None):
                unfinished.remove(number)
            else:
                num_kills += 1
    return num_kills


def num_probes(log: Path) -> int:
    """Files whose probe has begun."""
    return len(log.read_text().split()) if log.is_file() else 0


def merge(folder: Path, seconds: float, allowed: set[str]) -> int:
    """Merges until that comes to its end, killed later and later; every kill must leave one of the allowed fingerprints."""
    work, num_kills = partial(merge_shards, sources_of(folder), folder / "index"), 0
    for number in range(KILLS_OF_MERGE):
        until = time.monotonic() + seconds * number / KILLS_OF_MERGE
        if ends(fork(work), lambda until=until: time.monotonic() > until):
            return num_kills
        num_kills += 1
        if not ends(fork(partial(check, folder / "index", allowed))):
            raise SystemExit("the check was killed")
    ends(fork(work))
    return num_kills


def check(index: Path, allowed: set[str]) -> None:
    try:
        fingerprint = Index(index).fingerprint
    except IndexFileError as error:
        if "no index here" not in str(error):
            raise
        fingerprint = ""
    if fingerprint not in allowed:
        raise ValueError(f"half an index: {fingerprint!r} is none of {allowed}")


def main(folder: Path, seed: int) -> None:
    chance, log = random.Random(seed), folder / "log"
    manifest = write_pictures(folder, NUM_PICTURES, broken=[7])
    build_index(sources_of(folder), folder / "first", 0)  # all that is imported on the way is there for the forks
    begin = time.monotonic()
    first = build_index(sources_of(folder), folder / "again", 0).fingerprint
    seconds = time.monotonic() - begin
    num_kills = make_shards(folder, log, chance)
    num_kills += merge(folder, seconds, {"", first})
    rows = manifest.read_text()
    manifest.write_text(rows.replace("number 3", "number 9"))
    second = build_index(sources_of(folder), folder / "second", 0).fingerprint
    num_kills += make_shards(folder, log, chance)
    num_kills += merge(folder, seconds, {first, second})
    sys.stdout.write(f"{num_kills} {NUM_PICTURES} {num_probes(log)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
