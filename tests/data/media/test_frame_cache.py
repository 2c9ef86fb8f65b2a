"""The frame cache: hits, misses and an epoch that decodes nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.media import frame_cache
from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.config import FrameCacheConfig
from lightning_apollo.data.media.frame_cache import CachedReader
from lightning_apollo.data.media.reader import DirectReader
from lightning_apollo.data.plan.planner import MicroBatchRequest
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage.roots import open_root
from lightning_apollo.structures import Frames, MediaError, MediaInfo, Modality, PackedBatch
from tests.media_files import write_clip
from tests.small_data import tiny_tokenizer, turns, write_pictures, write_rows

SIZE = (24, 80)


@dataclass(frozen=True)
class LoggedReader(DirectReader):
    """Write every call into a file, whatever process makes it."""

    log: Path = Path()

    def probe(self, address: str, modality: Modality | None) -> MediaInfo:
        self._write(f"probe {address}")
        return super().probe(address, modality)

    def decode(self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white") -> Frames:
        self._write(f"decode {info.path}")
        return super().decode(info, timestamps, size, background)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def _write(self, line: str) -> None:
        with self.log.open("a") as file:
            file.write(f"{line}\n")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return write_clip(tmp_path / "clip.mp4", 30, 10)


@pytest.fixture
def inner(tmp_path: Path) -> LoggedReader:
    return LoggedReader(log=tmp_path / "log")


@pytest.fixture
def reader(tmp_path: Path, inner: LoggedReader) -> CachedReader:
    return CachedReader(inner, FrameCacheConfig(str(tmp_path / "cache"), 0.1))


def read(reader: CachedReader, path: Path | str, step: float = 0.5) -> Frames:
    info = reader.probe(str(path), "video")
    assert info == media.probe(path, "video")
    return reader.decode(info, torch.arange(0, 2.5, step, dtype=torch.float64), SIZE)


def is_equal(first: Frames, second: Frames) -> bool:
    return torch.equal(first.pixels, second.pixels) and torch.equal(first.pts_seconds, second.pts_seconds)


def test_the_second_time_nothing_is_read_and_all_is_equal(
    reader: CachedReader, inner: LoggedReader, clip: Path
) -> None:
    expected = media.decode(clip, torch.arange(0, 2.5, 0.5), SIZE)
    first = read(reader, clip)
    assert inner.calls() == [f"probe {clip}", f"decode {clip}"]
    second = read(pickle.loads(pickle.dumps(reader)), clip)
    assert len(inner.calls()) == 2
    for frames in (first, second):
        assert is_equal(frames, expected)
    second.pixels.add_(1)  # the caller's own: the next one gets what was decoded
    assert is_equal(read(reader, clip), expected)
    assert (reader.num_hits, reader.num_decodes) == (1, 1)


def test_other_moments_sizes_and_names_of_the_same_file_are_other_frames(
    reader: CachedReader, inner: LoggedReader, tmp_path: Path
) -> None:
    animation = write_clip(tmp_path / "a.gif", 20, 10)
    as_video, as_image = (reader.probe(str(animation), modality) for modality in ("video", "image"))
    assert (as_video, as_image) == tuple(media.probe(animation, modality) for modality in ("video", "image"))
    moments = torch.tensor([0.0, 1.0], dtype=torch.float64)
    wanted = [
        (as_video, moments, SIZE),
        (as_video, moments, (32, 80)),
        (as_video, moments + 0.5, SIZE),
        (as_video, moments[:1], SIZE),
        (as_image, moments, SIZE),
    ]
    for _ in range(2):
        for about in wanted:
            assert is_equal(reader.decode(*about), media.decode(*about))
    assert (reader.num_hits, reader.num_decodes) == (len(wanted), len(wanted))


def test_a_file_that_lies_elsewhere_is_found_again(
    reader: CachedReader, inner: LoggedReader, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "tables"))
    expected = read(reader, clip)
    with tarfile.open(tmp_path / "a.tar", "w") as shard:
        shard.add(clip, "deep/clip.mp4")
    copy = Path(shutil.copy(clip, tmp_path / "copy.mp4"))
    moved = clip.rename(tmp_path / "moved.mp4")
    for address in (copy, moved, open_root(str(tmp_path / "a.tar")).address("deep/clip.mp4")):
        assert is_equal(read(reader, address), expected)
    assert len(inner.calls()) == 2


def test_a_file_that_changed_is_read_anew(reader: CachedReader, inner: LoggedReader, clip: Path) -> None:
    old = read(reader, clip)
    content = clip.read_bytes()
    write_clip(clip, 30, 10, "-vf", "negate")
    new = read(reader, clip)
    assert is_equal(new, media.decode(clip, torch.arange(0, 2.5, 0.5), SIZE))
    assert not is_equal(new, old)
    assert len(inner.calls()) == 4
    clip.write_bytes(content)  # what it held before is still there
    assert is_equal(read(reader, clip), old)
    assert len(inner.calls()) == 4


def test_a_file_that_is_touched_is_hashed_again_and_found(
    reader: CachedReader, inner: LoggedReader, clip: Path
) -> None:
    read(reader, clip)
    os.utime(clip, ns=(1, 1))
    read(reader, clip)
    assert len(inner.calls()) == 2


def test_frames_of_a_file_that_changes_meanwhile_are_not_kept(tmp_path: Path, clip: Path) -> None:
    """Frames decoded while the file changed belong to neither content for certain."""

    class Late(DirectReader):
        def decode(
            self, info: MediaInfo, timestamps: Tensor, size: tuple[int, int], background: str = "white"
        ) -> Frames:
            os.utime(info.path, ns=(1, 1))
            return super().decode(info, timestamps, size, background)

    reader = CachedReader(Late(), FrameCacheConfig(str(tmp_path / "cache"), 0.1))
    read(reader, clip)
    read(reader, clip)
    assert (reader.num_hits, reader.num_decodes) == (0, 2)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_damaged_entries_are_read_anew_and_replaced(
    reader: CachedReader, inner: LoggedReader, clip: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    expected = read(reader, clip)
    entries = list((tmp_path / "cache").glob("??/*"))
    assert len(entries) == 3  # the hash of the file, what its header says, its frames
    for path in entries:
        damage(path)
    assert is_equal(read(reader, clip), expected)
    assert len(inner.calls()) == 4
    assert is_equal(read(reader, clip), expected)
    assert len(inner.calls()) == 4


def test_other_decoders_decode_anew(
    reader: CachedReader, inner: LoggedReader, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read(reader, clip)
    monkeypatch.setattr(frame_cache, "version", lambda package: "99" if package == "torchcodec" else "1")
    other = CachedReader(inner, FrameCacheConfig(str(tmp_path / "cache"), 0.1))
    read(other, clip)
    assert (other.num_hits, other.num_decodes) == (0, 1)


def test_errors_are_those_of_the_inner_reader_and_are_not_kept(
    reader: CachedReader, clip: Path, tmp_path: Path
) -> None:
    info = reader.probe(str(clip), "video")
    with pytest.raises(ValueError, match=r"timestamps.*\[\d"):
        reader.decode(info, torch.tensor([2.0, 1.0]), SIZE)
    missing = tmp_path / "missing.mp4"
    with pytest.raises(MediaError, match="no such file"):
        reader.probe(str(missing), "video")
    missing.write_bytes(b"no film")
    for _ in range(2):
        with pytest.raises(MediaError, match="not a media file"):
            reader.probe(str(missing), "video")
    clip.unlink()
    with pytest.raises(MediaError, match="no such file"):
        reader.decode(info, torch.zeros(1), SIZE)
    assert (reader.num_hits, reader.num_decodes) == (0, 2)


def test_frames_larger_than_the_cache_pass_through(tmp_path: Path, inner: LoggedReader, clip: Path) -> None:
    reader = CachedReader(inner, FrameCacheConfig(str(tmp_path / "cache"), 2e-5))
    expected = read(reader, clip)
    assert is_equal(read(reader, clip), expected)
    assert (reader.num_hits, reader.num_decodes) == (0, 2)


@pytest.mark.parametrize(
    ("values", "reason"), [(("", 1.0), "names no folder"), (("a", 0.0), "must be more than 0, it is 0.0")]
)
def test_a_cache_without_a_place_or_room_is_refused(values: tuple[str, float], reason: str) -> None:
    with pytest.raises(ValueError, match=f"frame_cache.* {reason}"):
        FrameCacheConfig(*values)


def contents(batch: PackedBatch | None) -> list[object]:
    """Every value of a batch, tensors as bytes."""
    assert batch is not None
    values = [(batch, field.name) for field in fields(batch) if field.name != "visual"]
    values += [(batch.visual, field.name) for field in fields(batch.visual)]
    found = [getattr(owner, name) for owner, name in values]
    return [value.numpy().tobytes() if isinstance(value, Tensor) else value for value in found]


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_second_epoch_decodes_nothing_and_its_batches_are_bit_equal(
    num_workers: int, tmp_path: Path, inner: LoggedReader
) -> None:
    pictures = write_pictures(tmp_path, 4)
    for number in range(3):
        write_clip(tmp_path / f"{number}.mp4", 20 + 5 * number, 10)
    rows = [{"video": f"{number}.mp4", "conversations": turns("<video>?", "A number.")} for number in range(3)]
    clips = write_rows(tmp_path / "clips.jsonl", rows)
    source = open_source("all", SourceConfig([str(pictures), str(clips)], str(tmp_path)))
    budget = BudgetConfig(token_budget=64, min_tokens=4, max_length=512)
    plain = Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 2, budget=budget), reader=inner)
    cached = replace(plain, reader=CachedReader(inner, FrameCacheConfig(str(tmp_path / "cache"), 0.1)))
    requests = [MicroBatchRequest(0, 2 * number, [(0, number), (0, 6 - number)]) for number in range(7)]

    datasets = [ConversationDataset([source], preparer, seed=0, skips_bad=False) for preparer in (plain, cached)]
    uncached = [contents(datasets[0][request].batch) for request in requests]
    inner.log.unlink()
    loader = DataLoader(
        datasets[1],
        batch_size=None,
        sampler=requests,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="forkserver" if num_workers else None,
    )
    first = [contents(prepared.batch) for prepared in loader]
    num_calls = len(inner.calls())
    assert num_calls >= 14  # seven files, probed and decoded; two processes may both have met one
    second = [contents(prepared.batch) for prepared in loader]
    assert len(inner.calls()) == num_calls
    assert first == second == uncached
