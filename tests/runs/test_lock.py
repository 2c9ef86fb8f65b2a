"""One writer for each folder among real processes, with and without file locks."""

import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import pytest

from lightning_apollo.errors import RecipeError
from lightning_apollo.files import is_locked, try_lock
from lightning_apollo.runs import lock
from lightning_apollo.runs.lock import sole_writer

HOLDER = """
import os, sys
from pathlib import Path
from lightning_apollo.runs.lock import sole_writer
with sole_writer(Path(sys.argv[1]), print):
    if "fork" in sys.argv:
        reader, writer = os.pipe()
        if not os.fork():
            os.write(writer, b"forked")
            os._exit(bool(sys.stdin.read()))
        os.read(reader, 6)
    print("held", flush=True)
    sys.stdin.read()
"""
# Enters and leaves many times; whoever finds another inside ends with an error
CONTENDER = """
import os, sys
from pathlib import Path
from lightning_apollo.errors import RecipeError
from lightning_apollo.runs.lock import sole_writer
folder, entered = Path(sys.argv[1]), 0
while entered < 30:
    try:
        with sole_writer(folder, print):
            inside = os.open(folder.with_name("inside"), os.O_CREAT | os.O_EXCL)
            os.close(inside)
            os.unlink(folder.with_name("inside"))
            entered += 1
    except RecipeError:
        pass
"""


@contextmanager
def holder(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes into the folder."""
    command = [sys.executable, "-c", HOLDER, str(folder), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: TextIO) -> bool:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(lock, "try_lock", refuse)


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / "out" / "stage"
    with holder(folder) as process:
        line = rf"^\S+stage is being written by process {process.pid} on {socket.gethostname()}: wait until .* output=$"
        with pytest.raises(RecipeError, match=line), sole_writer(folder, pytest.fail):
            pass
        with sole_writer(folder.with_name("other"), pytest.fail):
            pass
        process.communicate()
    with sole_writer(folder, pytest.fail):
        assert folder.with_name("stage.lock").read_text() == f"{socket.gethostname()} {os.getpid()}\n"
    assert not list(folder.parent.iterdir())  # nothing is left, and the folder itself was not made


@pytest.mark.parametrize("words", [(), ("fork",)], ids=["alone", "with a child that lives on"])
def test_what_a_killed_process_held_is_taken_over(tmp_path: Path, words: tuple[str, ...]) -> None:
    folder = tmp_path / "stage"
    with holder(folder, *words) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        with sole_writer(folder, pytest.fail):
            assert folder.with_name("stage.lock").read_text().split()[1] == str(os.getpid())


def test_no_two_of_many_are_inside_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "stage")]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=240) for process in processes] == [0, 0, 0]


def test_a_file_that_its_holder_has_just_removed_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, tries = tmp_path / "stage.lock", list[TextIO]()

    def try_behind_another(file: TextIO) -> bool:
        if not tries:
            path.unlink()  # as a process does that leaves between our opening the file and locking it
        tries.append(file)
        return try_lock(file)

    monkeypatch.setattr(lock, "try_lock", try_behind_another)
    with sole_writer(tmp_path / "stage", pytest.fail):
        assert is_locked(path)
    assert len(tries) == 2


def test_an_error_inside_gives_the_folder_back(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), sole_writer(tmp_path / "stage", pytest.fail):
        raise ZeroDivisionError
    with sole_writer(tmp_path / "stage", pytest.fail):
        pass


def test_the_first_rank_holds_the_folder_for_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with holder(tmp_path / "stage"):
        for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK", "NODE_RANK"):
            with monkeypatch.context() as patch:
                patch.setenv(name, "1")
                with sole_writer(tmp_path / "stage", pytest.fail):
                    pass


@pytest.mark.usefixtures("without_locks")
def test_without_locks_a_file_keeps_others_out_and_that_is_said(tmp_path: Path) -> None:
    folder, lines = tmp_path / "stage", list[str]()
    with sole_writer(folder, lines.append):
        assert [path.name for path in tmp_path.iterdir()] == ["stage.owner"]
        assert "this file system has no locks; stage.owner beside it keeps a second run" in lines[0]
    assert not list(tmp_path.iterdir())
    folder.with_name("stage.owner").write_text("elsewhere 17\n")
    line = r"by process 17 on elsewhere, says \S+stage\.owner \(this file system has no locks\): .*, remove the file"
    with pytest.raises(RecipeError, match=line), sole_writer(folder, lines.append):
        pass
    alive = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    folder.with_name("stage.owner").write_text(f"{socket.gethostname()} {alive.pid}\n")
    with pytest.raises(RecipeError, match=rf"\bprocess {alive.pid} on "), sole_writer(folder, lines.append):
        pass
    alive.kill()
    alive.communicate()
    with sole_writer(folder, lines.append):  # now it is dead
        assert folder.with_name("stage.owner").read_text().split()[1] == str(os.getpid())
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_locks")
def test_of_two_that_take_over_one_holds_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    owner = tmp_path / "stage.owner"
    owner.write_text(f"{socket.gethostname()} {os.getpid()}\n")  # a process before this one had its number
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: owner.write_text("elsewhere 17\n"))
    with pytest.raises(RecipeError, match=r"\bprocess 17 on elsewhere\b"), sole_writer(tmp_path / "stage", pytest.fail):
        pass
    assert owner.read_text() == "elsewhere 17\n"
