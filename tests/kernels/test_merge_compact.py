"""Merging and dropping of patches: the Triton kernels and their definition against a walk over tokens in float64."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from apollo_kernels.layout import TILE_COLUMNS, Layout
from apollo_kernels.merge_compact import _bwd_kernel, _fwd_kernel, _merge, _merge_backward, merge_compact
from tests.kernels.cases import AWKWARD, SETTINGS, Shape, batch_shapes, make_layout, opcheck, through_triton, watched
from tests.tolerances import SUMMATION
from verification.far import far

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CAPACITIES = ["counted", "known", "none", "half", "all"]  # rows of the output


def patches_of_tokens(shapes: list[Shape]) -> list[range]:
    """The patches of each visual token, in order."""
    blocks, first = [], 0
    for frames, rows, columns, m in shapes:
        for _ in range(frames * rows * columns):
            blocks.append(range(first, first + m * m))
            first += m * m
    return blocks


def expected_of(features: Tensor, weights: Tensor, blocks: list[range]) -> tuple[Tensor, Tensor]:
    """Tokens of the `blocks` that reach the output, and the gradient of Σ tokens·weights, in float64."""
    tokens = torch.zeros(weights.shape, dtype=torch.float64)
    grad = torch.zeros(features.shape, dtype=torch.float64)
    for row, block in enumerate(blocks):
        for patch in block:
            tokens[row] += features[patch].double() / len(block)
            grad[patch] = weights[row].double() / len(block)
    return tokens, grad


def check(
    shapes: list[Shape],
    dtype: torch.dtype,
    num_channels: int,
    capacity: str,
    masked: bool,
    tiles: str = "interpreter",
    orders: tuple[int, ...] = (1, 2),
    patch_size: int = 2,
) -> None:
    """Tokens and gradients of both implementations, for random features and a random mask."""
    layout = make_layout(shapes, patch_size)
    features = torch.randn(layout.num_patches, num_channels).to(dtype).requires_grad_()
    keep_mask = torch.rand(layout.num_tokens) < 0.6 if masked else None
    blocks = patches_of_tokens(shapes)
    if keep_mask is not None:
        blocks = [block for block, kept in zip(blocks, keep_mask.tolist(), strict=True) if kept]
    rows = {"known": len(blocks), "none": 0, "half": len(blocks) // 2, "all": layout.num_tokens}.get(capacity)
    num_rows = len(blocks) if rows is None else rows
    weights = torch.randn(num_rows, num_channels).to(dtype)
    expected = expected_of(features.detach(), weights, blocks[:num_rows])

    def run() -> tuple[Tensor, Tensor]:
        tokens = merge_compact(features, layout, keep_mask, rows)
        return tokens.detach(), torch.autograd.grad(tokens, features, weights)[0]

    for results in (watched(run, tiles, orders), run()):
        for result, true in zip(results, expected, strict=True):
            assert result.dtype == dtype
            assert_close(result.double(), true, atol=SUMMATION[dtype], rtol=SUMMATION[dtype])


@SETTINGS
@given(batch_shapes, st.sampled_from(DTYPES), st.sampled_from([1, 5, 32]), st.sampled_from(CAPACITIES), st.booleans())
@example([(2, 3, 2, 2), (1, 2, 1, 3)], torch.float64, 5, "all", True)
@example([(2, 3, 2, 2), (1, 2, 1, 3)], torch.float64, 5, "half", True)
@example([(2, 3, 2, 2), (1, 2, 1, 3)], torch.float64, 5, "half", False)
def test_any_batch(shapes: list[Shape], dtype: torch.dtype, num_channels: int, capacity: str, masked: bool) -> None:
    check(shapes, dtype, num_channels, capacity, masked)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_batches(name: str) -> None:
    shapes = AWKWARD[name]
    if len(shapes) < 10:
        for dtype in DTYPES:
            check(shapes, dtype, 3, "all", masked=True)
    else:
        check(shapes, torch.float32, 3, "all", masked=True, orders=(1,))


@pytest.mark.parametrize("tiles", ["cuda", "hip"])
@pytest.mark.parametrize("masked", [False, True])
def test_production_tiles(tiles: str, masked: bool) -> None:
    """Items of 45, 32 and 33 tokens in tiles of 16 or 32; 160 channels in blocks of 128."""
    check([(3, 3, 5, 2), (1, 4, 8, 1), (1, 3, 11, 1)], torch.bfloat16, 160, "all", masked, tiles)


def test_the_models_sizes() -> None:
    """Two frames of 140×280 pixels and an image of 56×84, at the encoder's width."""
    check([(2, 5, 10, 2), (1, 4, 6, 1)], torch.bfloat16, 1152, "known", masked=True, patch_size=14)


def test_eight_patches_by_hand() -> None:
    """Two tokens of 2×2 patches: 1 2 3 4 and 5 6 7 8; then as one kept token, in a capacity of two."""
    layout = make_layout([(1, 1, 2, 2)])
    features = torch.arange(1.0, 9.0)[:, None]
    second = torch.tensor([False, True])
    for run in (watched, lambda op: op()):
        assert run(lambda: merge_compact(features, layout)).tolist() == [[2.5], [6.5]]
        assert run(lambda: merge_compact(features, layout, second)).tolist() == [[6.5]]
        assert run(lambda: merge_compact(features, layout, second, 2)).tolist() == [[6.5], [0.0]]
        assert run(lambda: merge_compact(features, layout, ~second)).tolist() == [[2.5]]
        assert run(lambda: merge_compact(features, layout, None, 1)).tolist() == [[2.5]]


def test_what_is_dropped_is_not_read() -> None:
    """NaN in a dropped token stays there, forward and backward."""
    layout = make_layout([(1, 1, 2, 2)])
    features = torch.ones(8, 3)
    features[4:] = torch.nan
    features.requires_grad_()
    keep_mask = torch.tensor([True, False])

    def run() -> tuple[Tensor, Tensor]:
        tokens = merge_compact(features, layout, keep_mask, 2)
        return tokens.detach(), torch.autograd.grad(tokens.sum(), features)[0]

    for tokens, grad in (watched(run), run()):
        assert tokens.tolist() == [[1.0] * 3, [0.0] * 3]
        assert grad.tolist() == [[0.25] * 3] * 4 + [[0.0] * 3] * 4


def test_sums_are_float32() -> None:
    """bfloat16 holds 256 and 257 as one number: 256 + 1 + 1 + 1 is 259 only in a wider sum, and a quarter of it 64.75."""
    layout = make_layout([(1, 1, 1, 2)])
    features = torch.tensor([[256.0], [1.0], [1.0], [1.0]]).bfloat16()
    expected = torch.tensor([[64.75]]).bfloat16()
    assert_close(watched(lambda: merge_compact(features, layout)), expected, atol=0, rtol=0)
    assert_close(merge_compact(features, layout), expected, atol=0, rtol=0)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients(masked: bool) -> None:
    layout = make_layout([(2, 1, 2, 2), (0, 1, 1, 1), (1, 1, 3, 3)])
    features = torch.randn(layout.num_patches, 1, dtype=torch.float64, requires_grad=True)
    keep_mask = torch.tensor([True, False, True, True, False, True, True]) if masked else None

    def run(features: Tensor) -> Tensor:
        return merge_compact(features, layout, keep_mask, 6)

    assert torch.autograd.gradcheck(run, features)
    with through_triton():
        assert torch.autograd.gradcheck(run, features)


def test_a_gradient_that_is_not_contiguous() -> None:
    layout = make_layout([(1, 2, 2, 2)])
    features = torch.randn(16, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(3, 4, dtype=torch.float64)

    def run() -> Tensor:
        return torch.autograd.grad((merge_compact(features, layout).T * weights).sum(), features)[0]

    expected = (weights.T / 4).repeat_interleave(4, dim=0)
    assert_close(watched(run), expected, atol=1e-12, rtol=0)
    assert_close(run(), expected, atol=1e-12, rtol=0)


def test_opcheck() -> None:
    layout = make_layout([(2, 1, 2, 2), (1, 1, 3, 1)])
    features = torch.randn(layout.num_patches, 3, requires_grad=True)
    keep_mask = torch.rand(layout.num_tokens) < 0.5
    for mask in (keep_mask, None):
        opcheck(_merge, (features, mask, layout.items, 4))
        opcheck(_merge_backward, (torch.randn(4, 3), mask, layout.items, layout.num_patches))


@pytest.mark.parametrize("by_triton", [False, True])
def test_compiles_at_most_twice_over_fifty_batches(by_triton: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def run(
        features: Tensor,
        keep_mask: Tensor,
        items: Tensor,
        num_frames: int,
        num_patches: int,
        num_tokens: int,
        rows: int,
    ) -> Tensor:
        layout = Layout(items, 2, num_frames, num_patches, num_tokens)
        return merge_compact(features, layout, keep_mask, rows)

    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        draws = torch.randint(2, 5, (3, 2), generator=generator).tolist()
        shapes = [(frames, 2, columns, m) for (frames, columns), m in zip(draws, (1, 2, 3), strict=True)]
        shapes = shapes[: draws[0][0]]
        layout = make_layout(shapes)
        features = torch.randn(layout.num_patches, 4, requires_grad=True)
        keep_mask = torch.rand(layout.num_tokens) < 0.6
        keep_mask[:2] = True
        blocks = [block for block, kept in zip(patches_of_tokens(shapes), keep_mask.tolist(), strict=True) if kept]
        weights = torch.randn(len(blocks), 4)
        sizes = (layout.num_frames, layout.num_patches, layout.num_tokens, len(blocks))
        expected = expected_of(features.detach(), weights, blocks)
        with through_triton() if by_triton else nullcontext():
            tokens = run(features, keep_mask, layout.items, *sizes)
            grad = torch.autograd.grad(tokens, features, weights)[0]
        for result, true in zip((tokens.detach(), grad), expected, strict=True):
            assert_close(result.double(), true, atol=1e-5, rtol=1e-5)
    assert counter.frame_count <= 2


def test_what_it_refuses() -> None:
    layout = make_layout([(1, 1, 2, 2)])
    features, keep_mask = torch.randn(8, 3), torch.tensor([True, False])
    with pytest.raises(ValueError, match=r"features \(8, 3\) .*contiguous"):
        merge_compact(torch.randn(3, 8).T, layout)
    with pytest.raises(ValueError, match=r"keep_mask \(2,\) .*contiguous"):
        merge_compact(features, layout, torch.ones(2, 2, dtype=torch.bool)[:, 0])
    for wrong in (features[:7], features.flatten(), features.int()):
        with pytest.raises(ValueError, match=r"features .*\(8, D\)"):
            merge_compact(wrong.contiguous(), layout)
    for wrong in (keep_mask[:1], keep_mask.int(), keep_mask[:, None]):
        with pytest.raises(ValueError, match=r"keep_mask .*\(2,\) bool"):
            merge_compact(features, layout, wrong)
    for number in (-1, 3):
        with pytest.raises(ValueError, match=rf"num_tokens .*\b0 to 2\b.* {number}$"):
            merge_compact(features, layout, keep_mask, number)


@pytest.mark.interpreter
def test_programs_behind_two_billion_elements() -> None:
    """Program 2^28, whose line of the tile table lies 2^31 numbers on; patches, tokens and rows of 64 channels from 2^27 on."""
    first, program, width = 2**27, 2**28, 64
    layout = make_layout([(1, 1, 3, 2)])
    line = torch.cat([layout.items, torch.zeros(1, 1, dtype=torch.int64)], dim=1)
    line[:, :2] = first  # where its patches and its tokens start
    features = torch.randn(12, width)
    keep_mask = torch.tensor([True, False, True])
    before = first + torch.tensor([0, 1, 1, 2], dtype=torch.int32)
    weights = torch.randn(2, width)
    tokens, grad = expected_of(features, weights, [range(0, 4), range(8, 12)])
    tokens_out, features_grad_out = torch.empty(2, width), torch.empty(12, width)
    sizes = {"D": width, "BLOCK_TOKENS": 4, "BLOCK_D": width}
    shifts = {"keep_mask": first, "before": first, "tiles": program * TILE_COLUMNS.value}
    with far(program, **shifts, features=first * width, tokens_out=first * width):
        _fwd_kernel[(1,)](features, keep_mask, before, line, tokens_out, first + 3, first + 2, **sizes)
    assert_close(tokens_out.double(), tokens, atol=1e-5, rtol=1e-5)
    with far(program, **shifts, grad=first * width, features_grad_out=first * width):
        _bwd_kernel[(1,)](weights, keep_mask, before, line, features_grad_out, first + 2, **sizes)
    assert_close(features_grad_out.double(), grad, atol=1e-5, rtol=1e-5)
