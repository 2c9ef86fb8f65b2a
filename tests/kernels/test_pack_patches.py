"""pack_patches: the Triton kernel and its definition against a loop over patches in float64."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from apollo_kernels import pack_patches
from apollo_kernels.layout import Layout
from apollo_kernels.pack_patches import _pack, _pack_kernel
from tests.kernels.cases import (
    AWKWARD,
    PATCH,
    SETTINGS,
    Shape,
    batch_shapes,
    flatten,
    make_clips,
    make_layout,
    opcheck,
    through_triton,
    watched,
)
from tests.tolerances import SUMMATION
from verification.far import far

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
Packed = tuple[Tensor, Tensor, Tensor]


def expected_patches(
    shapes: list[Shape], clips: list[Tensor], patch: int = PATCH, mean: float = 0.5, std: float = 0.5
) -> Packed:
    """Cut out one by one: patches (N, 3·p·p) float64, places (N, 2) and frames (N,)."""
    patches, places, frames, num_frames = [], [], [], 0
    for clip, (_, token_rows, token_columns, m) in zip(clips, shapes, strict=True):
        for frame in clip:
            for token in range(token_rows * token_columns):
                for inside in range(m * m):
                    row, column = token // token_columns * m + inside // m, token % token_columns * m + inside % m
                    square = frame[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
                    patches.append((square.double().flatten() / 255 - mean) / std)
                    places.append((row, column))
                    frames.append(num_frames)
            num_frames += 1
    values = torch.stack(patches) if patches else torch.empty(0, 3 * patch**2, dtype=torch.float64)
    return values, torch.tensor(places, dtype=torch.int32).view(-1, 2), torch.tensor(frames, dtype=torch.int32)


def assert_packed(packed: Packed, expected: Packed) -> None:
    patches, positions, segments = packed
    tolerance = SUMMATION[patches.dtype]
    assert_close(patches.double(), expected[0], atol=tolerance, rtol=tolerance)
    assert_close(positions, expected[1], atol=0, rtol=0)
    assert_close(segments, expected[2], atol=0, rtol=0)


def both_ways(run: Callable[[], Packed], tiles: str = "interpreter") -> tuple[Packed, Packed]:
    return watched(run, tiles), run()


def check(shapes: list[Shape], dtype: torch.dtype, patch: int = PATCH, tiles: str = "interpreter") -> None:
    """Kernel and definition against the reference, and bit for bit against each other and the rounded float32 values."""
    clips = make_clips(shapes, patch)
    pixels, layout = flatten(clips), make_layout(shapes, patch)
    kernel, definition = both_ways(lambda: pack_patches(pixels, layout, dtype=dtype), tiles)
    assert kernel[0].dtype == dtype
    assert_packed(kernel, expected_patches(shapes, clips, patch))
    assert_close(definition, kernel, atol=0, rtol=0)
    assert_close(kernel[0], pack_patches(pixels, layout)[0].to(dtype), atol=0, rtol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@SETTINGS
@given(batch_shapes)
def test_kernel_and_definition_cut_out_each_patch(dtype: torch.dtype, shapes: list[Shape]) -> None:
    check(shapes, dtype)


@pytest.mark.parametrize("patch", [1, 3, 14, 16])
def test_patch_sizes(patch: int) -> None:
    check([(2, 2, 3, 2), (1, 1, 2, 1)], torch.float32, patch)


@pytest.mark.parametrize("tiles", ["cuda", "hip"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_production_tiles(dtype: torch.dtype, tiles: str) -> None:
    """63, 64 and 65 patches: tiles of 64 rows end before, at and after an item; 72 patches a frame: within a frame."""
    check([(1, 7, 9, 1), (4, 4, 4, 1), (5, 1, 13, 1), (2, 3, 6, 2)], dtype, 14, tiles)


def test_patches_of_a_token_follow_each_other() -> None:
    """Each pixel of two 2×4 frames of 1×1 patches holds its raster number: 0 1 4 5, then 2 3 6 7; blue is 100 more than red."""
    frame = torch.arange(8, dtype=torch.uint8)
    channels = torch.cat([frame, frame + 50, frame + 100])
    layout = Layout.of(torch.tensor([[2, 2, 4]]), torch.tensor([2]), 1)
    pixels = torch.cat([channels, channels + 8])
    for patches, positions, segments in both_ways(lambda: pack_patches(pixels, layout, mean=0.0, std=1 / 255)):
        assert patches[:, 0].tolist() == [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]
        assert (patches - patches[:, :1]).unique(dim=0).tolist() == [[0, 50, 100]]
        assert positions[:8].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [0, 3], [1, 2], [1, 3]]
        assert positions[8:].tolist() == positions[:8].tolist()
        assert segments.tolist() == [0] * 8 + [1] * 8


@pytest.mark.parametrize(("mean", "std"), [(0.5, 0.5), (0.0, 1.0), (0.48, 0.27)])
def test_every_byte_is_normalised(mean: float, std: float) -> None:
    """For mean 0.5 to a unit in the last place."""
    layout = Layout.of(torch.tensor([[1, 16, 16]]), torch.tensor([1]), 16)
    pixels = torch.arange(256).to(torch.uint8).repeat(3)
    exact = ((torch.arange(256, dtype=torch.float64) / 255 - mean) / std).repeat(3)[None]
    for patches, *_ in both_ways(lambda: pack_patches(pixels, layout, mean=mean, std=std)):
        assert_close(patches.double(), exact, atol=SUMMATION[torch.float32], rtol=0)
        if mean == 0.5:
            low, high = (torch.nextafter(exact.float(), torch.tensor(end)) for end in (-torch.inf, torch.inf))
            assert bool(((low <= patches) & (patches <= high)).all())


def test_opcheck() -> None:
    shapes = [(2, 1, 2, 2), (1, 1, 3, 1)]
    layout = make_layout(shapes)
    opcheck(_pack, (flatten(make_clips(shapes)), layout.items, PATCH, layout.num_patches, 0.5, 0.5, torch.bfloat16))


@pytest.mark.parametrize("by_triton", [False, True])
def test_compiles_at_most_twice_over_fifty_shapes(by_triton: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def pack(pixels: Tensor, items: Tensor, num_frames: int, num_patches: int, num_tokens: int) -> Packed:
        patches, positions, segments = pack_patches(pixels, Layout(items, PATCH, num_frames, num_patches, num_tokens))
        return patches * 2, positions + 1, segments

    compiled = torch.compile(pack, backend=counter, fullgraph=True, dynamic=True)

    def run() -> None:
        for seed in range(50):
            generator = torch.Generator().manual_seed(seed)
            numbers = torch.randint(1, 4, (2 + seed % 3, 4), generator=generator).tolist()
            shapes = [tuple(shape) for shape in numbers]
            layout, clips = make_layout(shapes), make_clips(shapes, seed=seed)
            inputs = (layout.items, layout.num_frames, layout.num_patches, layout.num_tokens)
            patches, positions, segments = compiled(flatten(clips), *inputs)
            assert_packed((patches / 2, positions - 1, segments), expected_patches(shapes, clips))

    with through_triton() if by_triton else nullcontext():
        run()
    assert counter.frame_count <= 2


def test_what_it_refuses() -> None:
    shapes = [(2, 1, 2, 2), (1, 1, 3, 1)]
    pixels, layout = flatten(make_clips(shapes)), make_layout(shapes)
    for wrong in (pixels.float(), pixels[None], pixels.repeat(2)[::2]):
        with pytest.raises(ValueError, match=r"pixels .*\(B,\) uint8"):
            pack_patches(wrong, layout)
    with pytest.raises(ValueError, match=r"\b227 bytes.*\b228\b"):
        pack_patches(pixels[1:], layout)
    with pytest.raises(ValueError, match=r"float32, bfloat16.*float16.*torch\.float64"):
        pack_patches(pixels, layout, dtype=torch.float64)


@pytest.mark.interpreter
def test_programs_behind_two_billion_elements() -> None:
    """Program 2^28 reads line 2^28 of the table, whose item starts at patch 2^31: no offset fits 32 bits."""
    shapes = [(2, 2, 3, 2)]
    clips, layout = make_clips(shapes), make_layout(shapes)
    start, area = 2**31, PATCH**2
    tiles = torch.cat([layout.items, torch.zeros(1, 1, dtype=torch.int64)], dim=1)
    tiles[0, 0] = start
    patches = torch.empty(layout.num_patches, 3 * area)
    positions, segments = (torch.empty(layout.num_patches, *shape, dtype=torch.int32) for shape in ((2,), ()))
    elements = {"pixels": start * 3 * area, "patches_out": start * 3 * area, "positions_out": start * 2}
    with far(2**28, tiles=2**28 * 8, segments_out=start, **elements):
        _pack_kernel[(1,)](
            flatten(clips), tiles, patches, positions, segments, 127.5, 1 / 127.5,
            PATCH=PATCH, BLOCK_ROWS=64, BLOCK_AREA=area,
        )  # fmt: skip
    assert_packed((patches, positions, segments), expected_patches(shapes, clips))


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_shapes(name: str) -> None:
    check(AWKWARD[name], torch.bfloat16)
