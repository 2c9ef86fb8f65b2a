"""Files that appear whole or not at all, and locks that end with their process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.files import is_locked, lock, remove_partials, write_atomically, write_folder_atomically


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


def test_a_folder_appears_under_its_name_once_all_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "costs" / "ä"
    with write_folder_atomically(folder) as partial:
        (partial / "rows").write_text("1")
        assert partial.parent == folder.parent
        assert not folder.exists()
    assert (folder / "rows").read_text() == "1"
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_nothing_of_a_folder(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        write_half_of_a_folder(tmp_path / "folder", error)
    assert list(tmp_path.iterdir()) == []


def write_half_of_a_folder(folder: Path, error: type[BaseException]) -> None:
    with write_folder_atomically(folder) as partial:
        (partial / "half").write_text("half of")
        raise error


def test_the_folder_of_a_faster_writer_stays(tmp_path: Path) -> None:
    folder = tmp_path / "folder"

    def write(rows: str, beside: bool) -> None:
        with write_folder_atomically(folder) as partial:
            (partial / "rows").write_text(rows)
            if beside:
                write("faster", beside=False)

    with pytest.raises(FileExistsError, match=str(folder)):
        write("slower", beside=True)
    assert (folder / "rows").read_text() == "faster"
    assert list(tmp_path.iterdir()) == [folder]


def test_partials_of_one_name_are_removed_alone(tmp_path: Path) -> None:
    mine, other, odd = (tmp_path / f"{name}.partial" for name in (f"set.{'a1' * 16}", f"set.2.{'a1' * 16}", "set"))
    for folder in (mine, other, odd):
        folder.mkdir()
        (folder / "half").write_text("")
    remove_partials(tmp_path, "set")
    assert sorted(tmp_path.iterdir()) == sorted([other, odd])
    remove_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [odd]


def test_a_locked_file_can_be_read_and_written(tmp_path: Path) -> None:
    for text in ("1", "12"):
        with lock(tmp_path / "total") as file:
            file.write(text)
    with lock(tmp_path / "total") as file:
        file.seek(0)
        assert file.read() == "112"


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
