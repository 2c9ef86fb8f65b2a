"""FFmpeg decoding through torchcodec, with the true reason of each failure.

torchcodec's `VideoDecoder` seeks by times, and so depends on them. `frames_in_order` depends on nothing: it hands every packet
to the decoder, as FFmpeg's own command does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, cast

from lightning_apollo.data.media.signatures import container_of, is_playlist, read_head
from lightning_apollo.data.storage.address import Readable, open_address, open_media, open_unnamed
from lightning_apollo.machine.video_libraries import load_torchcodec
from lightning_apollo.structures import MediaError

if TYPE_CHECKING:  # at run time inside the functions, so that `doctor` works where torchcodec cannot load
    from torchcodec.decoders import (
        ContainerMetadata,  # pyright: ignore[reportPrivateImportUsage] (public, as all here, without __all__)
        Demuxer,  # pyright: ignore[reportPrivateImportUsage]
        RawFrame,  # pyright: ignore[reportPrivateImportUsage]
        VideoDecoder,  # pyright: ignore[reportPrivateImportUsage]
        VideoStream,  # pyright: ignore[reportPrivateImportUsage]
    )

DISCONTINUOUS = {"mpegts", "mpeg"}  # containers of broadcasts, whose clock may be set anew on the way
LEAP_SECONDS = 10.0  # FFmpeg's command takes out of them a leap ahead by more

_PATTERN_CHARACTERS = "%*?[{"  # in a name, FFmpeg may take them for a pattern of several pictures' names
_RESET_SECONDS = 1.0  # by which a clock falls back when it is set anew; less is a time that is wrong
_NOT_MEDIA = "not a media file that FFmpeg can open"
_LAST_SECONDS = 4e9  # the end of this century, for cameras whose clock is the date; far below a time that is missing


class DecoderInput(NamedTuple):
    """Input of FFmpeg (an absolute path, which is no protocol, or an open file) and its container."""

    file: Readable
    container: str


def open_container(path: str, file: Readable | None = None) -> DecoderInput:
    """The file, as long as it begins like a container. MediaError where it does not. `file`: what `open_media` made of it."""
    file = open_media(path) if file is None else file
    if not isinstance(file, str):
        file.seek(0)
        head = read_head(file)
    else:
        with open_address(path) as opened:
            head = read_head(opened)
        has_pattern = any(character in file for character in _PATTERN_CHARACTERS)
        file = open_unnamed(path) if has_pattern else str(Path(file).absolute())
    container = container_of(head)
    if container is None:
        playlist = "a playlist, which names other files: give the films that it names"
        raise MediaError(path, playlist if is_playlist(head) else _NOT_MEDIA)
    return DecoderInput(file, container)


@contextmanager
def reading(path: str, file: Readable) -> Iterator[BinaryIO]:
    """The input of FFmpeg for reading from its start; of an open file the same one, whose blocks are not fetched twice."""
    if isinstance(file, str):
        with open_address(path) as opened:
            yield opened
    else:
        file.seek(0)
        yield file


def open_decoder(path: str, file: Readable, num_threads: int) -> VideoDecoder | None:
    """The file's best video stream with the time of every packet read; None where FFmpeg cannot seek in it."""
    decoders = _decoders()
    if not isinstance(file, str):
        file.seek(0)
    try:
        return decoders.VideoDecoder(file, seek_mode="exact", num_ffmpeg_threads=num_threads)
    except ValueError:
        raise MediaError(path, _why_no_video(file)) from None
    except RuntimeError as error:
        if "Could not seek" in str(error):
            return None
        raise MediaError(path, _reason(error)) from error


def open_demuxer(path: str, file: Readable) -> Demuxer:
    """The packets of the file's best video stream."""
    decoders = _decoders()
    if not isinstance(file, str):
        file.seek(0)
    try:
        return decoders.Demuxer(file)
    except ValueError:
        raise MediaError(path, _why_no_video(file)) from None
    except RuntimeError as error:
        raise MediaError(path, _reason(error)) from error


def video_stream(demuxer: Demuxer) -> VideoStream:
    """The one stream that `open_demuxer` follows."""
    return cast("VideoStream", demuxer.streams[0])


def container_metadata(file: Readable) -> ContainerMetadata:
    """Header facts of a file that no decoder is open for."""
    if not isinstance(file, str):
        file.seek(0)
    return _decoders().get_container_metadata(file)


def frames_in_order(path: str, demuxer: Demuxer, num_threads: int, is_lenient: bool) -> Iterator[RawFrame]:
    """Every frame of the stream, in the order of decoding.

    Before the first one, what cannot be decoded is left out: a recording may begin between two key frames. Later that is
    a MediaError, unless `is_lenient`, for files that were joined.
    """
    decoder = video_stream(demuxer).make_decoder("cpu", num_ffmpeg_threads=num_threads)
    last: RawFrame | None = None
    while True:
        frames, packet = [], None
        try:
            packet = next(demuxer, None)
            frames = decoder.drain() if packet is None else decoder.decode(packet)
        except RuntimeError as error:
            if last is not None and not is_lenient:
                raise MediaError(path, f"corrupt: no frame can be decoded after {last.pts_seconds:.2f} s") from error
        for last in frames:
            yield last
        if packet is None:
            return


class ShownFrame(NamedTuple):
    """A frame as the decoder has it, and when it is shown."""

    raw: RawFrame
    begin: float  # seconds
    end: float


def with_rising_times(frames: Iterator[RawFrame], start: float, fps: float, has_leaps: bool) -> Iterator[ShownFrame]:
    """The frames on a clock that always rises, as FFmpeg's command mends it: where a time is missing or too early, the
    frame follows the one ahead of it; where the clock is set back, or with `has_leaps` leaps ahead, the rest is moved."""
    end, last, offset = start, -math.inf, 0.0
    for frame in frames:
        begin = frame.pts_seconds + offset
        step = begin - last if last > -math.inf else math.inf
        if not is_time(frame.pts_seconds) or -_RESET_SECONDS < step <= 0:
            begin = end
        elif step <= 0 or (has_leaps and LEAP_SECONDS < step < math.inf):
            begin, offset = end, end - frame.pts_seconds
        length = frame.duration_seconds
        end, last = begin + (length if 0 < length <= LEAP_SECONDS else 1 / fps), begin
        yield ShownFrame(frame, begin, end)


def is_time(seconds: float | None) -> bool:
    """True if it can be a presentation time: FFmpeg's sign of a missing one is far below."""
    return seconds is not None and math.isfinite(seconds) and abs(seconds) < _LAST_SECONDS


def _decoders() -> ModuleType:
    load_torchcodec()
    return import_module("torchcodec.decoders")


def _why_no_video(file: Readable) -> str:
    codecs = [stream.codec for stream in container_metadata(file).streams if stream.media_type == "video"]
    if not codecs:
        return "no video stream"
    if codecs[0] in (None, "none"):
        return "a video stream of a codec that FFmpeg does not know"
    return f"a video stream of the codec {codecs[0]}, which this FFmpeg cannot decode"


def _reason(error: RuntimeError) -> str:
    """Error text of the decoder, without the places in its own source."""
    message = str(error).strip().splitlines()[0]
    if "Could not open input" in message:
        return _NOT_MEDIA
    if "FrameDims" in message:
        return f"{_NOT_MEDIA}: its decoder takes no frames of the size that the header says"
    return f"FFmpeg cannot read it: {message.split('.cpp:')[-1].partition(', ')[2] or message}"
