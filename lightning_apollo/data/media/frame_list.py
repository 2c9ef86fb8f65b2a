"""A list of pictures as one video: picture k plays from second k/fps to (k+1)/fps. F frames · H, W pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lightning_apollo.data.media.picture import not_a_picture, probe_picture
from lightning_apollo.data.storage.address import FrameList, open_media
from lightning_apollo.structures import Frames, MediaError, MediaInfo

_CLOCK_FRAMES = 1e-6  # k/fps times fps may be less than k: a frame due within this share of it counts as playing


def probe_frames(address: str, frames: FrameList) -> MediaInfo:
    """Facts of the video from the headers of all pictures, which must be of one size; each may have a format of its own."""
    with _naming_the_list(address):
        first, *others = [_probe_frame(one) for one in frames.addresses]
        for other in others:
            if (other.height, other.width) != (first.height, first.width):
                raise MediaError(
                    other.path,
                    f"{other.width}×{other.height} pixels, but {first.path} has {first.width}×{first.height}: bring them "
                    "to one size",
                )
    num_frames = len(frames.addresses)
    return MediaInfo(
        path=address,
        modality="video",
        height=first.height,
        width=first.width,
        begin_seconds=0.0,
        duration_seconds=num_frames / frames.fps,
        num_frames=num_frames,
        fps=frames.fps,
        codec="frames",
    )


def read_frames(address: str, frames: FrameList, timestamps: Tensor, load: Callable[[str], Tensor]) -> Frames:
    """The pictures that play at `timestamps` (F,) seconds, which rise; `load` makes (1, 3, H, W) of an address."""
    numbers = (timestamps * frames.fps + _CLOCK_FRAMES).floor().long().clamp(max=len(frames.addresses) - 1)
    shown, places = numbers.unique(return_inverse=True)
    with _naming_the_list(address):
        pixels = torch.cat([load(frames.addresses[number]) for number in shown.tolist()])
    return Frames(pixels=pixels[places], pts_seconds=numbers.double() / frames.fps)


def _probe_frame(address: str) -> MediaInfo:
    file = open_media(address)
    picture = probe_picture(address, "image", file)
    if picture is None:
        raise not_a_picture(address, file)
    return picture


@contextmanager
def _naming_the_list(address: str) -> Iterator[None]:
    """Errors of one picture as errors of the list, which name both."""
    try:
        yield
    except MediaError as error:
        raise MediaError(address, f"its frame {error.path}: {error.reason}", error.kind) from error
