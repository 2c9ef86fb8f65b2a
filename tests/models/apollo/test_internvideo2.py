"""The video tower against its formulas in float64, with softmax and norms written out."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from lightning_apollo.models.apollo.internvideo2 import (
    InternVideo2,
    PatchEmbed,
    random_positions,
    resize_positions,
    sinusoid_positions,
)
from tests.models.clips import assert_near, randomize


def tiny(num_frames: int = 4, tubelet_size: int = 2, num_layers: int = 2) -> InternVideo2:
    model = InternVideo2(
        32, num_layers, 4, 40, patch_size=3, image_size=6, num_frames=num_frames, tubelet_size=tubelet_size
    )
    randomize(model)
    return model.double()


def rms(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-6).sqrt() * weight


def reference_block(weights: dict[str, Tensor], hidden: Tensor, num_heads: int) -> Tensor:
    """(P, D) to (P, D), head by head."""
    width = hidden.shape[1]
    q, k, v = (rms(hidden, weights["norm1.weight"]) @ weights["attn.qkv.weight"].T).split(width, dim=1)
    q, k = rms(q, weights["attn.q_norm.weight"]), rms(k, weights["attn.k_norm.weight"])
    heads = []
    for begin in range(0, width, width // num_heads):
        one = slice(begin, begin + width // num_heads)
        scores = (q[:, one] @ k[:, one].T / math.sqrt(width // num_heads)).exp()
        heads.append(scores / scores.sum(dim=1, keepdim=True) @ v[:, one])
    attended = torch.cat(heads, dim=1) @ weights["attn.proj.weight"].T + weights["attn.proj.bias"]
    hidden = hidden + weights["ls1.gamma"] * attended
    inner = rms(hidden, weights["norm2.weight"]) @ weights["mlp.fc1.weight"].T + weights["mlp.fc1.bias"]
    inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    return hidden + weights["ls2.gamma"] * (inner @ weights["mlp.fc2.weight"].T + weights["mlp.fc2.bias"])


def reference_patches(weight: Tensor, bias: Tensor, clip: Tensor) -> Tensor:
    """(T, 3, S, S) to (P-1, D): each patch cut out by itself."""
    tubelet, patch = weight.shape[2], weight.shape[3]
    places = [range(0, size, step) for size, step in zip(clip.shape[::2], (tubelet, patch), strict=True)]
    rows = [
        (weight * clip[t : t + tubelet, :, y : y + patch, x : x + patch].transpose(0, 1)).sum(dim=(1, 2, 3, 4)) + bias
        for t in places[0]
        for y in places[1]
        for x in places[1]
    ]
    return torch.stack(rows)


def block_weights(state: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    prefix = f"blocks.{layer}."
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


@torch.no_grad()
def test_a_block_equals_its_formulas() -> None:
    model = tiny()
    hidden = torch.randn(2, 7, 32, dtype=torch.float64)
    expected = torch.stack([reference_block(block_weights(model.state_dict(), 0), one, 4) for one in hidden])
    assert_near(model.blocks[0](hidden), expected)


@torch.no_grad()
def test_the_tower_equals_its_formulas_and_drops_the_class_token() -> None:
    model, clips = tiny(), torch.randn(2, 4, 3, 6, 6, dtype=torch.float64)
    state, expected = model.state_dict(), []
    for clip in clips:
        patches = reference_patches(state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], clip)
        hidden = torch.cat([state["cls_token"][0], patches]) + state["pos_embed"][0]
        for layer in range(2):
            hidden = reference_block(block_weights(state, layer), hidden, 4)
        expected.append(hidden[1:].view(2, 2, 2, 32))
    assert_near(model(clips), torch.stack(expected))


def test_patches_come_frame_after_frame_and_row_after_row() -> None:
    embed = PatchEmbed(1, tubelet_size=1, patch_size=2)
    mean = {"proj.weight": torch.full((1, 3, 1, 2, 2), 1 / 12), "proj.bias": torch.zeros(1)}
    embed.load_state_dict(mean)
    numbers = torch.arange(8.0).view(2, 1, 2, 2).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    assert_close(embed(numbers.expand(2, 3, 4, 4)[None]).flatten(), torch.arange(8.0))


def test_sinusoids_by_hand() -> None:
    table = sinusoid_positions((2, 3, 2), 16)
    assert table.shape == (1 + 12, 16)
    assert not table[0].any()  # the class token
    third = 10_000 ** (-1 / 3)

    def waves(position: int, frequencies: tuple[float, ...]) -> list[float]:
        return [f(position * w) for f in (math.sin, math.cos) for w in frequencies]

    time, row, column = 1, 2, 1
    space = (1.0, third, third**2)
    expected = [*waves(time, (1.0, 0.01)), *waves(row, space), *waves(column, space)]
    assert_close(table[1 + 6 * time + 2 * row + column], torch.tensor(expected))


def test_positions_over_time_are_linear_and_the_class_token_stays() -> None:
    table = torch.randn(1, 1 + 2 * 4, 3)
    assert torch.equal(resize_positions(table, (2, 2, 2), 2), table)
    first, second = table[:, 1:5], table[:, 5:]
    expected = [table[:, :1], first, 0.75 * first + 0.25 * second, 0.25 * first + 0.75 * second, second]
    assert_close(resize_positions(table, (4, 2, 2), 2), torch.cat(expected, dim=1))


def cubic(num_old: int, num_new: int) -> Tensor:
    """(new, old) float64: Keys' cubic with a = -0.75, places behind the border count as the border."""
    matrix = torch.zeros(num_new, num_old, dtype=torch.float64)
    for new in range(num_new):
        place = (new + 0.5) * num_old / num_new - 0.5
        for old in range(math.floor(place) - 1, math.floor(place) + 3):
            x = abs(place - old)
            near, far = 1.25 * x**3 - 2.25 * x**2 + 1, -0.75 * (x**3 - 5 * x**2 + 8 * x - 4)
            matrix[new, min(max(old, 0), num_old - 1)] += near if x <= 1 else far
    return matrix


def test_positions_over_space_are_bicubic() -> None:
    table = torch.randn(1, 1 + 2 * 9, 4, dtype=torch.float64)
    planes = table[0, 1:].view(2, 3, 3, 4)
    weights = cubic(3, 5)
    expected = torch.einsum("yr,xc,trcd->tyxd", weights, weights, planes)
    resized = resize_positions(table, (2, 5, 5), 2)
    assert torch.equal(resized[:, 0], table[:, 0])
    assert_near(resized[0, 1:].view(2, 5, 5, 4), expected)
    constant = resize_positions(torch.full((1, 19, 4), 3.0), (4, 5, 5), 2)
    assert_close(constant, torch.full((1, 101, 4), 3.0))


def test_positions_that_are_no_square_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"^21 positions.*\b2 frames"):
        resize_positions(torch.zeros(1, 22, 4), (2, 3, 3), 2)


def test_names_are_those_of_the_released_weights() -> None:
    layer = ["norm1.weight", "attn.qkv.weight", "attn.proj.weight", "attn.proj.bias", "attn.q_norm.weight"]
    layer += ["attn.k_norm.weight", "ls1.gamma", "norm2.weight", "mlp.fc1.weight", "mlp.fc1.bias"]
    layer += ["mlp.fc2.weight", "mlp.fc2.bias", "ls2.gamma"]
    first = ["cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"]
    assert list(tiny().state_dict()) == [*first, *(f"blocks.{i}.{name}" for i in range(2) for name in layer)]


def test_the_1b_model_has_its_size() -> None:
    d, inner, layers, positions = 1408, 6144, 39, 1 + 4 * 16 * 16
    block = 3 * d * d + d * d + d + 2 * d * inner + inner + d + 6 * d  # qkv, projection, MLP, four norms and two scales
    expected = layers * block + (3 * 14 * 14 * d + d) + d + positions * d
    with torch.device("meta"):
        model = InternVideo2(d, layers, 16, inner, patch_size=14, image_size=224, num_frames=4)
    assert sum(p.numel() for p in model.parameters()) == expected == 986_975_872


def test_activation_checkpointing_changes_no_gradient() -> None:
    model, clips = tiny().train(), torch.randn(2, 4, 3, 6, 6, dtype=torch.float64)
    gradients, runs = [], []
    model.blocks[0].register_forward_pre_hook(lambda *_: runs.append(model.activation_checkpointing))
    for enabled in (False, True):
        model.activation_checkpointing = enabled
        model.zero_grad()
        model(clips).square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert runs == [False, True, True]  # forward; forward and again in the backward pass
    assert all(gradient is not None and gradient.any() for gradient in gradients[0].values())
    assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def test_random_positions_are_sums_over_time_and_place() -> None:
    torch.manual_seed(0)
    table = random_positions((4, 2, 2), 64, 3.0)
    assert table.shape == (17, 64)
    assert torch.equal(table[0], torch.zeros(64))
    cube = table[1:].view(4, 2, 2, 64)
    step = cube[1] - cube[0]  # the same for every place: time adds to row and column
    torch.testing.assert_close(step, step[:1, :1].expand_as(step), rtol=0, atol=1e-5)
    assert float(cube.std()) == pytest.approx(3 * 3**0.5, rel=0.15)
    model = InternVideo2(32, 1, 2, 48, 8, 16, num_frames=2, position_deviation=3.0)
    assert float(model.pos_embed[:, 1:].detach().abs().max()) > 2  # sinusoids stay within 1
