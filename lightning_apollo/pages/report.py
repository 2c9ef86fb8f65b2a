"""HTML report of a trained model: media, answers and learning curve."""

from __future__ import annotations

import csv
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lightning_apollo.structures import Sample, VisualItem

FRAME_PIXELS = 112  # smaller frames are enlarged to this height, pixel by pixel
DROPPED_GREY, DROPPED_OPACITY = 235, 0.8  # how a dropped block is painted over


@dataclass(frozen=True)
class PaintedFrame:
    """One frame as the model got it, dropped blocks painted over."""

    pixels: Tensor  # (3, H, W) uint8
    seconds: float | None  # None for an image
    num_kept: int
    num_tokens: int
    clip: int | None = None  # number of the clip that the frame belongs to, from 1; its tokens count at its first frame


@dataclass(frozen=True)
class FrameView:
    """A `PaintedFrame` for a page."""

    png: str  # base64
    seconds: float | None
    num_kept: int
    num_tokens: int
    clip: int | None = None


@dataclass(frozen=True)
class Exchange:
    question: str
    answer: str
    expected: str = ""

    @property
    def is_right(self) -> bool:
        return self.answer == self.expected


@dataclass(frozen=True)
class ClipView:
    title: str
    frames: tuple[FrameView, ...]
    exchanges: tuple[Exchange, ...]

    @property
    def num_kept(self) -> int:
        return sum(frame.num_kept for frame in self.frames)

    @property
    def num_tokens(self) -> int:
        return sum(frame.num_tokens for frame in self.frames)


@dataclass(frozen=True)
class AccuracyRow:
    """One line of the accuracy table; `scores` in the order of the table's head."""

    name: str
    scores: tuple[float, ...]
    is_summary: bool = False


def paint_frames(sample: Sample, keep_mask: Tensor | None) -> list[PaintedFrame]:
    """All frames of a sample's media with the blocks painted over that `keep_mask` (M,) drops; None keeps all."""
    counts = [item.num_visual_tokens(sample.patch_size) for item in sample.visuals]
    keep = torch.ones(sum(counts), dtype=torch.bool) if keep_mask is None else keep_mask.cpu()
    return [
        frame
        for item, mask in zip(sample.visuals, keep.split(counts), strict=True)
        for frame in _paint_item(item, mask, sample.patch_size)
    ]


def view_clip(title: str, sample: Sample, keep_mask: Tensor | None, exchanges: Sequence[Exchange]) -> ClipView:
    """The painted frames of a sample and what was said about them."""
    frames = (
        FrameView(_png(frame.pixels), frame.seconds, frame.num_kept, frame.num_tokens, frame.clip)
        for frame in paint_frames(sample, keep_mask)
    )
    return ClipView(title, tuple(frames), tuple(exchanges))


def read_losses(metrics: Sequence[Path]) -> list[float]:
    """The loss of every step of several stages, one after the other, from their metrics.csv."""
    losses: list[float] = []
    for path in metrics:
        with path.open(newline="") as file:
            losses += [float(row["loss"]) for row in csv.DictReader(file) if row.get("loss")]
    return losses


def draw_losses(curves: Mapping[str, Sequence[float]], stage_ends: Sequence[int] = ()) -> str:
    """The curves as SVG markup, each smoothed over 10 steps, with a line where a stage ends."""
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.add_subplot()
    for name, losses in curves.items():
        smooth = torch.tensor(losses).unfold(0, min(10, len(losses)), 1).mean(dim=1) if losses else torch.empty(0)
        axes.plot(range(len(losses) - len(smooth), len(losses)), smooth.tolist(), label=name, linewidth=1.2)
    for end in stage_ends:
        axes.axvline(end, color="0.75", linewidth=0.8, linestyle="--")
    axes.set(xlabel="optimizer step", ylabel="loss (nats a labelled token)", yscale="log")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    svg = StringIO()
    figure.savefig(svg, format="svg")
    return svg.getvalue()[svg.getvalue().index("<svg") :]


def write_report(
    path: Path,
    *,
    title: str,
    facts: Mapping[str, str],
    clips: Sequence[ClipView],
    score_head: Sequence[str] = (),
    scores: Sequence[AccuracyRow] = (),
    loss_svg: str = "",
) -> None:
    """Write the page. Every text from data is escaped; nothing is loaded from elsewhere."""
    values: dict[str, Any] = {
        "title": title,
        "facts": facts,
        "clips": clips,
        "score_head": score_head,
        "scores": scores,
        "loss_svg": loss_svg,
    }
    write_html(path, files("lightning_apollo.pages").joinpath("report.html").read_text(), values)


def write_html(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Write a page from a jinja template, in which every value is escaped; a name that has no value is an error."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(environment.from_string(template).render(values), encoding="utf-8")


def _paint_item(item: VisualItem, keep_mask: Tensor, patch_size: int) -> Iterator[PaintedFrame]:
    num_frames = len(item.frames)
    seconds = item.frames.pts_seconds.tolist() if item.modality == "video" else [None] * num_frames
    if item.clip is not None:
        for i, (pixels, time) in enumerate(zip(item.frames.pixels, seconds, strict=True)):
            number, position = divmod(i, item.clip.num_frames)
            num_tokens = 0 if position else item.clip.num_tokens
            yield PaintedFrame(pixels, time, num_tokens, num_tokens, clip=number + 1)
        return
    _, rows, columns = item.grid(patch_size)
    m = item.merge_size
    masks = keep_mask.view(num_frames, rows // m, columns // m)
    for pixels, mask, time in zip(item.frames.pixels, masks, seconds, strict=True):
        yield PaintedFrame(_paint(pixels, mask, patch_size * m), time, int(mask.sum()), mask.numel())


def _paint(pixels: Tensor, mask: Tensor, side: int) -> Tensor:
    """A frame (3, H, W) uint8; `mask` (R, K) is False where the block of side×side pixels was dropped."""
    dropped = ~mask.repeat_interleave(side, dim=0).repeat_interleave(side, dim=1)
    faded = (1 - DROPPED_OPACITY) * pixels + DROPPED_OPACITY * DROPPED_GREY
    return torch.where(dropped, faded, pixels.float()).round().to(torch.uint8)


def _png(pixels: Tensor) -> str:
    """A frame (3, H, W) uint8 as base64 PNG, enlarged by a whole number up to FRAME_PIXELS of height."""
    scale = max(1, FRAME_PIXELS // pixels.shape[1])
    pixels = pixels.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    file = BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(file, format="PNG")
    return b64encode(file.getvalue()).decode()
