"""File types by their first bytes, checked before FFmpeg opens a training file or an upload.

FFmpeg opens more than containers: a playlist (HLS, DASH, concat, SDP) names other files and addresses, and would show what
lies elsewhere. So only what begins like a container, and nowhere says a playlist's words, reaches it.
"""

from __future__ import annotations

import re
from typing import BinaryIO

_HEAD_BYTES = 4096
_PROBED_BYTES = 2**20  # FFmpeg looks for playlists in as many

_CONTAINERS = {
    "mp4": rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot|styp|sidx|moof)",  # MP4, MOV, 3GP
    "matroska": rb"\x1a\x45\xdf\xa3",  # and WebM
    "avi": rb"RIFF.{4}AVI\x20",
    "mpegts": rb"\x47(.{187}\x47){4}|.{4}\x47(.{191}\x47){4}|\x47(.{203}\x47){4}",  # TS, M2TS, TS with checksums
    "mpeg": rb"\x00\x00\x01\xba",  # MPEG program stream
    "mpegvideo": rb"\x00\x00\x01\xb3",  # raw MPEG-1 and MPEG-2
    "vc1": rb"\x00\x00\x01\x0f",
    "m4v": rb"\x00\x00\x01(\xb0|[\x00-\x1f]\x00\x00\x01)",  # raw MPEG-4 part 2
    "annexb": rb"\x00\x00\x00?\x01[\x01\x06\x07\x09\x21\x25\x26\x27\x28\x2a\x40\x42\x44\x46\x4e\x61\x65\x67\x68]",
    "obu": rb"\x12\x00\x0a",  # raw AV1: a temporal delimiter, then a sequence header
    "flv": rb"FLV\x01",
    "ogg": rb"OggS",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11",  # and WMV
    "mxf": rb"\x06\x0e\x2b\x34\x02\x05\x01\x01\x0d\x01\x02\x01\x01",
    "realmedia": rb"\.RMF\x00",
    "nut": rb"nut/multimedia container\x00",
    "ivf": rb"DKIF\x00\x00",
    "y4m": rb"YUV4MPEG2\x20",
    "dv": rb"\x1f\x07\x00",
    "wtv": rb"\xb7\xd8\x00\x20\x37\x49\xda\x11\xa6\x4e\x00\x07\xe9\x5e\xad\x8d",
    "swf": rb"[FC]WS[\x01-\x32]",
    "flic": rb".{4}[\x11\x12]\xaf",
    "gif": rb"GIF8[79]a",
    "png": rb"\x89PNG\r\n\x1a\n",  # an animated one plays
    "mjpeg": rb"\xff\xd8\xff",
    "others": rb"BBCD|NSVf|BIK[bfghi]|KB2[adfghi]|SMK[24]|RIFF.{4}AMV\x20",  # Dirac, Nullsoft, Bink, Smacker, AMV
    # sound alone, which FFmpeg finds no video in
    "sound": rb"ID3[\x02-\x04]|\xff[\xf1\xf9\xfa\xfb]|\x0b\x77|(RIFF|RF64).{4}WAVE|fLaC|FORM.{4}AIF|caff|\#!AMR",
}
_KNOWN = re.compile(b"|".join(b"(?P<%s>%s)" % (name.encode(), form) for name, form in _CONTAINERS.items()), re.DOTALL)
_TUNED_IN = re.compile(rb".{0,203}?(?:\x47(.{187}\x47){7}|\x47(.{191}\x47){7}|\x47(.{203}\x47){7})", re.DOTALL)
_PICTURES = re.compile(rb"\x89PNG|\xff\xd8\xff|GIF8|BM|RIFF.{4}WEBP", re.DOTALL)
_PLAYLIST = re.compile(
    rb"\A\s*(\xef\xbb\xbf)?\s*(\#extm3u|ffconcat|\#\x20vobsub)|<mpd|<compositionplaylist|<assetmap|(^|[\n\r])c=in\x20ip"
)


def read_head(file: BinaryIO) -> bytes:
    """First bytes of the file for `container_of`; the file is left open there."""
    head = file.read(_HEAD_BYTES)
    if b"\0" not in head:
        head += file.read(_PROBED_BYTES)
    file.seek(0)
    return head


def container_of(head: bytes) -> str | None:
    """The container whose files begin like `head`; None where it is of none, or a playlist."""
    if is_playlist(head):
        return None
    known = _KNOWN.match(head)
    if known is not None:
        return known.lastgroup
    # a recording may begin inside a packet; text never does
    return "mpegts" if _TUNED_IN.match(head) and not head[:64].isascii() else None


def is_playlist(head: bytes) -> bool:
    """A text that names other files: as FFmpeg, which reads it from the beginning to the first zero byte."""
    return _PLAYLIST.search(head.split(b"\0", 1)[0].lower()) is not None


def is_picture(head: bytes) -> bool:
    """True if the file begins like one of the pictures that the web page takes."""
    return _PICTURES.match(head) is not None
