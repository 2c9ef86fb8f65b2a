"""Fetched and kept blocks of an object, and requests that fail or hang."""

from __future__ import annotations

import os
import threading
import time
import tracemalloc
from collections.abc import Callable

import pytest

from lightning_apollo.data.storage import blocks, faults
from lightning_apollo.data.storage.blocks import Blocks
from lightning_apollo.data.storage.byte_range import ByteRange
from lightning_apollo.errors import MediaError

MIB = 2**20


class Tape:
    """An object whose byte at any place follows from the place, and which notes what is asked of it."""

    def __init__(self, size: int, mark: str = "first") -> None:
        self.size = size
        self.mark: str | None = mark
        self.spans: list[tuple[int, int]] = []
        self.errors: list[Exception] = []
        self.num_closed = 0

    def fetch(self, begin: int, end: int) -> bytes:
        self.spans.append((begin, end))
        if self.errors:
            raise self.errors.pop(0)
        return content(begin, end)

    def close(self) -> None:
        self.num_closed += 1


def content(begin: int, end: int) -> bytes:
    pattern = bytes(range(251))
    first = begin // 251
    return (pattern * ((end - begin) // 251 + 3))[begin - first * 251 :][: end - begin]


def open_blocks(address: str, open_file: Callable[[], Tape]) -> ByteRange:
    kept = Blocks(address, open_file)
    return ByteRange(kept.size, kept.read, kept.close)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.01)


def test_reads_in_one_go_ask_for_more_and_more_and_for_an_eighth_too_much_at_most() -> None:
    tape = Tape(64 * MIB)
    reader = open_blocks("x", lambda: tape)
    begin = 5 * MIB
    reader.seek(begin)
    for _ in range(20 * MIB // 65_536):
        place = reader.tell()
        assert reader.read(65_536) == content(place, place + 65_536)
    fetched = sum(end - begin for begin, end in tape.spans)
    assert fetched <= 20 * MIB * 9 / 8 + blocks.BLOCK_BYTES
    assert len(tape.spans) < 50
    assert [first[1] for first in tape.spans[:-1]] == [second[0] for second in tape.spans[1:]]
    assert max(end - begin for begin, end in tape.spans) <= blocks.MAX_REQUEST_BYTES


def test_a_large_read_is_few_requests() -> None:
    tape = Tape(16 * MIB + 3)
    reader = open_blocks("x", lambda: tape)
    buffer = bytearray(16 * MIB + 3)
    position = 0
    while position < len(buffer):
        position += reader.readinto(memoryview(buffer)[position:])
    assert buffer == content(0, 16 * MIB + 3)
    assert len(tape.spans) == 5
    assert tape.spans[-1] == (16 * MIB, 16 * MIB + 3)


def test_jumps_ask_for_a_block_each_and_come_back_for_nothing() -> None:
    tape = Tape(64 * MIB)
    reader = open_blocks("x", lambda: tape)
    for place in (40 * MIB, 3 * MIB, 60 * MIB, 40 * MIB + 5, 3 * MIB + 100_000):
        reader.seek(place)
        assert reader.read(100) == content(place, place + 100)
    assert tape.spans == [(place, place + blocks.BLOCK_BYTES) for place in (40 * MIB, 3 * MIB, 60 * MIB)]


def test_memory_of_an_open_object_is_bounded() -> None:
    reader = open_blocks("x", lambda: Tape(512 * MIB))
    tracemalloc.start()
    for place in range(0, 256 * MIB, MIB):
        reader.seek(place)
        reader.read(1000)
    reader.seek(256 * MIB)
    while reader.read(MIB):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 30 * MIB < peak <= blocks.KEPT_BYTES + 4 * blocks.MAX_REQUEST_BYTES
    reader.close()


def test_an_error_that_may_pass_is_tried_again_with_the_object_opened_anew() -> None:
    tapes = [Tape(MIB), Tape(MIB), Tape(MIB)]
    tapes[0].errors, tapes[1].errors = [ConnectionResetError("reset")], [TimeoutError("late")]
    opened = iter(tapes)
    reader = open_blocks("x", lambda: next(opened))
    assert reader.read(10) == content(0, 10)
    assert [tape.num_closed for tape in tapes] == [1, 1, 0]


def test_an_object_that_is_another_when_it_is_opened_anew_is_broken() -> None:
    first = Tape(MIB)
    first.errors = [ConnectionResetError("reset")]
    for second in (Tape(MIB, "second"), Tape(MIB + 1)):
        opened = iter([first, second])
        first.errors = [ConnectionResetError("reset")]
        with pytest.raises(MediaError, match="it changed while it was read") as caught:
            open_blocks("x", lambda opened=opened: next(opened)).read(10)
        assert caught.value.kind == "broken"


@pytest.mark.parametrize(
    ("error", "kind", "num_attempts"),
    [
        (FileNotFoundError("a"), "missing", 1),
        (PermissionError("a"), "forbidden", 1),
        (TimeoutError("a"), "slow", 4),
        (ConnectionRefusedError("a"), "unavailable", 4),
        (KeyError("a"), "broken", 1),
    ],
)
def test_errors_of_any_library_have_a_kind(error: Exception, kind: str, num_attempts: int) -> None:
    tape = Tape(MIB)
    tape.errors = [error] * 9
    reader = open_blocks("x://y", lambda: tape)
    with pytest.raises(MediaError) as caught:
        reader.read(10)
    assert (caught.value.kind, len(tape.spans)) == (kind, num_attempts)


def test_a_short_answer_is_no_content() -> None:
    tape = Tape(MIB)
    tape.fetch = lambda begin, end: content(begin, end - 1)
    with pytest.raises(MediaError, match="it came cut short") as caught:
        open_blocks("x", lambda: tape).read(10)
    assert caught.value.kind == "broken"


def test_a_request_that_hangs_costs_its_time_and_a_late_answer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SECONDS_EACH", 0.2)
    release = threading.Event()
    hanging, good = Tape(MIB), Tape(MIB)
    hanging.fetch = lambda begin, end: (release.wait(60), content(begin, end))[1]
    opened = iter([hanging, good])
    reader = open_blocks("x", lambda: next(opened))
    assert reader.read(10) == content(0, 10)
    release.set()
    reader.seek(blocks.BLOCK_BYTES * 2)
    assert reader.read(10) == content(blocks.BLOCK_BYTES * 2, blocks.BLOCK_BYTES * 2 + 10)


def test_all_attempts_together_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SECONDS_ALL", 0.5)
    monkeypatch.setattr(faults, "ATTEMPTS", 1000)
    began = time.monotonic()
    with pytest.raises(MediaError, match="took too long") as caught:
        faults.persist("x", lambda: time.sleep(30))
    assert time.monotonic() - began < 10
    assert caught.value.kind == "slow"


def test_waits_grow_and_are_not_the_same_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(faults.time, "sleep", waits.append)
    monkeypatch.setattr(faults, "FIRST_WAIT_SECONDS", 0.25)
    for _ in range(20):
        with pytest.raises(MediaError):
            faults.persist("x", _refuse)
    assert len(waits) == 60
    for number, base in enumerate((0.25, 0.5, 1.0)):
        some = waits[number::3]
        assert min(some) >= base / 2
        assert max(some) <= base * 3 / 2
        assert len(set(some)) > 10


def test_an_object_that_a_fork_inherits_is_opened_anew() -> None:
    tapes: list[Tape] = []
    reader = open_blocks("x", lambda: (tapes.append(Tape(MIB)), tapes[-1])[1])
    assert reader.read(4) == content(0, 4)
    process = os.fork()
    if process == 0:
        reader.seek(blocks.BLOCK_BYTES * 2)
        is_right = reader.read(4) == content(blocks.BLOCK_BYTES * 2, blocks.BLOCK_BYTES * 2 + 4) and len(tapes) == 2
        os._exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    assert len(tapes) == 1


def _refuse() -> None:
    raise ConnectionRefusedError("nobody there")
