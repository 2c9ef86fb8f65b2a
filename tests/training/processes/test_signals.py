"""Signals from the first moment of a process on: real processes, and real signals to them or to their group."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lightning_apollo.training.processes.signals import EXIT_CODE, FROM_PARENT, SIGNALS, run_passing_signals_on
from tests.places import ROOT

CHILD = """
import pathlib, signal, sys, time
def handler(number, frame):
    pathlib.Path(sys.argv[1]).write_text(signal.Signals(number).name)
    sys.exit(int(sys.argv[2]))
signal.signal(signal.SIGTERM, handler)
signal.signal(signal.SIGUSR1, handler)
signal.signal(signal.SIGUSR2, handler)
signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
pathlib.Path(sys.argv[1]).write_text("ready")
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("number", "code", "expected"),
    [
        (signal.SIGUSR1, 75, 75),
        (signal.SIGTERM, 3, 3),
        (signal.SIGTERM, 0, EXIT_CODE),
    ],
)
def test_the_process_of_a_recipe_passes_signals_on_to_its_stage(
    number: signal.Signals, code: int, expected: int, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    handlers_before = [signal.getsignal(number) for number in SIGNALS]
    watch = f"""
import os, pathlib, time
while not pathlib.Path({str(note)!r}).exists() or pathlib.Path({str(note)!r}).read_text() != "ready":
    time.sleep(0.05)
os.kill({os.getpid()}, {int(number)})
"""
    watcher = subprocess.Popen(["timeout", "-k", "5", "30", sys.executable, "-c", watch])
    assert run_passing_signals_on([sys.executable, "-c", CHILD, str(note), str(code)]) == expected
    assert watcher.wait() == 0
    assert note.read_text() == number.name
    assert [signal.getsignal(number) for number in SIGNALS] == handlers_before


def test_a_command_ends_with_its_own_code_or_its_signal() -> None:
    assert run_passing_signals_on(["sh", "-c", "exit 7"]) == 7
    assert run_passing_signals_on(["sh", "-c", "kill -KILL $$"]) == 137


def start(program: list[str], **environment: str) -> subprocess.Popen[str]:
    """A process in a session of its own, so that a signal to its group meets nothing else."""
    return subprocess.Popen(
        [sys.executable, *program],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def end_of(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output = process.communicate(timeout=60)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


def wait_until(is_so: Callable[[], bool]) -> None:
    due = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < due
        time.sleep(0.002)


def handles(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """True if the kernel lists a handler of the process for the signal."""
    caught = re.search(r"SigCgt:\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


def has_loaded(process: subprocess.Popen[str], library: str) -> bool:
    return library in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job of number 4711, and the file in which a `scontrol` notes what it is asked."""
    asked, script = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return asked


FIT = ["-m", "lightning_apollo", "fit", "videollama3-tiny"]


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGUSR1, 75, "job 4711 is requeued"),
        (signal.SIGTERM, 75, "start it again with --resume"),
        (signal.SIGINT, 130, "start it again with --resume"),
    ],
)
def test_a_run_is_stopped_in_its_first_moment(number: signal.Signals, code: int, said: str, scontrol: Path) -> None:
    process = start(FIT)
    wait_until(lambda: handles(process, FROM_PARENT))  # the last that it listens to
    process.send_signal(number)
    assert end_of(process) == (code, f"stopped by {number.name} with nothing to save: {said}\n")
    assert scontrol.exists() == (number == signal.SIGUSR1)


def test_a_recipe_that_does_not_want_it_is_not_requeued_before_training_either(tmp_path: Path, scontrol: Path) -> None:
    process = start([*FIT, f"output={tmp_path}", "trainer.preemption.requeue=false"])
    wait_until(lambda: has_loaded(process, "libtorch"))
    process.send_signal(signal.SIGUSR1)
    assert end_of(process) == (75, "stopped by SIGUSR1 with nothing to save: start it again with --resume\n")
    assert not scontrol.exists()


WAITS_IN_C = """
import ctypes, sys
from lightning_apollo.training.processes import signals
signals._STUCK_SECONDS = 0.3
signals.LISTENER.start()
signals.LISTENER.is_working = True
if "train" in sys.argv:
    signals.LISTENER.begin_training()
print("ready", flush=True)
mutex = ctypes.create_string_buffer(64)
for _ in range(2):  # the second time waits for ever, as for a rank that does not come
    ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


def test_a_process_whose_main_thread_waits_in_c_ends_all_the_same(scontrol: Path) -> None:
    process = start(["-c", WAITS_IN_C])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGUSR1)
    assert end_of(process) == (75, "stopped by SIGUSR1 with nothing to save: job 4711 is requeued\n")


def test_a_second_ctrl_c_ends_at_once() -> None:
    process = start(["-c", WAITS_IN_C, "train"])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    time.sleep(1.0)
    assert process.poll() is None  # it saves after its step
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert end_of(process)[0] == 130
    assert time.monotonic() - begun < 5


PARENT = """
import sys
from lightning_apollo.training.processes.signals import LISTENER, run_passing_signals_on
LISTENER.start()
sys.exit(run_passing_signals_on([sys.executable, "-c", sys.argv[1]]))
"""
TRAINS = """
import sys, time
from lightning_apollo.training.processes.signals import LISTENER
LISTENER.begin_training()
print("ready", flush=True)
while LISTENER.noted is None:
    time.sleep(0.05)
time.sleep(0.5)
print("saved", LISTENER.noted.name, flush=True)
sys.exit(130)
"""


@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_counts_once_whether_it_reaches_the_group_or_the_parent(to_group: bool) -> None:
    process = start(["-c", PARENT, TRAINS])
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    if to_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    code, output = end_of(process)
    assert code == 130
    assert output.splitlines() == [
        "",
        "Ctrl-C: saves after this step and ends; press it again to end at once",
        "saved SIGINT",
    ]
