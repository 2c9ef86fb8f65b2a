"""Units of H.264 and HEVC samples in MP4 files, and the messages that units hold (ISO/IEC 14496-15, ITU-T H.264 7.3.2.3)."""

from __future__ import annotations

from collections.abc import Iterator


def units(sample: bytes, length_bytes: int) -> Iterator[bytes]:
    """The units of a sample, each with its header; the last one may be cut short with the sample."""
    place = 0
    while place + length_bytes < len(sample):
        num_bytes = int.from_bytes(sample[place : place + length_bytes], "big")
        if num_bytes:
            yield sample[place + length_bytes : place + length_bytes + num_bytes]
        place += length_bytes + num_bytes


def messages(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Kind and content of each message of a unit; `content`: of the unit behind its header."""
    content, place = content.replace(b"\0\0\3", b"\0\0"), 0
    while place + 2 < len(content):
        numbers = []
        for _ in range(2):  # kind and length, in bytes that are summed up
            number = 0
            while place < len(content) and content[place] == 255:
                number, place = number + 255, place + 1
            numbers.append(number + (content[place] if place < len(content) else 0))
            place += 1
        kind, num_bytes = numbers
        yield kind, content[place : place + num_bytes]
        place += num_bytes
