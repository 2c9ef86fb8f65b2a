"""Packed frame tables against the tables that they were made of."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from lightning_apollo.data.media.frame_table import FrameTable, pack_table, unpack_table


def table(ticks: list[int] | range | np.ndarray, keys: list[int] | range, end: int | None = None) -> FrameTable:
    times = np.asarray(ticks, np.int64)
    is_key = np.zeros(len(times), np.bool_)
    is_key[list(keys)] = True
    return FrameTable(1, (1, 90000), times, is_key, int(times[-1]) + 1 if end is None else end)


def random_table(num_frames: int) -> FrameTable:
    """A rate that varies without any order, as of a screen recorder, on a clock of a thousand a second."""
    chance = np.random.default_rng(0)
    return table(np.cumsum(chance.integers(1, 500, num_frames)), range(0, num_frames, 250))


TABLES = {
    "constant": table(range(0, 3000 * 300, 3000), range(0, 300, 30)),
    "one frame": table([7], [0]),
    "no key frame": table([0, 1, 2], []),
    "before zero": table([-5, 0, 2**40], [1], end=2**41),
    "wide steps": table([0, 300, 2**33], [0, 2]),
    "random": random_table(5000),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_comes_back_whole(name: str) -> None:
    expected = TABLES[name]
    found = unpack_table(pack_table(expected))
    assert found is not None
    assert found.ticks.tolist() == expected.ticks.tolist()
    assert found.is_key_frame.tolist() == expected.is_key_frame.tolist()
    assert (found.end_ticks, found.time_base, found.stream_index) == (expected.end_ticks, (1, 90000), 1)


def test_seconds_are_ticks_of_the_time_base() -> None:
    found = table([-90000, 0, 45000], [1, 2], end=90000)
    assert found.seconds.tolist() == [-1.0, 0.0, 0.5]
    assert (found.begin_seconds, found.end_seconds, found.key_seconds.tolist()) == (-1.0, 1.0, [0.0, 0.5])


@pytest.mark.parametrize(("num_frames", "gop"), [(25 * 3600, 50), (30 * 3600, 250), (30 * 3600, 12)])
def test_an_hour_at_a_constant_rate_takes_nearly_nothing(num_frames: int, gop: int) -> None:
    assert len(pack_table(table(np.arange(num_frames) * 3000, range(0, num_frames, gop)))) < 2000


def test_an_hour_of_the_least_even_film_takes_under_three_bytes_a_frame() -> None:
    assert len(pack_table(random_table(108_000))) < 3 * 108_000


def test_a_clip_of_300_frames_takes_under_half_a_byte_a_frame() -> None:
    assert len(pack_table(TABLES["constant"])) < 150


@pytest.mark.parametrize("ticks", [[0, 0], [1, 0], []])
def test_times_that_do_not_rise_make_no_table(ticks: list[int]) -> None:
    with pytest.raises(ValueError, match=r"rise|0 times"):
        FrameTable(0, (1, 10), np.array(ticks, np.int64), np.zeros(len(ticks), np.bool_), 10)


def test_a_table_of_another_version_is_none() -> None:
    assert unpack_table(b"\xfe" + pack_table(TABLES["constant"])[1:]) is None


@pytest.mark.parametrize("change", ["short", "no rows", "more frames", "behind the last"])
def test_what_is_no_table_is_refused(change: str) -> None:
    content = bytearray(pack_table(TABLES["constant"]))
    if change == "short":
        del content[20:]
    elif change == "no rows":
        content[-20:] = bytes(20)
    elif change == "more frames":
        struct.pack_into("<I", content, 4, 301)
    else:
        content = bytearray(pack_table(table([0, 1], [])))
        content[:] = pack_table(table([0, 1, 2], [2]))
        struct.pack_into("<I", content, 4, 3)
        struct.pack_into("<Q", content, 8, 3)
    with pytest.raises(ValueError, match="a table"):
        unpack_table(content)
