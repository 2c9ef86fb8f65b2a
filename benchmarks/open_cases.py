"""Opens of long films with a frame table and without one (torchcodec's exact mode), on a local disk and in a store.

`exact` reads every packet. `table` has a table that was kept, `first` makes it. Frames are of 180 moments over the whole film, up
to patches for the processor's sake. In the store (moto's S3 server on this machine) bytes are counted on the way from it.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import clips
import harness
from harness import Measurement, spread

from lightning_apollo.data.media import seekable
from lightning_apollo.data.media.decoder import open_container
from lightning_apollo.data.media.video import decode, probe
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.data.storage.address import cache_folder

sys.path.append(str(Path(__file__).parents[1]))  # of the tests, whose server and counter are used
from tests.counting_proxy import CountingProxy, counting_proxy
from tests.s3 import aws_environment, put, s3_server

MIB = 2**20
ROUNDS, STORED_ROUNDS = 3, 1  # moto copies the whole object at each request
HOUR = clips.Clip("360p_hour", 640, 360, 60, keyframe_interval=60, kilobits=2000, repeats=60)
LONG_GROUPS = clips.Clip("360p_ten_minutes_long", 640, 360, 50, keyframe_interval=250, kilobits=2000, repeats=12)
TEN_MINUTES = clips.Clip("360p_ten_minutes", 640, 360, 60, keyframe_interval=60, kilobits=2000, repeats=10)
LOCAL = {"an hour": HOUR, "ten minutes": TEN_MINUTES}
STORED = {"ten minutes, 30 frames": TEN_MINUTES, "ten minutes, 30 frames, long groups": LONG_GROUPS}


@contextmanager
def without_tables() -> Iterator[None]:
    with mock.patch.object(seekable, "frame_table", return_value=None):
        yield


@contextmanager
def own_cache() -> Iterator[None]:
    with TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}):
        yield


def open_once(address: str) -> None:
    if seekable.open_film(address, open_container(address), 1) is None:
        sys.exit(f"{address}: cannot be opened for seeks")


def open_exact(address: str) -> None:
    with without_tables():
        open_once(address)


def open_first(address: str) -> None:
    shutil.rmtree(cache_folder() / "frame_tables", ignore_errors=True)
    open_once(address)


OPENS: dict[str, Callable[[str], None]] = {"exact": open_exact, "first": open_first, "table": open_once}


def measure_opens(
    ours: Callable[[Path, int], object], processor: Callable[[Path, int], object]
) -> Iterator[Measurement]:
    """Rows of all cases; `ours` and `processor` go from a path to patches."""
    with own_cache():
        for mode, clip in LOCAL.items():
            address = str(clip.path())
            yield from _timed(f"{mode}, open", clip, {name: partial(run, address) for name, run in OPENS.items()})
        path = HOUR.path()

        def exact() -> None:
            with without_tables():
                ours(path, 1)

        runs = {"exact": exact, "table": lambda: ours(path, 1), "processor": lambda: processor(path, 1)}
        yield from _timed("an hour, 180 frames", HOUR, runs)
        yield from _in_the_store()


def _timed(
    mode: str, clip: clips.Clip, runs: Mapping[str, Callable[[], object]], rounds: int = ROUNDS
) -> Iterator[Measurement]:
    seconds = harness.interleaved_seconds(runs, rounds, warmup_rounds=min(1, rounds - 1))
    for provider, values in seconds.items():
        yield _row(provider, mode, "seconds", "s", spread(values), clip)
    for slow in ("exact", "processor"):
        if slow in seconds:
            ratios = spread(harness.ratios(seconds[slow], seconds["table"]))
            yield _row(f"{slow}/table", mode, "time_ratio", "x", ratios, clip)


def _row(provider: str, mode: str, metric: str, unit: str, values: harness.Spread, clip: clips.Clip) -> Measurement:
    size = f"{clip.path().stat().st_size / 1e6:.0f} MB"
    config = f"{clip.width}×{clip.height}, {clips.FPS} fps, keyframe every {clip.keyframe_interval} frames, {size}"
    return Measurement("open_film", provider, mode, metric, unit, "file", size, values, config)


def _in_the_store() -> Iterator[Measurement]:
    with s3_server() as server, counting_proxy(server.get_host_and_port()[1]) as proxy:
        for mode, clip in STORED.items():
            address = put(f"{clip.name}.mp4", clip.path().read_bytes())
            with aws_environment(proxy.url):
                runs = {name: partial(run, address) for name, run in OPENS.items()}
                yield from _timed(f"{mode.partition(',')[0]} in S3, open", clip, runs, STORED_ROUNDS)
                for provider in ("exact", "table"):
                    read = spread([_mib_read(proxy, address, provider == "exact")])
                    yield _row(provider, f"{mode}, in S3", "read", "MiB", read, clip)


def _mib_read(proxy: CountingProxy, address: str, is_exact: bool) -> float:
    """For 30 frames, after the first look."""
    info = probe(address)
    before = proxy.num_bytes
    with without_tables() if is_exact else nullcontext():
        decode(info, sample_timestamps(info, SamplingConfig(max_frames=30)), (36, 64))
    return (proxy.num_bytes - before) / MIB
