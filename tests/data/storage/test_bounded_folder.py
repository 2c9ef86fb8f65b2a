"""A shared folder with a limit: eviction order, many writers and killed processes."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import multiprocessing
import os
import random
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from lightning_apollo.data.storage.bounded_folder import BoundedFolder

BLOCK = 4096  # what the smallest file takes


def content_of(name: str) -> bytes:
    """Some hundred to some ten thousand bytes that the name fixes."""
    generator = random.Random(name)
    return generator.randbytes(generator.randrange(100, 40_000))


def name_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def bytes_in(folder: Path) -> int:
    """Bytes of the folder at one moment: nobody takes room meanwhile, and a file that is being renamed counts once."""
    with (folder / "total").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        sizes = {}
        for path in folder.glob("??/*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            sizes[status.st_ino] = -(-status.st_size // BLOCK) * BLOCK
        return sum(sizes.values())


def use(folder: BoundedFolder, name: str, seconds_ago: float) -> None:
    """As if it had been used then."""
    used = time.time() - seconds_ago
    os.utime(folder.folder / name[:2] / name, (used, used))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path / "new", 10**6)
    assert folder.read("abc") is None
    assert folder.write("abc", [b"first", memoryview(b" and "), b"second"])
    assert folder.read("abc") == b"first and second"
    assert folder.write("abc", [b""])
    assert folder.read("abc") == b""
    assert BoundedFolder(tmp_path / "new", 10**6).num_bytes() == BLOCK


def test_the_least_recently_used_go_first(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 10 * BLOCK)
    names = [f"{number:02d}" for number in range(10)]
    for number, name in enumerate(names):
        assert folder.write(name, [bytes(100)])
        use(folder, name, seconds_ago=1000 - number)
    assert folder.read("00") is not None  # used now, and so the youngest
    assert folder.write("10", [bytes(100)])
    assert [name for name in [*names, "10"] if folder.read(name) is None] == ["01"]  # nine tenths are kept: 8 and 1 new
    assert folder.num_bytes() <= 10 * BLOCK


def test_what_alone_passes_the_limit_is_not_kept_and_costs_nobody_a_place(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 4 * BLOCK)
    assert folder.write("aa", [b"small"])
    assert not folder.write("bb", [bytes(4 * BLOCK)])
    assert folder.read("bb") is None
    assert folder.read("aa") == b"small"


@pytest.mark.parametrize("damage", ["cut", "empty", "zeros", "gone"])
def test_a_damaged_file_is_none_and_is_replaced(tmp_path: Path, damage: str) -> None:
    folder = BoundedFolder(tmp_path, 10**6)
    folder.write("abc", [content_of("abc")])
    path = tmp_path / "ab" / "abc"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": whole[:-1], "empty": b"", "zeros": bytes(len(whole))}[damage])
    assert folder.read("abc") is None
    assert folder.write("abc", [content_of("abc")])
    assert folder.read("abc") == content_of("abc")


def test_a_sum_that_was_lost_is_counted_anew(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 4 * BLOCK)
    for name in ("aa", "bb", "cc", "dd"):
        folder.write(name, [b"content"])
    (tmp_path / "total").write_text("")
    folder.write("ee", [b"content"])
    assert bytes_in(tmp_path) <= 4 * BLOCK


def test_a_full_disk_is_a_warning_and_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = BoundedFolder(tmp_path, 10**6)
    folder.write("aa", [b"before"])

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.warns(UserWarning, match=r"disk.*gigabytes"):
            assert not folder.write("bb", [b"more"])
    assert [path.name for path in tmp_path.glob("??/*")] == ["aa"]
    with pytest.raises(NotADirectoryError):
        BoundedFolder(tmp_path / "aa" / "aa", 10**6).write("cc", [b"other errors are not hidden"])


def test_a_file_that_another_process_takes_away_while_it_is_written_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = BoundedFolder(tmp_path, 10**6)
    replace = Path.replace

    def taken(path: Path, target: Path) -> Path:
        path.unlink()
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", taken)
    assert not folder.write("aa", [b"content"])
    assert folder.read("aa") is None


def _write_and_read(folder: BoundedFolder, seed: int, num_steps: int) -> int:
    """Use the folder as a loader process does; how often it found something."""
    generator, num_found = random.Random(seed), 0
    for _ in range(num_steps):
        name = name_of(generator.randrange(60))
        found = folder.read(name)
        if found is None:
            folder.write(name, [content_of(name)])
            continue
        assert found == content_of(name)
        num_found += 1
    return num_found


def test_the_limit_holds_under_many_writers(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 600_000)  # of 1.2 million bytes that they use
    tmp_path.joinpath("total").touch()
    # no Pool, which ends its processes by SIGTERM: those of a fork server that a loader started may be deaf to it
    with ProcessPoolExecutor(4, multiprocessing.get_context("forkserver")) as pool:
        results = [pool.submit(_write_and_read, folder, seed, 300) for seed in range(4)]
        sizes = [bytes_in(tmp_path)]
        while not all(result.done() for result in results):
            sizes.append(bytes_in(tmp_path))
        num_found = sum(result.result() for result in results)
    sizes.append(bytes_in(tmp_path))
    assert 300_000 < max(sizes) <= 600_000
    assert num_found > 100


def test_processes_that_are_killed_leave_a_usable_folder(tmp_path: Path) -> None:
    folder = BoundedFolder(tmp_path, 600_000)
    generator = random.Random(0)
    for seed in range(6):
        process = multiprocessing.get_context("forkserver").Process(
            target=_write_and_read, args=(folder, seed, 10**6), daemon=True
        )
        process.start()
        while not (tmp_path / "total").exists():
            time.sleep(0.01)
        time.sleep(generator.uniform(0.05, 0.2))
        process.kill()
        process.join()
        assert bytes_in(tmp_path) <= 600_000
    found = [name for name in map(name_of, range(60)) if folder.read(name) is not None]
    assert found
    assert all(folder.read(name) == content_of(name) for name in found)
    assert _write_and_read(folder, 7, 200) > 0
    assert bytes_in(tmp_path) <= 600_000
