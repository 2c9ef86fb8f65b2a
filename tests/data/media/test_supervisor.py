"""Supervised reading: the same frames, and faults that cost their file alone."""

import gc
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.dataset import ConversationDataset, PreparedBatch
from lightning_apollo.data.media.config import SupervisionConfig
from lightning_apollo.data.media.reader import DirectReader, MediaReader
from lightning_apollo.data.media.supervisor import SupervisedReader
from lightning_apollo.data.plan.order import refill_rows
from lightning_apollo.data.plan.planner import MicroBatchRequest
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import open_sources
from lightning_apollo.machine.video_libraries import FFmpegMissing
from lightning_apollo.structures import Frames, MediaError
from tests.decoders import FAULTS, SIZE, Faulty, NotToBeLoaded, WithoutTorchcodec, decoded, memory_bytes, read_log
from tests.media_files import h264, write_clip, write_variable_rate
from tests.places import ROOT
from tests.small_data import tiny_tokenizer, write_pictures

LIMITS = SupervisionConfig(deadline_seconds=4.0, max_memory_mb=200)
POISON = {"004.png": "hang", "005.png": "crash", "013.png": "eat"}
POISON_ROWS = (4, 5, 13)
MARKER = "TEST_OF_SUPERVISION"  # a variable of the environment
SEED = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    write_pictures(folder, 16)
    for name in FAULTS:
        (folder / name).write_bytes((folder / "000.png").read_bytes())
    write_clip(folder / "clip.mp4", 40, 10, *h264())
    return folder


@pytest.fixture
def reader(tmp_path: Path) -> SupervisedReader:
    """Its processes are forked from one server for all tests."""
    return SupervisedReader(Faulty(faults=FAULTS, log=tmp_path / "log"), LIMITS)


def assert_same(frames: Frames, others: Frames) -> None:
    assert torch.equal(frames.pixels, others.pixels)
    assert torch.equal(frames.pts_seconds, others.pts_seconds)
    assert frames.pts_seconds.dtype == torch.float64


def test_facts_and_frames_are_those_of_the_inner_reader(folder: Path, tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (40, 30), (value, 0, 255 - value)) for value in (0, 120, 250)]
    pictures[0].save(tmp_path / "moving.gif", save_all=True, append_images=pictures[1:], duration=200)
    paths = [
        folder / "003.png",
        folder / "clip.mp4",
        write_variable_rate(tmp_path / "variable.mp4"),
        write_clip(tmp_path / "film.mkv", 20, 5, *h264(5, 0)),
        tmp_path / "moving.gif",
    ]
    reader, direct = SupervisedReader(DirectReader(), LIMITS), DirectReader()
    for path in paths:
        assert reader.probe(str(path), None) == direct.probe(str(path), None)
    frames = [decoded(reader, path, num_frames=7) for path in paths]
    del reader
    gc.collect()  # the process has ended: what it has handed over stays
    for path, kept in zip(paths, frames, strict=True):
        assert_same(kept, decoded(direct, path, num_frames=7))
    frames[0].pixels.zero_()  # and may be written to


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("hang", "decode took longer than 4 s (data.supervision.deadline_seconds)"),
        ("eat", "decode took more than 200 MiB (data.supervision.max_memory_mb)"),
        ("crash", "decode crashed (SIGSEGV)"),
        ("abort", "decode crashed (SIGABRT)"),
        ("leave", "decode crashed (exit code 3)"),
        ("stumble", "decode failed (ZeroDivisionError: no frames)"),
    ],
)
def test_a_fault_costs_its_file(
    reader: SupervisedReader, folder: Path, tmp_path: Path, fault: str, reason: str
) -> None:
    path = folder / f"{fault}.png"
    with pytest.raises(MediaError) as caught:
        decoded(reader, path)
    assert (caught.value.path, caught.value.reason) == (str(path), reason)
    (begun,) = read_log(tmp_path / "log")
    assert Path(f"/proc/{begun['process']}").exists() == (fault == "stumble")  # all others cost the process
    assert_same(decoded(reader, folder / "clip.mp4", 5), decoded(DirectReader(), folder / "clip.mp4", 5))


def test_errors_of_the_inner_reader_come_back_as_they_are(reader: SupervisedReader, folder: Path) -> None:
    readers = (reader, DirectReader())
    broken = [_error(lambda one=one: one.probe(str(folder / "missing.mp4"), "video")) for one in readers]
    assert broken[0].args == broken[1].args == (str(folder / "missing.mp4"), "no such file")
    info = reader.probe(str(folder / "clip.mp4"), "video")
    wrong = [_error(lambda one=one: one.decode(info, torch.tensor([99.0]), SIZE)) for one in readers]
    assert type(wrong[0]) is type(wrong[1]) is ValueError
    assert wrong[0].args == wrong[1].args


def _error(call: Callable[[], object]) -> Exception:
    with pytest.raises((MediaError, ValueError)) as caught:
        call()
    return caught.value


def test_relative_paths_start_where_the_process_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook changes its folder while a child for the one before is there."""
    reader = SupervisedReader(DirectReader(), SupervisionConfig())
    for width, name in ((8, "one"), (12, "two")):
        (tmp_path / name).mkdir()
        Image.new("RGB", (width, 8)).save(tmp_path / name / "picture.png")
        monkeypatch.chdir(tmp_path / name)
        assert reader.probe("picture.png", None).width == width


def test_a_broken_installation_is_not_taken_for_broken_data(folder: Path) -> None:
    reader = SupervisedReader(WithoutTorchcodec(), LIMITS)
    with pytest.raises(FFmpegMissing, match="ffmpeg"):
        reader.probe(str(folder / "clip.mp4"), "video")


def test_a_process_that_cannot_start_ends_the_run(folder: Path) -> None:
    with pytest.raises(RuntimeError, match=r"process.*\(exit code 1\)"):
        SupervisedReader(NotToBeLoaded(), LIMITS).probe(str(folder / "000.png"), None)


def test_the_late_answer_of_an_interrupted_call_is_not_the_next_ones(reader: SupervisedReader, folder: Path) -> None:
    info = reader.probe(str(folder / "wait.png"), None)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            reader.decode(info, torch.zeros(1), SIZE)
    finally:
        signal.signal(signal.SIGALRM, before)
    time.sleep(2)  # by now the answer would be there
    assert_same(decoded(reader, folder / "clip.mp4", 5), decoded(DirectReader(), folder / "clip.mp4", 5))


def test_signals_that_ask_a_run_to_stop_do_not_end_decoding(
    reader: SupervisedReader, folder: Path, tmp_path: Path
) -> None:
    decoded(reader, folder / "000.png")
    before = read_log(tmp_path / "log")[-1]
    for process in (before["process"], before["server"]):
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGUSR1)
    decoded(reader, folder / "000.png")
    after = read_log(tmp_path / "log")[-1]
    assert (after["process"], after["server"]) == (before["process"], before["server"])


def test_memory_that_stays_is_not_on_the_account_of_the_next_file(folder: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"  # each decode leaves 30 MiB behind; a file may take 100
    leaky = Faulty(faults={"001.png": "leak"}, log=log)
    reader = SupervisedReader(leaky, SupervisionConfig(max_memory_mb=100))
    for _ in range(6):
        decoded(reader, folder / "001.png")
    processes = [line["process"] for line in read_log(log)[1::2]]
    assert len(processes) == 6
    assert 2 <= len(set(processes)) <= 3  # two or three decodes each


@pytest.mark.slow
def test_every_process_reads_through_a_child_of_its_own(folder: Path, tmp_path: Path) -> None:
    """Copied by pickle, copied by a fork, and where the child was killed between two files."""
    log = tmp_path / "log"
    process = run_python("read_in_copies", folder / "000.png", log, marker="forks")
    assert process.communicate(timeout=120) == (None, "")
    assert process.returncode == 0
    lines = read_log(log)[1::2]
    first, in_fork, after_fork, in_copy, after_kill = [line["process"] for line in lines]
    server, server_of_fork = lines[0]["server"], lines[1]["server"]
    assert [line["server"] for line in lines] == [server, server_of_fork, server, server, server]
    assert first == after_fork
    assert len({first, in_fork, in_copy, after_kill}) == 4
    assert_none_is_left("forks")


@pytest.mark.parametrize("is_server_killed", [False, True])
def test_no_child_outlives_a_parent_that_is_killed(folder: Path, tmp_path: Path, is_server_killed: bool) -> None:
    """One child waits for its next file, one is at work; the server that would end them may be gone too."""
    log, marker = tmp_path / "log", f"killed {is_server_killed}"
    deadline_seconds = 2.0 if is_server_killed else 600.0  # the child at work, then alone, knows nothing else
    paths = (folder / "000.png", folder / "hang.png", log)
    process = run_python("read_and_hang", *paths, deadline_seconds, marker=marker)
    wait_until(lambda: len(read_log(log)) == 3, 60)
    if is_server_killed:
        os.kill(read_log(log)[0]["server"], signal.SIGKILL)
    process.kill()
    process.wait()
    assert_none_is_left(marker)
    process.communicate()  # closes the pipe, which a child would have kept open


@pytest.mark.slow
def test_decoding_leaves_memory_flat(folder: Path, tmp_path: Path) -> None:
    """2,000 decodes: neither process holds 4 MiB more than after 200, and no file stays open."""
    log = tmp_path / "log"
    reader = SupervisedReader(Faulty(log=log), LIMITS)
    info = reader.probe(str(write_clip(tmp_path / "clip.mp4", 12, 10, *h264(4, 0))), "video")
    moments = torch.tensor([0.0, 0.5, 1.1], dtype=torch.float64)
    ours, num_open = [], []
    for number in range(2000):
        reader.decode(info, moments, SIZE)
        if number in (199, 1999):
            ours.append(memory_bytes()["resident"])
            num_open.append(len(os.listdir("/proc/self/fd")))
    theirs = [line["resident"] for line in read_log(log)[1::2]]
    assert len(theirs) == 2000
    assert len({line["process"] for line in read_log(log)}) == 1
    assert abs(ours[1] - ours[0]) < 4 * 2**20
    assert abs(theirs[1999] - theirs[199]) < 4 * 2**20
    assert num_open[1] == num_open[0]


def pictures_dataset(folder: Path, reader: MediaReader) -> ConversationDataset:
    preparer = Preparer(
        Preprocessing(
            tokenizer=tiny_tokenizer(),
            patch_size=8,
            image_merge_size=1,
            video_merge_size=2,
            budget=BudgetConfig(token_budget=32, min_tokens=4, max_length=256),
        ),
        reader=reader,
    )
    sources = open_sources({"pictures": SourceConfig([str(folder / "pictures.jsonl")], str(folder))}, [])
    return ConversationDataset(sources, preparer, SEED, skips_bad=True)


def requests() -> list[MicroBatchRequest]:
    """Four micro-batches of four rows, the poisoned ones in the second and in the last."""
    return [MicroBatchRequest(0, first, [(0, row) for row in range(first, first + 4)]) for first in range(0, 16, 4)]


def samples_of(prepared: PreparedBatch) -> list[tuple[str, list[int], list[int], bytes]]:
    """Of every sample: its name, ids, labels and pixels."""
    batch = prepared.batch
    assert batch is not None
    pixels = batch.visual.pixels.split((batch.visual.sizes.prod(dim=1) * 3).tolist())
    ids, labels = batch.input_ids.split(list(batch.lengths)), batch.labels.split(list(batch.lengths))
    parts = zip(batch.sample_ids, ids, labels, pixels, strict=True)
    return [(name, a.tolist(), b.tolist(), bytes(c.tolist())) for name, a, b, c in parts]


def assert_poison_alone_is_replaced(prepared: list[PreparedBatch], folder: Path, quarantined: Path) -> None:
    """Against a run whose decoder has no faults: three samples are listed, all others are the same to the byte."""
    without_poison = pictures_dataset(folder, DirectReader())
    expected = [sample for request in requests() for sample in samples_of(without_poison[request])]
    for row in POISON_ROWS:
        refill = next(other for other in refill_rows(16, SEED, 0, row) if other not in POISON_ROWS)
        expected[row] = expected[refill]
    assert [sample for batch in prepared for sample in samples_of(batch)] == expected
    quarantine = Quarantine(quarantined, max_share=0.2)
    for batch in prepared:
        quarantine.admit(batch)
    listed = [json.loads(line) for line in quarantined.read_text().splitlines()]
    assert [(line["path"], line["reason"], line["position"]) for line in listed] == [
        (str(folder / "004.png"), "decode took longer than 4 s (data.supervision.deadline_seconds)", 4),
        (str(folder / "005.png"), "decode crashed (SIGSEGV)", 5),
        (str(folder / "013.png"), "decode took more than 200 MiB (data.supervision.max_memory_mb)", 13),
    ]


def test_three_faults_among_many_rows_cost_three_samples(folder: Path, tmp_path: Path) -> None:
    dataset = pictures_dataset(folder, SupervisedReader(Faulty(faults=POISON), LIMITS))
    prepared = [dataset[request] for request in requests()]
    assert_poison_alone_is_replaced(prepared, folder, tmp_path / "quarantine.jsonl")


@pytest.mark.slow
def test_loader_processes_come_through_the_same_faults(folder: Path, tmp_path: Path) -> None:
    """Loader processes are daemons, which may have no children by multiprocessing."""
    process = run_python("load", folder, tmp_path / "prepared", marker="loader", module=__name__)
    assert process.communicate(timeout=180) == (None, "")
    assert process.returncode == 0
    prepared = pickle.loads((tmp_path / "prepared").read_bytes())
    assert_poison_alone_is_replaced(prepared, folder, tmp_path / "quarantine.jsonl")
    assert_none_is_left("loader")


def load(folder: Path, output: Path) -> None:
    dataset = pictures_dataset(folder, SupervisedReader(Faulty(faults=POISON), LIMITS))
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=requests(),
        num_workers=2,
        multiprocessing_context="forkserver",
    )
    output.write_bytes(pickle.dumps(list(loader)))


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"deadline_seconds": 0.0}, r"^data\.supervision\.deadline_seconds .*\b0 s\b.*\b0$"),
        ({"deadline_seconds": float("nan")}, r"deadline_seconds .*\b0 s\b.*\bnan$"),
        ({"max_memory_mb": 0}, r"^data\.supervision\.max_memory_mb .*\b1 MiB\b.*\b0$"),
    ],
)
def test_limits_that_no_file_could_keep_are_refused(limits: dict[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        SupervisionConfig(**limits)  # pyright: ignore[reportArgumentType] (fields of two types)


def run_python(function: str, *arguments: object, marker: str, module: str = "tests.decoders") -> subprocess.Popen[str]:
    """A process that calls a function; it and all that it starts carry the marker."""
    program = f"from pathlib import PosixPath; from {module} import {function}; {function}{arguments!r}"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", program],
        env={**os.environ, MARKER: marker},
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_none_is_left(marker: str) -> None:
    wait_until(lambda: not _processes_with(marker), 30)


def _processes_with(marker: str) -> list[str]:
    """Ids of living processes that began with the marker in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError, PermissionError):  # ended meanwhile, or another user's
            if f"{MARKER}={marker}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(process.name)
    return found


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.05)
