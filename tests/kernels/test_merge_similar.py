"""Runs of similar tokens: the Triton kernels and their definitions against a walk from token to token in float64."""

import math
from contextlib import nullcontext

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from apollo_kernels.layout import TILE_COLUMNS, Layout
from apollo_kernels.merge_similar import (
    Runs,
    _mean_bwd_kernel,
    _mean_fwd_kernel,
    _merge_runs,
    _merge_runs_backward,
    _runs_kernel,
    _similar_runs,
    merge_runs,
    merge_similar,
    similar_runs,
)
from tests.kernels.cases import AWKWARD, SETTINGS, Shape, batch_shapes, make_layout, opcheck, through_triton, watched
from tests.tolerances import SUMMATION
from verification.far import far

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CAPACITIES = ["counted", "known", "none", "half", "all"]  # rows of the output

# Tokens lie at multiples of 10° in a plane, so that no similarity comes near the cosine of 25°, 65° or 125°.
LIMITS_DEGREES = [25, 65, 125]
threshold_of = {degrees: math.cos(math.radians(degrees)) for degrees in LIMITS_DEGREES}


def make_tokens(shapes: list[Shape], num_channels: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """(M, D): in each place a random walk of 0° to 30° a frame, of random lengths, in a random plane of two or more channels."""
    generator = torch.Generator().manual_seed(seed)
    plane = torch.linalg.qr(torch.randn(num_channels, 2, generator=generator, dtype=torch.float64)).Q.T  # (2, D)
    videos = [torch.empty(0, num_channels, dtype=torch.float64)]
    for frames, rows, columns, _ in shapes:
        steps = torch.randint(0, 4, (frames, rows * columns), generator=generator)
        angle = torch.deg2rad(10.0 * steps.cumsum(dim=0)).double()
        length = 0.5 + 1.5 * torch.rand(angle.shape, generator=generator)
        points = torch.stack([angle.cos(), angle.sin()], dim=-1) * length[..., None]
        videos.append(points.flatten(0, 1) @ plane)
    return torch.cat(videos).to(dtype)


def follow(tokens: Tensor, shapes: list[Shape], threshold: float) -> dict[int, list[int]]:
    """The tokens of each run, by its first one, in the order of the output."""
    runs: dict[int, list[int]] = {}
    rows = tokens.double()
    start = 0
    for frames, block_rows, block_columns, _ in shapes:
        places = block_rows * block_columns
        for place in range(places):
            head = -1
            for token in range(start + place, start + frames * places, places):
                if head < 0 or not rows[head] @ rows[token] >= threshold * rows[head].norm() * rows[token].norm():
                    head = token
                runs.setdefault(head, []).append(token)
        start += frames * places
    return dict(sorted(runs.items()))


def expected_runs(runs: dict[int, list[int]], shapes: list[Shape]) -> Runs:
    """Result of `similar_runs` for them."""
    frame_of = [
        (item, frame)
        for item, (frames, rows, columns, _) in enumerate(shapes)
        for frame in range(frames)
        for _ in range(rows * columns)
    ]  # (M,)
    head_frame = torch.zeros(len(frame_of), dtype=torch.int32)
    keep_mask = torch.zeros(len(frame_of), dtype=torch.bool)
    for head, members in runs.items():
        keep_mask[head] = True
        head_frame[members] = frame_of[head][1]
    begun = [frame_of[head] for head in runs]
    every = [(item, frame) for item, (frames, *_) in enumerate(shapes) for frame in range(frames)]
    counts = [begun.count(frame) for frame in every]
    return Runs(head_frame, keep_mask, torch.tensor(counts, dtype=torch.int32))


def expected_means(tokens: Tensor, upstream: Tensor, runs: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Means and weights of the runs that reach the output, and the gradient of Σ means·upstream, in float64."""
    merged, grad = torch.zeros(upstream.shape).double(), torch.zeros(tokens.shape).double()
    weights = torch.zeros(len(upstream))
    for row, members in enumerate(runs[: len(upstream)]):
        for token in members:
            merged[row] += tokens[token].double() / len(members)
            grad[token] = upstream[row].double() / len(members)
        weights[row] = len(members)
    return merged, weights, grad


def check(
    shapes: list[Shape],
    dtype: torch.dtype,
    num_channels: int,
    capacity: str,
    limit_degrees: int = 25,
    tiles: str = "interpreter",
    orders: tuple[int, ...] = (1, 2),
    seed: int = 0,
) -> None:
    """Runs, means, weights and gradients of both implementations."""
    layout = make_layout(shapes)
    tokens = make_tokens(shapes, num_channels, dtype, seed).requires_grad_()
    threshold = threshold_of[limit_degrees]
    runs = follow(tokens.detach(), shapes, threshold)
    rows = {"known": len(runs), "none": 0, "half": len(runs) // 2, "all": layout.num_tokens}.get(capacity)
    upstream = torch.randn(len(runs) if rows is None else rows, num_channels).to(dtype)
    means = expected_means(tokens.detach(), upstream, list(runs.values()))

    def run() -> tuple[Runs, tuple[Tensor, Tensor, Tensor]]:
        merged, weights, found = merge_similar(tokens, layout, threshold=threshold, num_tokens=rows)
        assert not weights.requires_grad
        return found, (merged.detach(), weights, torch.autograd.grad(merged, tokens, upstream)[0])

    for found, results in (watched(run, tiles, orders), run()):
        assert_close(found, expected_runs(runs, shapes), atol=0, rtol=0)
        assert results[1].dtype == torch.float32
        for result, true in zip(results, means, strict=True):
            assert_close(result.double(), true.double(), atol=SUMMATION[dtype], rtol=SUMMATION[dtype])


@SETTINGS
@given(
    batch_shapes,
    st.sampled_from(DTYPES),
    st.sampled_from([2, 5, 32]),
    st.sampled_from(CAPACITIES),
    st.sampled_from(LIMITS_DEGREES),
    st.integers(0, 2**31),
)
@example([(4, 3, 2, 2), (1, 2, 1, 3), (3, 1, 3, 1)], torch.float64, 5, "all", 25, 0)
@example([(4, 3, 2, 2), (1, 2, 1, 3), (3, 1, 3, 1)], torch.float64, 5, "half", 65, 1)
def test_any_batch(
    shapes: list[Shape], dtype: torch.dtype, num_channels: int, capacity: str, limit_degrees: int, seed: int
) -> None:
    check(shapes, dtype, num_channels, capacity, limit_degrees, seed=seed)


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_batches(name: str) -> None:
    shapes = AWKWARD[name]
    if len(shapes) < 10:
        for dtype in DTYPES:
            check(shapes, dtype, 3, "all")
    else:
        check(shapes, torch.float32, 3, "all", orders=(1,))


@pytest.mark.parametrize("tiles", ["cuda", "hip"])
def test_production_tiles(tiles: str) -> None:
    """Videos of 45 and 33 tokens in tiles of 16 or 32, a place a program; 160 channels in blocks of 128 and in one of 256."""
    check([(5, 3, 3, 2), (1, 2, 2, 1), (3, 1, 11, 1)], torch.bfloat16, 160, "all", tiles=tiles)


def test_the_models_sizes() -> None:
    """Four frames of 140×280 pixels and an image of 56×84, at the encoder's width."""
    check([(4, 5, 10, 2), (1, 4, 6, 1)], torch.bfloat16, 1152, "known")


def turned(*degrees: float) -> Tensor:
    """(F, 2): one token a frame at these angles."""
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_drift_by_hand() -> None:
    """0° 20° 40° 60° with threshold 0.9 (26°): 20° joins 0°, 40° begins a run, 60° joins it. As in the docstring."""
    layout = make_layout([(4, 1, 1, 1)])
    tokens = turned(0, 20, 40, 60)
    for run in (watched, lambda op: op()):
        merged, weights, runs = run(lambda: merge_similar(tokens, layout, threshold=0.9))
        assert runs.head_frame.tolist() == [0, 0, 2, 2]
        assert runs.keep_mask.tolist() == [True, False, True, False]
        assert runs.frame_counts.tolist() == [1, 0, 1, 0]
        assert weights.tolist() == [2.0, 2.0]
        assert_close(merged, torch.stack([tokens[:2].mean(dim=0), tokens[2:].mean(dim=0)]))


def test_eight_tokens_by_hand() -> None:
    """Four frames of two places: the first stands still, the second jumps by 90° once. Rows follow the first tokens of runs."""
    layout = make_layout([(4, 1, 2, 1)])
    tokens = torch.tensor([[1.0, 0], [8, 0], [2, 0], [6, 0], [3, 0], [0, 4], [6, 0], [0, 2]])
    for run in (watched, lambda op: op()):
        merged, weights, runs = run(lambda: merge_similar(tokens, layout, threshold=0.5))
        assert runs.head_frame.tolist() == [0, 0, 0, 0, 0, 2, 0, 2]
        assert merged.tolist() == [[3.0, 0.0], [7.0, 0.0], [0.0, 3.0]]
        assert weights.tolist() == [4.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("second", "head_frames"),
    [
        ([2.0, 0.0, 0.0, 0.0], [0, 0, 0]),  # a cosine of exactly 0.5
        ([2.0, 0.0, 0.0, -0.1], [0, 1, 2]),
        ([0.0, 0.0, 0.0, 0.0], [0, 0, 0]),
        ([math.nan, 1.0, 1.0, 1.0], [0, 1, 2]),
        ([-1.0, -1.0, -1.0, -1.0], [0, 1, 2]),
    ],
)
def test_the_edge_of_the_threshold(second: list[float], head_frames: list[int]) -> None:
    """Against 1 1 1 1 before and after it, with threshold 0.5."""
    layout = make_layout([(3, 1, 1, 1)])
    tokens = torch.tensor([[1.0] * 4, second, [1.0] * 4])
    for run in (watched, lambda op: op()):
        assert run(lambda: similar_runs(tokens, layout, threshold=0.5)).head_frame.tolist() == head_frames


def test_norms_are_float32() -> None:
    """Tokens of length 3·10⁴ have squares that float16 cannot hold."""
    layout = make_layout([(2, 1, 1, 1)])
    tokens = torch.tensor([[3e4, 0.0], [3e4, 3e3]]).half()
    for run in (watched, lambda op: op()):
        assert run(lambda: similar_runs(tokens, layout, threshold=0.9)).head_frame.tolist() == [0, 0]
        assert run(lambda: similar_runs(tokens, layout, threshold=0.999)).head_frame.tolist() == [0, 1]


def test_images_pass_unchanged() -> None:
    layout = make_layout([(1, 2, 3, 2), (1, 1, 4, 1)])
    tokens = torch.randn(10, 6)
    for run in (watched, lambda op: op()):
        merged, weights, runs = run(lambda: merge_similar(tokens, layout, threshold=-0.9))
        assert_close(merged, tokens, atol=0, rtol=0)
        assert weights.tolist() == [1.0] * 10
        assert runs.frame_counts.tolist() == [6, 4]


def test_gradients() -> None:
    shapes = [(3, 1, 2, 2), (0, 1, 1, 1), (1, 1, 2, 1)]
    layout = make_layout(shapes)
    tokens = make_tokens(shapes, 2, torch.float64).requires_grad_()
    runs = similar_runs(tokens, layout, threshold=0.9)
    assert not any(tensor.requires_grad for tensor in runs)
    for rows in (int(runs.keep_mask.sum()) - 1, layout.num_tokens):

        def run(tokens: Tensor, rows: int = rows) -> Tensor:
            return merge_runs(tokens, layout, runs, rows)[0]

        assert torch.autograd.gradcheck(run, tokens)
        with through_triton():
            assert torch.autograd.gradcheck(run, tokens)


def test_a_gradient_that_is_not_contiguous() -> None:
    layout = make_layout([(2, 1, 2, 1)])
    tokens = torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]], dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 3, dtype=torch.float64)
    expected = torch.stack([upstream[:, 0] / 2, upstream[:, 1], upstream[:, 0] / 2, upstream[:, 2]])

    def run() -> Tensor:
        merged, _, _ = merge_similar(tokens, layout, threshold=0.5)
        return torch.autograd.grad((merged.T * upstream).sum(), tokens)[0]

    assert_close(watched(run), expected, atol=1e-12, rtol=0)
    assert_close(run(), expected, atol=1e-12, rtol=0)


def test_opcheck() -> None:
    shapes = [(3, 1, 2, 2), (1, 1, 3, 1)]
    layout = make_layout(shapes)
    tokens = make_tokens(shapes, 3, torch.float32)
    runs = similar_runs(tokens, layout, threshold=0.9)
    opcheck(_similar_runs, (tokens, layout.items, layout.num_frames, 0.9))
    marks = (runs.head_frame, runs.keep_mask, layout.items)
    opcheck(_merge_runs, (tokens.requires_grad_(), *marks, 7))
    weights = merge_runs(tokens, layout, runs, 7)[1]
    opcheck(_merge_runs_backward, (torch.randn(7, 3), weights, *marks))


@pytest.mark.parametrize("by_triton", [False, True])
def test_compiles_at_most_twice_over_fifty_batches(by_triton: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    @torch.compile(backend=counter, fullgraph=True, dynamic=True)
    def run(
        tokens: Tensor, items: Tensor, num_frames: int, num_patches: int, num_tokens: int, rows: int
    ) -> tuple[Tensor, Tensor, Runs]:
        layout = Layout(items, 2, num_frames, num_patches, num_tokens)
        return merge_similar(tokens, layout, threshold=threshold_of[25], num_tokens=rows)

    generator = torch.Generator().manual_seed(0)
    for seed in range(50):
        draws = torch.randint(2, 5, (3, 2), generator=generator).tolist()
        shapes = [(frames, 2, columns, m) for (frames, columns), m in zip(draws, (1, 2, 3), strict=True)]
        shapes = shapes[: draws[0][0]]
        layout = make_layout(shapes)
        tokens = make_tokens(shapes, 4, torch.float32, seed).requires_grad_()
        runs = follow(tokens.detach(), shapes, threshold_of[25])
        upstream = torch.randn(len(runs), 4)
        sizes = (layout.num_frames, layout.num_patches, layout.num_tokens, len(runs))
        with through_triton() if by_triton else nullcontext():
            merged, weights, found = run(tokens, layout.items, *sizes)
            grad = torch.autograd.grad(merged, tokens, upstream)[0]
        expected = expected_means(tokens.detach(), upstream, list(runs.values()))
        assert_close(tuple(found), tuple(expected_runs(runs, shapes)), atol=0, rtol=0)
        for result, true in zip((merged.detach(), weights, grad), expected, strict=True):
            assert_close(result.double(), true.double(), atol=1e-5, rtol=1e-5)
    assert counter.frame_count <= 2


def test_what_it_refuses() -> None:
    layout = make_layout([(2, 1, 2, 1)])
    tokens = torch.randn(4, 3)
    runs = similar_runs(tokens, layout, threshold=0.9)
    with pytest.raises(ValueError, match=r"tokens \(4, 3\) .*contiguous"):
        similar_runs(torch.randn(3, 4).T, layout, threshold=0.9)
    for wrong in (tokens[:3], tokens.flatten(), tokens.int()):
        with pytest.raises(ValueError, match=r"tokens .*\(4, D\)"):
            similar_runs(wrong, layout, threshold=0.9)
        with pytest.raises(ValueError, match=r"tokens .*\(4, D\)"):
            merge_runs(wrong, layout, runs)
    for threshold in (-1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match=r"cosine.* -1\b.*\b1\b"):
            similar_runs(tokens, layout, threshold=threshold)
    with pytest.raises(ValueError, match=r"runs .*\(3,\).*\(4,\).*\b4;"):
        merge_runs(tokens, layout, runs._replace(head_frame=runs.head_frame[:3]))
    with pytest.raises(ValueError, match=r"keep_mask \(4,\) .*contiguous"):
        merge_runs(tokens, layout, runs._replace(keep_mask=torch.ones(4, 2, dtype=torch.bool)[:, 0]))
    for wrong in (runs._replace(head_frame=runs.head_frame.long()), runs._replace(keep_mask=runs.keep_mask.int())):
        with pytest.raises(ValueError, match=r"int32.*bool"):
            merge_runs(tokens, layout, wrong)
    for number in (-1, 5):
        with pytest.raises(ValueError, match=rf"num_tokens .*\b0 to 4\b.* {number}$"):
            merge_runs(tokens, layout, runs, number)


@pytest.mark.interpreter
def test_programs_behind_two_billion_elements() -> None:
    """Program 2^28, whose line of the tile table lies 2^31 numbers on; tokens and rows of 64 channels from 2^27 on."""
    first, program, width = 2**27, 2**28, 64
    shapes = [(3, 1, 2, 1)]
    layout = make_layout(shapes)
    line = torch.cat([layout.items, torch.zeros(1, 1, dtype=torch.int64)], dim=1)
    line[:, 1] = first  # where its tokens start
    tokens = make_tokens(shapes, width, torch.float32)
    runs = follow(tokens, shapes, threshold_of[25])
    head_frame, keep_mask, *_ = expected_runs(runs, shapes)
    shifts = {"tiles": program * TILE_COLUMNS.value, "tokens": first * width, "tokens_grad_out": first * width}
    marks = dict.fromkeys(("head_frame", "keep_mask", "before", "weights", "weights_out"), first)
    rows = dict.fromkeys(("merged_out", "grad"), first * width)

    head_frame_out, keep_mask_out = torch.empty_like(head_frame), torch.empty_like(keep_mask)
    with far(program, **shifts, head_frame_out=first, keep_mask_out=first):
        _runs_kernel[(1,)](
            tokens, line, head_frame_out, keep_mask_out, threshold_of[25], D=width, BLOCK_PLACES=2, BLOCK_D=width
        )
    assert head_frame_out.tolist() == head_frame.tolist()
    assert keep_mask_out.tolist() == keep_mask.tolist()

    before = first + torch.tensor([0, *keep_mask.cumsum(dim=0).tolist()], dtype=torch.int32)
    upstream = torch.randn(len(runs), width)
    merged, weights, grad = expected_means(tokens, upstream, list(runs.values()))
    merged_out, weights_out, tokens_grad_out = torch.empty_like(upstream), torch.empty(len(runs)), torch.empty(6, width)
    sizes = {"D": width, "BLOCK_TOKENS": 8, "BLOCK_D": width}
    num_rows = first + len(runs)
    with far(program, **shifts, **marks, **rows):
        _mean_fwd_kernel[(1,)](
            tokens, head_frame, keep_mask, before, line, merged_out, weights_out, first + 6, num_rows, **sizes
        )
    assert_close(merged_out.double(), merged, atol=1e-5, rtol=1e-5)
    assert weights_out.tolist() == weights.tolist()
    with far(program, **shifts, **marks, **rows):
        _mean_bwd_kernel[(1,)](
            upstream, weights, head_frame, keep_mask, before, line, tokens_grad_out, num_rows, **sizes
        )
    assert_close(tokens_grad_out.double(), grad, atol=1e-5, rtol=1e-5)
