"""Frozen dataclasses that cross file boundaries, checked once when they are built.

Letters of shapes, the same in every file:
F frames of one item · H, W pixels · B bytes (flat uint8 pixels) · V visual items (one image or one video each)
N patches · M visual tokens before reduction · T text tokens, placeholders included
K clips of one item · S samples packed into one sequence · C channels (3)

A run is what stands together in the text, as a run of placeholders: the tokens of one frame where an encoder takes
frames (VideoLLaMA 3), those of one clip where it takes clips (Apollo).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

from lightning_apollo.errors import MediaError as MediaError
from lightning_apollo.errors import UserError

if TYPE_CHECKING:  # recipes name modalities and clips, and are read without torch
    import torch
    from torch import Tensor

IGNORE_INDEX = -100  # the label of a token that no loss is taken on (PyTorch's own default)

Modality = Literal["image", "video"]
SampleModality = Literal["text", "image", "multi_image", "video"]
SAMPLE_MODALITIES: tuple[SampleModality, ...] = get_args(SampleModality)


class WeightsError(UserError, ValueError):
    """Weights that are not there or do not fit the recipe's model; one line that names them."""


@dataclass(frozen=True)
class MediaInfo:
    """Facts in the header of a file, or of its frames where the header cannot be believed."""

    path: str
    modality: Modality
    height: int  # pixels as a player shows them: upright and square
    width: int
    begin_seconds: float  # presentation time of the first frame; not 0 for a shifted start
    duration_seconds: float  # from the first frame to the end of the last; 0 for an image
    num_frames: int
    fps: float | None  # average; None for an image
    codec: str
    rotation_degrees: int = 0  # 0, 90, 180 or 270, counter-clockwise: what decoding turns the stored frames by
    clock_start_seconds: float = (
        0.0  # where a player's clock reads 0, on the container's: the first of its streams begins
    )
    is_mirrored: bool = False  # decoding mirrors the stored frames left to right, before it turns them
    is_read_in_order: bool = False  # no seek finds its frames: all of them are decoded, see data/media/video_checks.py

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1 or self.num_frames < 1:
            raise ValueError(f"{self.path}: {self.num_frames} frames of {self.height}×{self.width} pixels")


@dataclass(frozen=True)
class Frames:
    """Decoded frames at their target size, and when each of them begins: as `decode` has read it from the container, or in
    a VisualItem on the clock of the prompt."""

    pixels: Tensor  # (F, C, H, W) uint8
    pts_seconds: Tensor  # (F,) float64, not decreasing, but where a clip begins before the one ahead of it ends

    def __post_init__(self) -> None:
        import torch

        if self.pixels.ndim != 4 or self.pixels.shape[1] != 3 or self.pixels.dtype != torch.uint8:
            raise ValueError(f"frames are (F, 3, H, W) uint8, not {tuple(self.pixels.shape)} {self.pixels.dtype}")
        if self.pts_seconds.shape != self.pixels.shape[:1]:
            raise ValueError(f"{self.pixels.shape[0]} frames with {self.pts_seconds.numel()} presentation times")

    def __len__(self) -> int:
        return self.pixels.shape[0]


@dataclass(frozen=True)
class ClipShape:
    """Shape of clips for an encoder: `num_frames` frames become `num_tokens` visual tokens, whatever their size."""

    num_frames: int
    num_tokens: int
    image_size: int  # pixels of a frame's longer side; the encoder pads the shorter one

    def __post_init__(self) -> None:
        if min(self.num_frames, self.num_tokens, self.image_size) < 1:
            raise ValueError(f"a clip has at least one frame, token and pixel, not {self}")


@dataclass(frozen=True)
class VisualItem:
    """One image or video of a sample, ready to be packed. An image is one frame without a time in the text."""

    frames: Frames
    modality: Modality
    merge_size: int  # side of the square of patches that becomes one visual token; 1 where the encoder takes clips
    path: str = ""
    clip: ClipShape | None = None  # None: the encoder takes frames one by one
    spans_seconds: Tensor | None = None  # (K, 2) float64: begin and end of every clip of a video
    duration_seconds: float = 0.0  # of the whole video, shown or not
    zero_seconds: float = 0.0  # where a player's clock reads 0, on that of the times above
    has_frame_turns: bool = False  # of a stream: every frame is a turn of its own

    def __post_init__(self) -> None:
        num_frames = len(self.frames)
        if self.clip is not None and num_frames > 1 and num_frames % self.clip.num_frames:
            raise ValueError(f"{self.path}: {num_frames} frames are no whole clips of {self.clip.num_frames}")
        if self.spans_seconds is not None and self.spans_seconds.shape != (self.num_runs, 2):
            raise ValueError(f"{self.path}: spans of shape {tuple(self.spans_seconds.shape)} for {self.num_runs} clips")

    @property
    def num_runs(self) -> int:
        """Frames, or clips where the encoder takes clips; a single frame stands for a whole clip of itself."""
        num_frames = len(self.frames)
        return num_frames if self.clip is None else max(1, num_frames // self.clip.num_frames)

    def grid(self, patch_size: int) -> tuple[int, int, int]:
        """Frames, rows and columns in patches, before merging."""
        num_frames, _, height, width = self.frames.pixels.shape
        side = patch_size * self.merge_size
        if height % side or width % side:
            raise ValueError(f"{self.path}: {height}×{width} pixels are no multiple of {side} (patch × merge)")
        return num_frames, height // patch_size, width // patch_size

    def tokens_per_run(self, patch_size: int) -> int:
        """Visual tokens of a frame, or of a clip, before reduction."""
        if self.clip is not None:
            return self.clip.num_tokens
        _, rows, columns = self.grid(patch_size)
        return rows * columns // self.merge_size**2

    def num_visual_tokens(self, patch_size: int) -> int:
        return self.num_runs * self.tokens_per_run(patch_size)


@dataclass(frozen=True)
class Sample:
    """One conversation as token ids, with its media in the order of their placeholder runs."""

    sample_id: str  # source and row: "llava.json:17"
    source: str  # name of the source in the recipe
    input_ids: Tensor  # (T,) int64; one placeholder id per visual token, before reduction
    labels: Tensor  # (T,) int64; IGNORE_INDEX where no loss is taken
    is_placeholder: Tensor  # (T,) bool
    visuals: tuple[VisualItem, ...]
    patch_size: int

    def __post_init__(self) -> None:
        if not self.input_ids.shape == self.labels.shape == self.is_placeholder.shape:
            raise ValueError(f"{self.sample_id}: ids, labels and placeholders differ in length")
        placeholders = int(self.is_placeholder.sum())
        tokens = sum(item.num_visual_tokens(self.patch_size) for item in self.visuals)
        if placeholders != tokens:
            raise ValueError(f"{self.sample_id}: {placeholders} placeholders for {tokens} visual tokens")
        if bool((self.labels[self.is_placeholder] != IGNORE_INDEX).any()):
            raise ValueError(f"{self.sample_id}: a placeholder carries a label")

    @property
    def modality(self) -> SampleModality:
        """Modality of the sample: a video counts before images."""
        if any(item.modality == "video" for item in self.visuals):
            return "video"
        return ("text", "image", "multi_image")[min(len(self.visuals), 2)]

    @property
    def num_labels(self) -> int:
        """Labelled tokens that a causal model can predict: all but one on the very first position."""
        return int((self.labels[1:] != IGNORE_INDEX).sum())


@dataclass(frozen=True)
class VisualBatch:
    """All media of a batch as one flat run of bytes. Sizes stay on the host, so that no shape needs a device read."""

    pixels: Tensor  # (B,) uint8; item after item, each (F, C, H, W) in memory
    sizes: Tensor  # (V, 3) int64 on the CPU: frames, height, width in pixels
    merge_sizes: Tensor  # (V,) int64 on the CPU
    patch_size: int
    clip: ClipShape | None = None  # of all items alike; None: the encoder takes frames one by one

    def __post_init__(self) -> None:
        num_bytes = int(self.sizes.prod(dim=1).sum()) * 3
        if self.pixels.numel() != num_bytes:
            raise ValueError(f"{self.pixels.numel()} bytes of pixels for sizes that need {num_bytes}")
        if self.merge_sizes.shape != self.sizes.shape[:1]:
            raise ValueError(f"{self.sizes.shape[0]} items with {self.merge_sizes.numel()} merge sizes")

    @classmethod
    def from_items(cls, items: Sequence[VisualItem], patch_size: int) -> VisualBatch:
        """Pack items one after the other; no item at all gives an empty batch, which every op accepts."""
        import torch

        clips = {item.clip for item in items}
        if len(clips) > 1:
            raise ValueError(f"items of one batch are clips of one shape, not {clips}")
        flat = [item.frames.pixels.reshape(-1) for item in items]
        shapes = [(len(item.frames), *item.frames.pixels.shape[2:]) for item in items]
        return cls(
            pixels=torch.cat(flat) if flat else torch.empty(0, dtype=torch.uint8),
            sizes=torch.tensor(shapes, dtype=torch.int64).reshape(-1, 3),
            merge_sizes=torch.tensor([item.merge_size for item in items], dtype=torch.int64),
            patch_size=patch_size,
            clip=clips.pop() if clips else None,
        )

    @cached_property
    def grid_thw(self) -> Tensor:
        """(V, 3) int64 on the CPU: frames, rows, columns in patches before merging; all geometry of the batch follows."""
        return self.sizes // self.sizes.new_tensor([1, self.patch_size, self.patch_size])

    @cached_property
    def frame_lengths(self) -> list[int]:
        """Patches of every frame, over all items in order: the segments of the encoder's attention."""
        return [rows * cols for frames, rows, cols in self.grid_thw.tolist() for _ in range(frames)]

    @cached_property
    def num_clips(self) -> list[int]:
        """Clips of every item; a single frame stands for a whole clip of itself."""
        assert self.clip is not None  # asked for by encoders of clips alone
        return [max(1, frames // self.clip.num_frames) for frames in self.sizes[:, 0].tolist()]

    @cached_property
    def run_tokens(self) -> list[int]:
        """Visual tokens of every run before reduction, over all items in order."""
        if self.clip is not None:
            return [self.clip.num_tokens] * sum(self.num_clips)
        grids = zip(self.grid_thw.tolist(), self.merge_sizes.tolist(), strict=True)
        return [rows * cols // m**2 for (frames, rows, cols), m in grids for _ in range(frames)]

    @property
    def num_visual_tokens(self) -> int:
        return sum(self.run_tokens)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> VisualBatch:
        return replace(self, pixels=self.pixels.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> VisualBatch:
        return replace(self, pixels=self.pixels.pin_memory())


@dataclass(frozen=True)
class PackedBatch:
    """Samples packed into one sequence without padding, and their media."""

    input_ids: Tensor  # (T,) int64
    labels: Tensor  # (T,) int64; the first of each sample is IGNORE_INDEX
    visual_positions: Tensor  # (M,) int64: where in the text each visual token goes, in order
    lengths: tuple[int, ...]  # S text lengths, placeholders included, on the host
    num_labels: int  # labels that are not IGNORE_INDEX, counted on the host
    run_samples: tuple[int, ...]  # for every run over all items, the sample that it belongs to
    visual: VisualBatch
    sample_ids: tuple[str, ...]
    sources: tuple[str, ...]
    modalities: tuple[SampleModality, ...]  # what each sample shows

    def __post_init__(self) -> None:
        if self.visual_positions.numel() != self.visual.num_visual_tokens:
            raise ValueError(
                f"{self.visual_positions.numel()} placeholders for {self.visual.num_visual_tokens} visual tokens"
            )
        if sum(self.lengths) != self.input_ids.numel():
            raise ValueError(f"lengths sum to {sum(self.lengths)}, not to the {self.input_ids.numel()} tokens")
        if len(self.run_samples) != len(self.visual.run_tokens):
            raise ValueError(f"{len(self.run_samples)} owners for {len(self.visual.run_tokens)} frames or clips")
        if len(self.modalities) != len(self.lengths):
            raise ValueError(f"{len(self.modalities)} modalities for {len(self.lengths)} samples")

    def __len__(self) -> int:
        return len(self.lengths)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """Lightning calls this to move a batch; the host-side fields stay where they are."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("input_ids", "labels", "visual_positions", "visual"):
            moved[name] = moved[name].to(device, non_blocking=non_blocking)
        return PackedBatch(**moved)

    def pin_memory(self) -> PackedBatch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("input_ids", "labels", "visual_positions", "visual"):
            moved[name] = moved[name].pin_memory()
        return PackedBatch(**moved)


def cumulative_lengths(lengths: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """(S+1,) int32 with a leading 0: the `cu_seqlens` of segments with these lengths."""
    import torch

    cu_seqlens = torch.zeros(len(lengths) + 1, dtype=torch.int32)
    torch.cumsum(torch.tensor(lengths, dtype=torch.int32), dim=0, out=cu_seqlens[1:])
    return cu_seqlens.to(device, non_blocking=True)
