"""Probes in child processes: one that hangs or crashes costs itself, and no process is left behind."""

import multiprocessing
import signal
import time
from pathlib import Path

import pytest

from lightning_apollo.data.media.probe_pool import MediaKey, ProbeResult, _Worker, probe_all
from lightning_apollo.machine.video_libraries import FFmpegMissing
from tests.probes import faulty, without_torchcodec
from tests.small_data import write_pictures


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 4, broken=[2])
    for name in ("hang.png", "crash.png", "odd.png"):
        (folder / name).write_bytes((folder / "000.png").read_bytes())
    return folder


def facts_of(folder: Path, names: list[str], jobs: int, deadline: float) -> dict[str, ProbeResult]:
    keys = [MediaKey(str(folder / name), "image") for name in names]
    return {Path(key.path).name: facts for key, facts in probe_all(keys, jobs, deadline, faulty)}


def test_a_hang_costs_its_deadline_and_a_crash_its_file(folder: Path) -> None:
    names = ["hang.png", "000.png", "crash.png", "odd.png", "001.png", "002.png", "missing.png", "003.png"]
    list(probe_all([MediaKey(str(folder / "000.png"), "image")], 1, 30.0))  # starts what all processes are forked from
    began = time.monotonic()
    found = facts_of(folder, names, jobs=2, deadline=1.0)
    seconds = time.monotonic() - began
    assert 1.0 <= seconds < 60.0  # and not the 600 s that the hang would take
    assert sorted(found) == sorted(names)
    assert {name: facts.error for name, facts in found.items()} == {
        **dict.fromkeys(["000.png", "001.png", "003.png"]),
        "hang.png": "probing took more than 1 s",
        "crash.png": "probing crashed (SIGSEGV)",
        "odd.png": "probing failed (ZeroDivisionError: no frames)",
        "002.png": "not a picture (PNG, JPEG, WEBP, GIF, BMP, AVIF, TIFF, JPEG2000, PPM) where the annotation has an image",
        "missing.png": "no such file",
    }
    info = found["001.png"].info
    assert info is not None
    assert (info.width, info.height) == (40, 30)
    assert found["001.png"].file_bytes == (folder / "001.png").stat().st_size
    assert found["001.png"].mtime_ns == (folder / "001.png").stat().st_mtime_ns
    assert found["hang.png"].file_bytes > 0
    assert found["missing.png"][1:3] == (-1, -1)
    assert_no_process_is_left()


def test_a_hang_is_a_hang_also_where_the_caller_looks_late(folder: Path) -> None:
    """The process has ended itself by then, five seconds after its deadline."""
    worker = _Worker.start(faulty, 0.2, MediaKey(str(folder / "hang.png"), "image"))
    worker.process.join(60)
    assert worker.take().error == "probing took more than 0.2 s"


def test_a_caller_that_stops_early_leaves_no_process(folder: Path) -> None:
    keys = [MediaKey(str(folder / name), "image") for name in ("000.png", "hang.png", "001.png")]
    results = probe_all(keys, 2, 60.0, faulty)
    assert Path(next(results)[0].path).name == "000.png"
    results.close()  # pyright: ignore[reportAttributeAccessIssue] (a generator)
    assert_no_process_is_left()


@pytest.mark.parametrize("jobs", [0, 1])
def test_what_no_file_is_to_blame_for_ends_it(folder: Path, jobs: int) -> None:
    with pytest.raises(FFmpegMissing, match="FFmpeg"):
        list(probe_all([MediaKey(str(folder / "000.png"), "image")], jobs, 30.0, without_torchcodec))


def test_nothing_to_probe_starts_nothing() -> None:
    assert list(probe_all([], 4, 30.0)) == []
    assert_no_process_is_left()


def assert_no_process_is_left() -> None:
    for process in multiprocessing.active_children():
        if process.name.startswith("ForkServerProcess") and process.exitcode is None:
            process.join(5)
            assert process.exitcode in (0, -signal.SIGKILL)
