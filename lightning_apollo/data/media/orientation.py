"""Display orientation inside coded frames: a message of H.264 and HEVC ahead of a picture.

ITU-T H.264 D.1.27 and H.265 D.2.17. FFmpeg's decoders do not turn by it, and FFmpeg's command turns those frames alone that
bring the message, which are key frames.
"""

from __future__ import annotations

from lightning_apollo.data.media.units import messages, units

_ORIENTATION = 47  # a kind of message


def is_turned(sample: bytes, length_bytes: int, is_hevc: bool) -> bool:
    """True if a message turns or mirrors the picture of a sample of an MP4 file, of which the first bytes are enough."""
    for unit in units(sample, length_bytes):
        kind = unit[0] >> 1 & 63 if is_hevc else unit[0] & 31
        if kind == (39 if is_hevc else 6):
            for said, content in messages(unit[2 if is_hevc else 1 :]):
                if said == _ORIENTATION and len(content) >= 3:
                    bits = int.from_bytes(content[:3], "big")  # an end, two mirrors, and a turn in parts of 2^16
                    return not bits >> 23 and bool(bits >> 5 & (2**18 - 1))
        if kind < 32 if is_hevc else 1 <= kind <= 5:  # a picture
            return False
    return False
