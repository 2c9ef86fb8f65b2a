"""Probe that also decodes a media file, to find before a run what training would skip."""

from __future__ import annotations

import torch

from lightning_apollo.data.media import video as media
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.structures import MediaInfo, Modality

_SIZE = (32, 32)  # pixels; frames are decoded at native size whatever they are resized to


def probe_and_decode(path: str, modality: Modality) -> MediaInfo:
    """As `media.probe`, after decoding the whole picture, or one frame a second of a video and at most 180.

    MediaError for whatever training could not read of it at that rate.
    """
    info = media.probe(path, modality)
    is_video = info.modality == "video"
    moments = sample_timestamps(info, SamplingConfig()) if is_video else torch.zeros(1, dtype=torch.float64)
    media.decode(info, moments, _SIZE)
    return info
