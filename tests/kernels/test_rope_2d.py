"""2D-RoPE: the Triton kernel and its definition against complex multiplication in float64."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.testing import assert_close

from apollo_kernels import rope_2d, rope_2d_tables
from apollo_kernels.rope_2d import _rotate, _rotate_kernel
from tests.kernels.cases import SETTINGS, opcheck, through_triton, watched
from tests.tolerances import SUMMATION
from verification.far import far

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


def make_inputs(
    num_patches: int, heads: int, head_dim: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q, k and the tables, float64 ones for float64."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randint(0, 200, (num_patches, 2), generator=generator)
    q, k = (torch.randn(num_patches, heads, head_dim, generator=generator).to(dtype) for _ in range(2))
    cos, sin = rope_2d_tables(positions, head_dim)
    return (q, k, cos.double(), sin.double()) if dtype == torch.float64 else (q, k, cos, sin)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Channels (i, i + D/2) as one complex number, times cos + i·sin."""
    half = x.shape[-1] // 2
    pair = torch.complex(x[..., :half].double(), x[..., half:].double())
    result = pair * torch.complex(cos.double(), sin.double())[:, None]
    return torch.cat([result.real, result.imag], dim=-1)


def assert_turned(results: tuple[Tensor, Tensor], q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> None:
    tolerance = SUMMATION[q.dtype]
    for result, x in zip(results, (q, k), strict=True):
        assert result.dtype == x.dtype
        assert result.shape == x.shape
        assert_close(result.double(), turned(x, cos, sin), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@SETTINGS
@given(st.integers(0, 40), st.integers(1, 5), st.sampled_from([4, 8, 20, 72]), st.integers(0, 2**31))
def test_kernel_and_definition_turn_each_pair(
    dtype: torch.dtype, num_patches: int, heads: int, head_dim: int, seed: int
) -> None:
    inputs = make_inputs(num_patches, heads, head_dim, dtype, seed)
    assert_turned(watched(lambda: rope_2d(*inputs)), *inputs)
    assert_turned(rope_2d(*inputs), *inputs)


@pytest.mark.parametrize("tiles", ["cuda", "hip"])
@pytest.mark.parametrize(
    "num_patches", [1, 2, 3, 17]
)  # 16 heads: tiles of 32 and 64 rows end inside, at and before a patch
def test_production_tiles(num_patches: int, tiles: str) -> None:
    inputs = make_inputs(num_patches, 16, 72, torch.bfloat16)
    assert_turned(watched(lambda: rope_2d(*inputs), tiles), *inputs)


def test_tables_turn_by_row_then_by_column() -> None:
    """D = 8: frequencies 1 and 1/100; row 3 and column 50 give the four angles 3, 0.03, 50, 0.5."""
    cos, sin = rope_2d_tables(torch.tensor([[3, 50]]), 8)
    angles = torch.tensor([[3.0, 0.03, 50.0, 0.5]])
    assert_close(cos, angles.cos(), atol=1e-5, rtol=0)
    assert_close(sin, angles.sin(), atol=1e-5, rtol=0)


def test_a_quarter_turn_by_hand() -> None:
    """cos 0, sin 1: (a, b) becomes (−b, a)."""
    q = torch.arange(1.0, 9.0).view(1, 2, 4)
    cos, sin = torch.zeros(1, 2), torch.ones(1, 2)
    expected = [[-3.0, -4.0, 1.0, 2.0], [-7.0, -8.0, 5.0, 6.0]]
    turned_q, turned_k = watched(lambda: rope_2d(q, q + 10, cos, sin))
    assert turned_q[0].tolist() == expected
    assert turned_k[0].tolist() == [[-13.0, -14.0, 11.0, 12.0], [-17.0, -18.0, 15.0, 16.0]]


def test_gradients() -> None:
    q, k, cos, sin = make_inputs(3, 2, 8, torch.float64)
    q.requires_grad_()
    k.requires_grad_()

    def run(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return rope_2d(q, k, cos, sin)

    assert torch.autograd.gradcheck(run, (q, k))
    assert torch.autograd.gradgradcheck(run, (q, k))
    with through_triton():
        assert torch.autograd.gradcheck(run, (q, k))


def test_a_gradient_that_is_not_contiguous() -> None:
    """`sum` gives an expanded gradient, a transposed consumer a strided one; only q is used."""
    q, k, cos, sin = make_inputs(5, 2, 8, torch.float64)
    q.requires_grad_()
    weights = torch.randn(8, 2, 5, dtype=torch.float64)

    def gradient() -> Tensor:
        return torch.autograd.grad((rope_2d(q, k, cos, sin)[0].permute(2, 1, 0) * weights).sum(), q)[0]

    expected = turned(weights.permute(2, 1, 0), cos, -sin)
    assert_close(watched(gradient), expected, atol=1e-12, rtol=0)
    assert_close(gradient(), expected, atol=1e-12, rtol=0)


def test_opcheck() -> None:
    q, k, cos, sin = make_inputs(4, 2, 8, torch.float32)
    opcheck(_rotate, (q.requires_grad_(), k.requires_grad_(), cos, sin, False))


@pytest.mark.parametrize("by_triton", [False, True])
def test_compiles_at_most_twice_over_fifty_lengths(by_triton: bool) -> None:
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(rope_2d, backend=counter, fullgraph=True, dynamic=True)
    lengths = torch.randint(1, 60, (50,)).tolist()

    def run() -> None:
        for seed, length in enumerate(lengths):
            q, k, cos, sin = make_inputs(length, 2, 8, torch.float32, seed)
            q.requires_grad_()
            k.requires_grad_()
            out = compiled(q, k, cos, sin)
            assert_turned((out[0].detach(), out[1].detach()), q.detach(), k.detach(), cos, sin)
            (grad,) = torch.autograd.grad(out[0].sum(), q)
            assert_close(grad.double(), turned(torch.ones_like(q), cos, -sin), atol=1e-5, rtol=0)

    with through_triton() if by_triton else nullcontext():
        run()
    assert counter.frame_count <= 2


def test_what_it_refuses() -> None:
    q, k, cos, sin = make_inputs(6, 2, 8, torch.float32)
    with pytest.raises(ValueError, match=r"\bq \(6, 2, 8\) .*contiguous"):
        rope_2d(q.transpose(0, 1).contiguous().transpose(0, 1), k, cos, sin)
    with pytest.raises(ValueError, match=r"\bsin .*contiguous"):
        rope_2d(q, k, cos, sin.T.contiguous().T)
    for wrong in [
        (q, k[:5], cos, sin),
        (q, k.double(), cos, sin),
        (q, k, cos[:5], sin),
        (q, k, cos, sin[:, :3].clone()),
    ]:
        with pytest.raises(ValueError, match=r"\bq .*\bk \("):
            rope_2d(*wrong)
    with pytest.raises(ValueError, match="multiple of 4"):
        rope_2d(q[..., :6].clone(), k[..., :6].clone(), cos[:, :3].clone(), sin[:, :3].clone())


@pytest.mark.interpreter
def test_programs_behind_two_billion_elements() -> None:
    """Program 2^20 of 4096 rows: its rows start at 2^32, in the table at row 2^31."""
    q, k, cos, sin = make_inputs(3, 2, 8, torch.float32)
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    first_row = 2**20 * 4096
    elements, angles = first_row * 8, first_row // 2 * 4
    with far(2**20, q=elements, k=elements, q_out=elements, k_out=elements, cos=angles, sin=angles):
        _rotate_kernel[(1,)](
            q, k, cos, sin, q_out, k_out, first_row + 6,
            HEADS=2, HALF=4, INVERSE=False, BLOCK_ROWS=4096, BLOCK_HALF=4,
        )  # fmt: skip
    assert_turned((q_out, k_out), q, k, cos, sin)
