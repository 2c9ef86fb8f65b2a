"""The order of frames and the key frames that an H.264 stream promises in its first bytes."""

from __future__ import annotations

from lightning_apollo.data.media.units import messages, units

_BASELINE = 66  # a profile without B-frames
_WITH_CHROMA = {44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 144, 244}  # profiles that say more of colours
_IDR, _MESSAGES = 5, 6  # kinds of units: a picture to which nothing ahead is needed, messages about the next one
_RECOVERY_POINT = 6  # a kind of message
_AS_STORED = 2  # pic_order_cnt_type of streams whose frames are shown in the order in which they are stored


def is_shown_as_stored(configuration: bytes) -> bool:
    """True if the content of an avcC box rules out that frames change their order; False where it leaves that open.

    ISO/IEC 14496-15 5.3.3 and ITU-T H.264 7.3.2.1.1.
    """
    num_bytes = int.from_bytes(configuration[6:8], "big")
    parameters = configuration[9 : 8 + num_bytes].replace(b"\0\0\3", b"\0\0")  # behind the header of the unit
    if len(configuration) < 8 + num_bytes or len(parameters) < 4:
        return False
    profile = parameters[0]
    if profile == _BASELINE:
        return True
    bits = _Bits(parameters[3:])
    bits.unsigned()  # seq_parameter_set_id
    if profile in _WITH_CHROMA:
        if bits.unsigned() == 3:  # chroma_format_idc
            bits.read(1)
        bits.unsigned()  # bit_depth_luma_minus8
        bits.unsigned()  # bit_depth_chroma_minus8
        if bits.read(2) & 1:  # scaling lists follow: not read here
            return False
    bits.unsigned()  # log2_max_frame_num_minus4
    return bits.unsigned() == _AS_STORED


class _Bits:
    """Bits from the left, and zeros behind the last."""

    def __init__(self, content: bytes) -> None:
        self._value = int.from_bytes(content, "big")
        self._num_left = 8 * len(content)

    def read(self, num_bits: int) -> int:
        self._num_left -= num_bits
        value = self._value >> self._num_left if self._num_left >= 0 else self._value << -self._num_left
        return value & ((1 << num_bits) - 1)

    def unsigned(self) -> int:
        """An Exp-Golomb code."""
        num_zeros = 0
        while self._num_left > 0 and not self.read(1):
            num_zeros += 1
        return (1 << num_zeros) - 1 + self.read(num_zeros)


def is_key_picture(sample: bytes, length_bytes: int = 4) -> bool:
    """True if decoding can begin with a sample of an MP4 file, of which the first bytes are enough.

    It has an IDR picture, or says in a message ahead of its picture that it is a point of recovery (ITU-T H.264 D.1.8).
    """
    for unit in units(sample, length_bytes):
        kind = unit[0] & 31
        if kind == _IDR or (kind == _MESSAGES and any(said == _RECOVERY_POINT for said, _ in messages(unit[1:]))):
            return True
        if 1 <= kind < _IDR:  # another picture
            return False
    return False
