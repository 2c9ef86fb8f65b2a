"""Decoded frames kept in a folder, so that a second epoch decodes nothing.

A key is made from the bytes of the media file, not from its address: moved, copied or packed into a shard, it is found
again; changed, it is another file. A file's bytes are hashed once, and again when its size or time of change is another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_apollo.data.media.config import FrameCacheConfig
from lightning_apollo.data.media.reader import MediaReader
from lightning_apollo.data.storage import address as storage
from lightning_apollo.data.storage.bounded_folder import BoundedFolder
from lightning_apollo.structures import Frames, MediaError, MediaInfo, Modality

_FORMAT_VERSION = "2"
_DECODERS = ("torchcodec", "torchvision", "pillow")  # whose versions are part of every key
_SECONDS_BYTES = 8  # of one presentation time


class CachedReader:
    """Another reader, asked only for what the folder does not hold. Errors are never kept."""

    def __init__(self, inner: MediaReader, config: FrameCacheConfig) -> None:
        self.inner = inner
        self.num_hits = 0  # decodes that the folder has answered, in this process
        self.num_decodes = 0  # that the inner reader was asked for, those that fail included
        self._folder = BoundedFolder(Path(config.folder), int(config.max_gigabytes * 1e9))
        self._versions = (_FORMAT_VERSION, *(version(package) for package in _DECODERS))

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        """As `media.probe`."""
        content = self._content(address)
        if content is None:
            return self.inner.probe(address, modality)  # which says what is wrong
        name = self._name("probe", content.digest, modality)
        found = self._folder.read(name)
        if found is not None:
            return MediaInfo(**{**json.loads(found), "path": address})
        info = self.inner.probe(address, modality)
        self._keep(address, content, name, [json.dumps(asdict(info)).encode()])
        return info

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        """As `media.decode`."""
        content = self._content(info.path)
        if content is None:
            return self._decode(info, timestamps, size, background)
        moments = timestamps.to(torch.float64).numpy().tobytes().hex()
        is_still = info.fps is None
        behind = background if is_still or storage.frame_list(info.path) else None
        name = self._name("frames", content.digest, is_still, behind, moments, size)
        found = self._folder.read(name)
        if found is not None:
            self.num_hits += 1
            return _frames(found, len(timestamps), size)
        frames = self._decode(info, timestamps, size, background)
        self._keep(info.path, content, name, [_bytes(frames.pts_seconds), _bytes(frames.pixels)])
        return frames

    def _decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str) -> Frames:
        self.num_decodes += 1
        return self.inner.decode(info, timestamps, size, background)

    def _content(self, address: str) -> _Content | None:
        """Current content of the file; None where it cannot be read."""
        pictures = storage.frame_list(address)
        if pictures is not None:
            return self._content_of_list(pictures, storage.file_state(address))
        state = storage.file_state(address)
        place = address if storage.is_object(address) else os.path.abspath(address)
        name = self._name("content", place, *state)
        found = self._folder.read(name)
        if found is not None:
            return _Content(found.decode(), state)
        try:
            with storage.open_address(address) as file:
                content = _Content(hashlib.file_digest(file, "sha256").hexdigest(), state)
        except MediaError:  # the inner reader finds it again, and says so
            return None
        self._keep(address, content, name, [content.digest.encode()])
        return content

    def _content_of_list(self, pictures: storage.FrameList, state: tuple[int, int]) -> _Content | None:
        contents = [self._content(address) for address in pictures.addresses]
        digests = [content.digest for content in contents if content is not None]
        key = json.dumps([pictures.fps, *digests]).encode()
        return _Content(hashlib.sha256(key).hexdigest(), state) if len(digests) == len(contents) else None

    def _keep(self, address: str, content: _Content, name: str, parts: Sequence[bytes | memoryview]) -> None:
        if storage.file_state(address) == content.state:  # it was not written to in the meantime
            self._folder.write(name, parts)

    def _name(self, *key: object) -> str:
        return hashlib.sha256(json.dumps([*self._versions, *key]).encode()).hexdigest()


class _Content(NamedTuple):
    """Content of a file, identified by size and time of change."""

    digest: str
    state: tuple[int, int]


def _bytes(values: Tensor) -> memoryview:
    return values.contiguous().view(-1).numpy().data.cast("B")


def _frames(content: bytearray, num_frames: int, size: tuple[int, int]) -> Frames:
    """The frames without a copy: both tensors lie in `content`."""
    pts_seconds = torch.frombuffer(content, dtype=torch.float64, count=num_frames)
    pixels = torch.frombuffer(content, dtype=torch.uint8, offset=_SECONDS_BYTES * num_frames)
    return Frames(pixels.view(num_frames, 3, *size), pts_seconds)
