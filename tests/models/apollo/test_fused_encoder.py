"""Two towers on one grid. Padding and interpolation against float64, frozen towers, single frames, no clip at all."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from lightning_apollo.models.apollo.config import FusedEncoderConfig, TowerConfig
from lightning_apollo.models.apollo.fused_encoder import FusedEncoder, onto_grid, padded_square
from lightning_apollo.models.apollo.towers import Tower
from lightning_apollo.recipe.schema import load_recipe
from tests.models.clips import FRAMES, IMAGE, VIDEO, VIDEOMAE, VJEPA2, assert_near, clip_pixels, randomize

HALF = (0.5, 0.5, 0.5)
TOWER_CONFIGS = [IMAGE, VIDEO, VJEPA2, VIDEOMAE]


def encoder(image: TowerConfig | None = IMAGE, video: TowerConfig | None = VIDEO) -> FusedEncoder:
    model = FusedEncoder(FusedEncoderConfig(image, video, FRAMES))
    randomize(model)
    return model.train()


def clips() -> list[Tensor]:
    """A wide clip, a tall image and a square clip."""
    return [clip_pixels(FRAMES, 6, 15, 1), clip_pixels(1, 20, 9, 2), clip_pixels(FRAMES, 8, 8, 3)]


def linear(num_old: int, num_new: int, is_wide: bool) -> Tensor:
    """(new, old) float64: a triangle over each new place, as wide as one old step, or one new step where `is_wide`."""
    step = num_old / num_new
    width = max(step, 1.0) if is_wide else 1.0
    centres = (torch.arange(num_new, dtype=torch.float64) + 0.5) * step - 0.5
    if not is_wide:
        centres = centres.clamp(0, num_old - 1)
    weights = (1 - (centres[:, None] - torch.arange(num_old)).abs() / width).clamp(min=0)
    return weights / weights.sum(dim=1, keepdim=True)


@torch.no_grad()
def test_channels_of_the_image_tower_come_first_then_those_of_the_video_tower() -> None:
    model = encoder()
    features = model(clips())
    parts = []
    for tower in model.towers.values():
        assert isinstance(tower, Tower)
        squares = [padded_square(clip, tower.config.image_size, tower.mean, tower.deviation) for clip in clips()]
        parts.append(onto_grid(tower(torch.stack([one.expand(FRAMES, -1, -1, -1) for one in squares])), (4, 3, 3)))
    assert features.shape == (3, 4, 3, 3, model.config.width)
    assert_near(features, torch.cat(parts, dim=-1))
    assert parts[0].shape[-1] == 24


@pytest.mark.parametrize("old", [(4, 2, 2), (2, 3, 4), (1, 1, 1), (4, 5, 6)])
def test_interpolation_is_linear_over_time_rows_and_columns(old: tuple[int, int, int]) -> None:
    features, new = torch.randn(2, *old, 3), (4, 5, 3)
    matrices = [linear(before, after, is_wide=False) for before, after in zip(old, new, strict=True)]
    expected = torch.einsum("at,br,cs,ktrsd->kabcd", *matrices, features.double())
    assert_near(onto_grid(features, new), expected)
    rough = features.to(torch.bfloat16)
    exact = F.interpolate(rough.float().permute(0, 4, 1, 2, 3), size=new, mode="trilinear", align_corners=False)
    assert torch.equal(onto_grid(rough, new), exact.permute(0, 2, 3, 4, 1).bfloat16())  # rounded once, at the end


def test_an_equal_grid_is_left_alone() -> None:
    features = torch.randn(2, 4, 3, 3, 5)
    assert onto_grid(features, (4, 3, 3)) is features


def test_the_published_sizes() -> None:
    """papers.md 1.1: 1152 + 1408 channels on 4 × 27 × 27 places."""
    config = load_recipe("apollo-3b").model.fused
    assert config is not None
    with torch.device("meta"):
        model = FusedEncoder(config)
    assert (model.grid, config.width, config.image_size) == ((4, 27, 27), 2560, 384)
    assert [tower.grid for tower in model.towers.values()] == [(4, 27, 27), (4, 16, 16)]


@pytest.mark.parametrize("is_tall", [False, True])
def test_eight_pixels_stand_in_the_middle_of_the_mean_colour(is_tall: bool) -> None:
    numbers = torch.tensor([[0, 255, 51, 204], [102, 153, 255, 0]], dtype=torch.uint8)  # /255: 0 1 .2 .8 .4 .6 1 0
    frame = (numbers.T if is_tall else numbers).expand(1, 3, -1, -1)
    expected = torch.zeros(4, 4)
    expected[1:3] = torch.tensor([[-1.0, 1.0, -0.6, 0.6], [-0.2, 0.2, 1.0, -1.0]])
    square = padded_square(frame, 4, HALF, HALF)
    assert_close(square, (expected.T if is_tall else expected).expand(1, 3, 4, 4))
    assert not square[:, :, 0, 0].any()


def test_an_odd_rest_goes_below() -> None:
    square = padded_square(torch.full((1, 3, 3, 4), 255, dtype=torch.uint8), 4, HALF, HALF)
    assert square[0, 0].tolist() == [[1.0] * 4] * 3 + [[0.0] * 4]


@pytest.mark.parametrize(
    ("height", "width", "content"),
    [(30, 20, (12, 8)), (20, 30, (8, 12)), (5, 4, (12, 10)), (9, 9, (12, 12)), (1, 300, (1, 12)), (12, 7, (12, 7))],
)
def test_the_longer_side_is_resized_with_antialias(height: int, width: int, content: tuple[int, int]) -> None:
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    frames = clip_pixels(2, height, width, seed=0)
    rows, columns = linear(height, content[0], is_wide=True), linear(width, content[1], is_wide=True)
    resized = torch.einsum("ay,bx,fcyx->fcab", rows, columns, frames.double() / 255)
    scaled = [(resized[:, i] - mean[i]) / deviation[i] for i in range(3)]
    expected = torch.zeros(2, 3, 12, 12, dtype=torch.float64)
    top, left = ((12 - size) // 2 for size in content)
    expected[:, :, top : top + content[0], left : left + content[1]] = torch.stack(scaled, dim=1)
    square = padded_square(frames, 12, mean, deviation)
    assert_near(square, expected)
    assert torch.equal(square == 0, expected == 0)  # the mean colour is 0, not nearly 0


@torch.no_grad()
def test_one_frame_fills_its_clip() -> None:
    model, image = encoder(), clip_pixels(1, 9, 6, 0)
    assert torch.equal(model([image]), model([image.expand(FRAMES, -1, -1, -1)]))


@pytest.mark.parametrize("config", TOWER_CONFIGS, ids=lambda config: config.kind)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_tower_makes_no_graph(config: TowerConfig, checkpointing: bool) -> None:
    model = encoder(None, config)
    model.set_activation_checkpointing(checkpointing)
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        frozen = model.requires_grad_(False)(clips())
        assert not frozen.requires_grad
        assert not saved
        trained = model.requires_grad_(True)(clips())
    assert trained.requires_grad
    assert saved
    assert_near(frozen, trained.detach())


def test_towers_are_frozen_one_by_one() -> None:
    model = encoder()
    model.towers["image"].requires_grad_(False)
    model(clips()).square().sum().backward()
    assert all(p.grad is None for p in model.towers["image"].parameters())
    assert all(p.grad is not None and p.grad.any() for p in model.towers["video"].parameters())


@pytest.mark.parametrize("config", TOWER_CONFIGS, ids=lambda config: config.kind)
def test_no_clip_gives_no_features_and_gradients_of_zero(config: TowerConfig) -> None:
    model = encoder(None, config)
    features = model([])
    assert features.shape == (0, FRAMES // config.tubelet_size, *model.grid[1:], config.hidden_size)
    features.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert model.requires_grad_(False)([]).shape == features.shape


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"image": None, "video": None}, r"^fused .*image, video"),
        ({"num_frames": 0}, r"num_frames.*encode_batch_size.*\b1$"),
        ({"video": VIDEOMAE, "num_frames": 3}, r"video: num_frames 3 .*tubelet_size 2$"),
    ],
)
def test_an_encoder_that_cannot_be_is_an_error(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(FusedEncoderConfig(IMAGE, VIDEO), **values)


def test_grids_are_the_finest_of_both() -> None:
    assert encoder(IMAGE, VIDEOMAE).grid == (4, 3, 3)
    assert encoder(None, VJEPA2).grid == (2, 3, 3)
