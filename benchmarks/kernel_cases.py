"""The ops of `apollo_kernels` at the sizes of VideoLLaMA 3 2B: one input for the kernel, its reference and the loop over items."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from loops import merge_compact as compact_loop
from loops import merge_similar as similar_loop
from loops import pack_patches as pack_loop
from loops import rope_2d as rope_loop
from loops import similarity_keep as keep_loop
from torch import Tensor

from apollo_kernels import (
    Layout,
    merge_compact,
    merge_runs,
    pack_patches,
    rope_2d,
    rope_2d_tables,
    similar_runs,
    similarity_keep,
)
from apollo_kernels.block_change import block_change_reference
from apollo_kernels.merge_compact import merge_backward_reference, merge_reference
from apollo_kernels.merge_similar import mean_backward_reference, mean_reference, runs_reference
from apollo_kernels.pack_patches import pack_reference
from apollo_kernels.rope_2d import rotate_reference
from apollo_kernels.similarity_keep import change_limit, keep_changed_reference

PATCH, HEADS, HEAD_DIM = 14, 16, 72  # SigLIP so400m
HIDDEN = HEADS * HEAD_DIM
THRESHOLD = 0.05  # grey levels
MIN_COSINE = 0.9

Result = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Batch:
    """Images and videos of a step, as frames, height, width in pixels, and merge size."""

    name: str
    items: tuple[tuple[int, int, int, int], ...]

    def layout(self) -> Layout:
        sizes = torch.tensor([item[:3] for item in self.items])
        return Layout.of(sizes, torch.tensor([item[3] for item in self.items]), PATCH)


def mixed_batch(num_images: int, num_videos: int, num_frames: int) -> Batch:
    """Images of 112 to 448 pixels a side, every other one merged 2×2, and videos of 140×280 pixels: 50 tokens a frame."""
    sides = [112 + 56 * (number % 7) for number in range(num_images)]
    images = [(1, side, sides[-1 - number], 1 + number % 2) for number, side in enumerate(sides)]
    videos = [(num_frames, 140, 280, 2)] * num_videos
    return Batch(f"{num_images} images, {num_videos} videos of {num_frames} frames", (*images, *videos))


@dataclass(frozen=True)
class KernelCase:
    """One op in one direction. `kernel` runs Triton on a GPU and the definition on a CPU; `loop` goes over the items."""

    op: str
    mode: str  # forward | backward | both
    kernel: Callable[[], Result]
    loop: Callable[[], Result]
    num_bytes: int  # that must move at least: every input read once, every output written once
    reference: Callable[[], Result]  # in plain PyTorch, for eager and compiled runs on a GPU

    @property
    def name(self) -> str:
        return f"{self.op}, {self.mode}"


def make_cases(batch: Batch, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    """Every op forward, backward and both; one at a time, so that only one case's tensors are alive."""
    layout = batch.layout()
    yield from _pack_patches(layout, dtype, device)
    yield from _rope_2d(layout, dtype, device)
    yield from _similarity_keep(layout, device)
    yield from _merge_compact(layout, dtype, device)
    yield from _merge_similar(layout, dtype, device)


def _pack_patches(layout: Layout, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    pixels = _make_pixels(layout).to(device)
    grids = _grids(layout)
    yield KernelCase(
        op="pack_patches",
        mode="forward",
        kernel=lambda: pack_patches(pixels, layout, dtype=dtype),
        loop=lambda: pack_loop.loop(pixels, grids, PATCH, dtype=dtype),
        num_bytes=_bytes(pixels) + layout.num_patches * (3 * PATCH**2 * dtype.itemsize + 12),
        reference=lambda: pack_reference(pixels, layout.items, PATCH, layout.num_patches, 0.5, 0.5, dtype),
    )


def _rope_2d(layout: Layout, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    _, positions, _ = pack_patches(_make_pixels(layout), layout)
    cos, sin = (table.to(device) for table in rope_2d_tables(positions, HEAD_DIM))
    q, k = (_random(layout.num_patches, HEADS, HEAD_DIM, dtype=dtype, device=device) for _ in range(2))
    patches = [frames * rows * columns for frames, rows, columns, _ in _grids(layout)]
    yield from _directions(
        "rope_2d",
        kernel=lambda: rope_2d(q, k, cos, sin),
        loop=lambda: rope_loop.loop(q, k, cos, sin, patches),
        inputs=(q, k),
        num_bytes=4 * _bytes(q) + 2 * _bytes(cos),
        reference=lambda: rotate_reference(q, k, cos, sin),
        backward_reference=lambda grad_q, grad_k: rotate_reference(grad_q, grad_k, cos, sin, inverse=True),
    )


def _similarity_keep(layout: Layout, device: str) -> Iterator[KernelCase]:
    pixels = _make_pixels(layout).to(device)
    sizes = [(frames, rows * PATCH, columns * PATCH) for frames, rows, columns, _ in _grids(layout)]
    merge_sizes = [m for *_, m in _grids(layout)]
    compared = sum(3 * f * h * w for f, h, w in sizes if f > 1)
    limits = {m: change_limit(THRESHOLD, PATCH * m, bfloat16=False) for m in sorted(set(merge_sizes))}

    def keep_by_reference() -> Tensor:
        change = block_change_reference(
            pixels, layout.items, PATCH, layout.num_tokens, limits, num_forced=0, last_kept=False, bfloat16=False
        )
        keep_mask, _ = keep_changed_reference(change, layout.items, limits, layout.num_frames, min_tokens=1)
        return keep_mask

    yield KernelCase(
        op="similarity_keep",
        mode="forward",
        kernel=lambda: similarity_keep(pixels, layout, threshold_grey_levels=THRESHOLD)[0],
        loop=lambda: keep_loop.loop(pixels, sizes, merge_sizes, PATCH),
        num_bytes=compared + layout.num_tokens,
        reference=keep_by_reference,
    )


def _merge_compact(layout: Layout, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    features = _random(layout.num_patches, HIDDEN, dtype=dtype, device=device)
    keep_mask = torch.rand(layout.num_tokens, generator=torch.Generator().manual_seed(0)) < 0.5
    num_tokens = int(keep_mask.sum())
    grids, keep_mask = _grids(layout), keep_mask.to(device)
    kept_patches = keep_mask.cpu().repeat_interleave(_squares(layout)).sum().item()
    yield from _directions(
        "merge_compact",
        kernel=lambda: merge_compact(features, layout, keep_mask, num_tokens),
        loop=lambda: compact_loop.loop(features, grids, keep_mask),
        inputs=(features,),
        num_bytes=(int(kept_patches) + num_tokens) * HIDDEN * dtype.itemsize,
        reference=lambda: merge_reference(features, keep_mask, layout.items, num_tokens),
        backward_reference=lambda grad: merge_backward_reference(grad, keep_mask, layout.items, layout.num_patches),
        backward_bytes=(layout.num_patches + num_tokens) * HIDDEN * dtype.itemsize,
    )


def _merge_similar(layout: Layout, dtype: torch.dtype, device: str) -> Iterator[KernelCase]:
    """Tokens that stay alike for about two frames."""
    grids = [(frames, rows * columns // m**2) for frames, rows, columns, m in _grids(layout)]
    generator = torch.Generator().manual_seed(0)
    clips = []
    for frames, places in grids:
        scene = (torch.rand(frames, places, generator=generator) < 0.5).cumsum(dim=0)  # a new one at every second frame
        scenes = torch.randn(frames + 1, places, HIDDEN, generator=generator)
        clips.append(scenes[scene, torch.arange(places)].flatten(0, 1))
    tokens = torch.cat(clips).to(device, dtype).requires_grad_()
    runs = similar_runs(tokens, layout, threshold=MIN_COSINE)
    num_tokens = int(runs.keep_mask.sum())
    size = _bytes(tokens)

    def merge() -> tuple[Tensor, Tensor]:
        found = similar_runs(tokens, layout, threshold=MIN_COSINE)
        return merge_runs(tokens, layout, found, num_tokens)

    def merge_by_reference() -> tuple[Tensor, Tensor]:
        head_frame, keep_mask = runs_reference(tokens, layout.items, MIN_COSINE)
        return mean_reference(tokens, head_frame, keep_mask, layout.items, num_tokens)

    weights = merge()[1].detach()
    yield from _directions(
        "merge_similar",
        kernel=merge,
        loop=lambda: similar_loop.loop(tokens, grids, MIN_COSINE),
        inputs=(tokens,),
        num_bytes=2 * size + num_tokens * HIDDEN * dtype.itemsize,
        reference=merge_by_reference,
        backward_reference=lambda grad, *_: mean_backward_reference(
            grad, weights, runs.head_frame, runs.keep_mask, layout.items
        ),
        backward_bytes=size + num_tokens * HIDDEN * dtype.itemsize,
    )


def _directions(
    op: str,
    *,
    kernel: Callable[[], Result],
    loop: Callable[[], Result],
    inputs: tuple[Tensor, ...],
    num_bytes: int,
    reference: Callable[[], Result],
    backward_reference: Callable[..., Result],
    backward_bytes: int | None = None,
) -> Iterator[KernelCase]:
    """The three cases of a differentiable op."""
    backward_bytes = num_bytes if backward_bytes is None else backward_bytes
    without_graph = torch.no_grad()
    yield KernelCase(op, "forward", without_graph(kernel), without_graph(loop), num_bytes, without_graph(reference))
    grads = tuple(torch.randn_like(output) for output in _floats(kernel()))

    def both(run: Callable[[], Result]) -> tuple[Tensor, ...]:
        outputs = _floats(run())
        return *outputs, *torch.autograd.grad(outputs, inputs, grads)

    def both_by_reference() -> tuple[Tensor, ...]:
        outputs = as_tuple(reference())[: len(grads)]
        return *outputs, *as_tuple(backward_reference(*grads))

    yield KernelCase(
        op,
        "backward",
        _backward(kernel, inputs, grads),
        _backward(loop, inputs, grads),
        backward_bytes,
        lambda: backward_reference(*grads),
    )
    yield KernelCase(
        op,
        "both",
        lambda: both(kernel),
        lambda: both(loop),
        num_bytes + backward_bytes,
        without_graph(both_by_reference),
    )


def _backward(
    forward: Callable[[], Result], inputs: tuple[Tensor, ...], grads: tuple[Tensor, ...]
) -> Callable[[], Result]:
    """The backward alone, again and again on one graph."""
    outputs = _floats(forward())
    return lambda: torch.autograd.grad(outputs, inputs, grads, retain_graph=True)


def _floats(result: Result) -> tuple[Tensor, ...]:
    """The outputs that have a gradient; the first ones of every op."""
    return tuple(output for output in as_tuple(result) if output.requires_grad)


def as_tuple(result: Result) -> tuple[Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)


def _random(*shape: int, dtype: torch.dtype, device: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator).to(device, dtype).requires_grad_()


def _make_pixels(layout: Layout) -> Tensor:
    """Random bytes; every other frame of a video repeats the one before, so that half of its tokens stay."""
    generator = torch.Generator().manual_seed(0)
    clips = []
    for frames, rows, columns, _ in _grids(layout):
        shape = ((frames + 1) // 2, 3 * rows * columns * PATCH**2)
        clip = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        clips.append(clip.repeat_interleave(2, dim=0)[:frames].flatten())
    return torch.cat(clips)


def _grids(layout: Layout) -> list[tuple[int, int, int, int]]:
    """Frames, rows and columns in patches, and merge size of each item."""
    return [tuple(item[3:]) for item in layout.items.tolist()]


def _squares(layout: Layout) -> Tensor:
    """(M,) patches of every token."""
    squares = [m * m for f, r, c, m in _grids(layout) for _ in range(f * r * c // m**2)]
    return torch.tensor(squares)


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
