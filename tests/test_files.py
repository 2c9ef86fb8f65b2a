"""Files that appear whole or not at all, and locks that end with their process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.files import is_locked, lock, write_atomically


def test_what_is_written_takes_the_place_of_the_file_at_the_end_alone(tmp_path: Path) -> None:
    path = tmp_path / "ä file.json"
    path.write_text("before")
    with write_atomically(path) as partial:
        partial.write_text("after")
        assert partial.parent == tmp_path  # a rename between disks is a copy
        assert path.read_text() == "before"
    assert path.read_text() == "after"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there_and_nothing_beside_it(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(error):
        write_half(path, error)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "before"


def write_half(path: Path, error: type[BaseException]) -> None:
    with write_atomically(path) as partial:
        partial.write_text("half of")
        raise error


def test_two_writers_of_a_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with write_atomically(path) as first, write_atomically(path) as second:
        first.write_text("1")
        second.write_text("2")
    assert path.read_text() == "1"  # the outer one ends last
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_says_who_may_read_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with write_atomically(tmp_path / "file") as partial:
            partial.write_text("")
        with write_atomically(tmp_path / "secret") as partial:  # as libraries write that mean to be careful
            partial.unlink()
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL, 0o600))
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}


def test_a_lock_is_held_until_its_process_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    held = "import sys; from pathlib import Path; from lightning_apollo.files import lock\n"
    held += "with lock(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", held, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        assert is_locked(path)
        other.send_signal(signal.SIGKILL)
    assert not is_locked(path)
    with lock(path):  # would wait for ever
        assert is_locked(path)
