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

from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.merge import merge_shards
from lightning_apollo.data.index.shard_work import index_shard
from lightning_apollo.data.index.shards import Shard
from lightning_apollo.data.index.tables import Index, IndexFileError
from lightning_apollo.data.media import video as media
from lightning_apollo.data.source import Source, SourceConfig, open_sources
from lightning_apollo.structures import MediaInfo, Modality
from tests.small_data import write_pictures

COUNT, NUM_PICTURES, KILLS_OF_MERGE = 3, 60, 8


def sources_of(folder: Path) -> list[Source]:
    return open_sources({"pictures": SourceConfig([str(folder / "pictures.jsonl")], str(folder))}, ())


def slow_probe(log: Path, address: str, modality: Modality) -> MediaInfo:
    with log.open("a") as file:
        file.write(f"{Path(address).name}\n")
    time.sleep(0.01)
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


def ends(process: int, kill_after: float | None) -> bool:
    """True if the process came to its end; False where it was killed after so many seconds before."""
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(process, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if code not in (0, -signal.SIGKILL):
        raise SystemExit(f"a process ended with {code}")
    return code == 0


def make_shards(folder: Path, log: Path, chance: random.Random) -> int:
    """Works on all shards at once, again and again, until every one is finished; how many processes were killed."""
    unfinished, num_kills = set(range(COUNT)), 0
    while unfinished:
        work = [partial(index_shard, sources_of(folder), folder / "index", Shard(number, COUNT), 0,
                        probe=partial(slow_probe, log)) for number in sorted(unfinished)]  # fmt: skip
        processes = list(map(fork, work))
        for number, process in zip(sorted(unfinished), processes, strict=True):
            if ends(process, chance.uniform(0.0, 0.4) if num_kills < 4 * COUNT else None):
                unfinished.remove(number)
            else:
                num_kills += 1
    return num_kills


def merge(folder: Path, chance: random.Random, allowed: set[str]) -> int:
    """Merges until that comes to its end; every kill must leave one of the allowed fingerprints."""
    work, num_kills = partial(merge_shards, sources_of(folder), folder / "index"), 0
    while not ends(fork(work), chance.uniform(0.0, 0.1) if num_kills < KILLS_OF_MERGE else None):
        num_kills += 1
        if not ends(fork(partial(check, folder / "index", allowed)), None):
            raise SystemExit("the check was killed")
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


def made_by_one(folder: Path, name: str) -> str:
    """Fingerprint of the index that a process makes which nobody kills."""
    if not ends(fork(partial(build_index, sources_of(folder), folder / name, 0)), None):
        raise SystemExit("not made")
    note = folder / f"{name}.txt"
    ends(fork(lambda: note.write_text(Index(folder / name).fingerprint)), None)
    return note.read_text()


def main(folder: Path, seed: int) -> None:
    chance, log = random.Random(seed), folder / "log"
    manifest = write_pictures(folder, NUM_PICTURES, broken=[7])
    first = made_by_one(folder, "first")
    num_kills = make_shards(folder, log, chance)
    num_kills += merge(folder, chance, {"", first})
    rows = manifest.read_text()
    manifest.write_text(rows.replace("number 3", "number 9"))
    second = made_by_one(folder, "second")
    num_kills += make_shards(folder, log, chance)
    num_kills += merge(folder, chance, {first, second})
    sys.stdout.write(f"{num_kills} {NUM_PICTURES} {len(log.read_text().split())}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
