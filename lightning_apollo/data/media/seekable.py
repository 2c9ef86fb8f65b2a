"""Films open for seeks: with the frame table that spares the decoder its scan, or after that scan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_apollo.data.media.decoder import DecoderInput, open_decoder
from lightning_apollo.data.media.frame_table import FrameTable
from lightning_apollo.data.media.kept_tables import frame_table
from lightning_apollo.machine.video_libraries import load_torchcodec

if TYPE_CHECKING:  # at run time inside the functions, so that `doctor` works where torchcodec cannot load
    from torchcodec import FrameBatch  # pyright: ignore[reportPrivateImportUsage] (public, as all here, without __all__)
    from torchcodec.decoders import (
        VideoDecoder,  # pyright: ignore[reportPrivateImportUsage]
        VideoStreamMetadata,  # pyright: ignore[reportPrivateImportUsage]
    )


class TableDecoder:
    """torchcodec's VideoDecoder with a frame table, as `custom_frame_mappings` gives it one.

    That argument takes JSON, whose parsing costs half of the scan that it spares; below it are the tensors of here.
    """

    def __init__(self, source: DecoderInput, table: FrameTable, num_threads: int) -> None:
        from torchcodec._core._decoder_utils import create_video_decoder

        if not isinstance(source.file, str):
            source.file.seek(0)
        ticks = torch.from_numpy(table.ticks.copy())
        ends = torch.zeros_like(ticks)
        ends[-1] = table.end_ticks - ticks[-1]  # the only one that is looked at
        self._decoder, self.stream_index, self.metadata = create_video_decoder(
            source=source.file,
            seek_mode="custom_frame_mappings",
            num_ffmpeg_threads=num_threads,
            device="cpu",
            custom_frame_mappings=(ticks, torch.from_numpy(table.is_key_frame.copy()), ends),
        )

    def get_frames_played_at(self, seconds: Tensor) -> FrameBatch:
        from torchcodec import FrameBatch  # pyright: ignore[reportPrivateImportUsage]
        from torchcodec._core import get_frames_by_pts  # pyright: ignore[reportPrivateImportUsage]

        return FrameBatch(*get_frames_by_pts(self._decoder, timestamps=seconds))


@dataclass(frozen=True)
class SeekableFilm:
    """An open film and the time span of its packets, on the container's clock."""

    decoder: VideoDecoder | TableDecoder
    begin_seconds: float | None
    duration_seconds: float | None
    num_frames: int | None
    begins_with_key_frame: bool
    table: FrameTable | None  # None where the decoder has read all packets itself

    @property
    def metadata(self) -> VideoStreamMetadata:
        """Facts of the header."""
        return self.decoder.metadata


def open_film(path: str, source: DecoderInput, num_threads: int) -> SeekableFilm | None:
    """The file's best video stream; None where FFmpeg cannot seek in it."""
    load_torchcodec()
    table = frame_table(path, source)
    if table is not None:
        film = _with_table(source, table, num_threads)
        if film is not None:
            return film
    decoder = open_decoder(path, source.file, num_threads)
    if decoder is None:
        return None
    metadata, keys = decoder.metadata, decoder._get_key_frame_indices()
    begins = len(keys) > 0 and int(keys[0]) == 0
    times = metadata.begin_stream_seconds, metadata.duration_seconds
    return SeekableFilm(decoder, *times, metadata.num_frames, begins, None)


def _with_table(source: DecoderInput, table: FrameTable, num_threads: int) -> SeekableFilm | None:
    """The film as the table describes it; None where the decoder's own reading of the header gainsays it."""
    try:
        decoder = TableDecoder(source, table, num_threads)
    except (ValueError, RuntimeError):  # the decoder without a table says what is wrong
        return None
    begin, claimed = decoder.metadata.begin_stream_seconds_from_header, decoder.metadata.num_frames_from_header
    is_same = decoder.stream_index == table.stream_index and (not claimed or len(table) <= claimed)
    if not is_same or (source.container == "mp4" and begin is not None and begin != table.begin_seconds):
        return None
    length = table.end_seconds - table.begin_seconds
    return SeekableFilm(decoder, table.begin_seconds, length, len(table), bool(table.is_key_frame[0]), table)
