"""Every tower against transformers' own class with all its layers, its weights read from the file that this class saves."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import (
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    VideoMAEConfig,
    VideoMAEForPreTraining,
    VideoMAEModel,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2Model,
)

from lightning_apollo.models.apollo.config import TOWER_KINDS, TowerConfig
from lightning_apollo.models.apollo.towers import TOWERS, Tower
from lightning_apollo.models.checkpoint.load import load_tower_weights
from tests.models.clips import FRAMES, IMAGE, VIDEO, VIDEOMAE, VJEPA2, randomize
from tests.tolerances import MODEL

SIGLIP_SIZES = SiglipVisionConfig(
    hidden_size=24, num_hidden_layers=3, num_attention_heads=2, intermediate_size=40, patch_size=4, image_size=12
)
SIGLIP_TEXT = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}
SIGLIP_BOTH = SiglipConfig(vision_config=SIGLIP_SIZES.to_dict(), text_config=SIGLIP_TEXT)
VJEPA2_SIZES = VJEPA2Config(
    hidden_size=36,
    num_hidden_layers=3,
    num_attention_heads=2,
    mlp_ratio=44.5 / 36,
    patch_size=4,
    crop_size=12,
    frames_per_clip=FRAMES,
    pred_hidden_size=12,
    pred_num_attention_heads=2,
    pred_num_hidden_layers=1,
    num_pooler_layers=1,
)
VIDEOMAE_SIZES = VideoMAEConfig(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=2,
    intermediate_size=48,
    patch_size=4,
    image_size=8,
    num_frames=FRAMES,
    decoder_hidden_size=24,
    decoder_num_attention_heads=2,
    decoder_num_hidden_layers=1,
    decoder_intermediate_size=24,
)
# Each kind alone, and as a part of a model whose other parts the tower leaves out; the part that gives the features
PUBLISHED = {
    "siglip": (IMAGE, lambda: SiglipVisionModel(SIGLIP_SIZES), ""),
    "siglip with text": (IMAGE, lambda: SiglipModel(SIGLIP_BOTH), "vision_model"),
    "vjepa2": (VJEPA2, lambda: VJEPA2Model(VJEPA2_SIZES), ""),
    "vjepa2 with classes": (VJEPA2, lambda: VJEPA2ForVideoClassification(VJEPA2_SIZES), "vjepa2"),
    "videomae": (VIDEOMAE, lambda: VideoMAEModel(VIDEOMAE_SIZES), ""),
    "videomae with decoder": (VIDEOMAE, lambda: VideoMAEForPreTraining(VIDEOMAE_SIZES), "videomae"),
}


def published(name: str) -> tuple[TowerConfig, PreTrainedModel, PreTrainedModel]:
    """The tower's config, transformers' model and its part that sees."""
    config, build, part = PUBLISHED[name]
    model = build().eval()
    randomize(model)
    return config, model, model.get_submodule(part)


def outputs_of_layers(part: PreTrainedModel, clips: Tensor) -> list[Tensor]:
    """Output of each layer, as a hook sees it."""
    outputs: list[Tensor] = []

    def keep(_layer: nn.Module, _inputs: tuple[Tensor, ...], output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    encoder = part.get_submodule("encoder")
    layers = next(child for child in encoder.children() if isinstance(child, nn.ModuleList))
    for layer in layers:
        layer.register_forward_hook(keep)
    part(clips.flatten(0, 1) if isinstance(part, SiglipVisionModel) else clips)
    return outputs


@torch.no_grad()
@pytest.mark.parametrize("select_layer", [-1, -2])
@pytest.mark.parametrize("name", list(PUBLISHED))
def test_features_are_those_of_the_selected_layer(name: str, select_layer: int, tmp_path: Path) -> None:
    config, model, part = published(name)
    model.save_pretrained(tmp_path)
    config = replace(config, select_layer=select_layer, weights=str(tmp_path))
    tower = TOWERS[config.kind](config, FRAMES).eval()
    load_tower_weights(tower.get_submodule("model"), config)
    clips = torch.randn(2, FRAMES, 3, config.image_size, config.image_size)
    expected = outputs_of_layers(part, clips)[select_layer]
    side = config.image_size // config.patch_size
    features = tower(clips)
    assert features.shape == (2, FRAMES // config.tubelet_size, side, side, config.hidden_size)
    assert_close(features, expected.view_as(features), atol=MODEL[torch.float32], rtol=MODEL[torch.float32])


@pytest.mark.parametrize("config", [IMAGE, VIDEO, VJEPA2, VIDEOMAE], ids=lambda config: config.kind)
def test_only_layers_that_run_are_built_and_each_parameter_gets_a_gradient(config: TowerConfig) -> None:
    tower = TOWERS[config.kind](config, FRAMES).train()
    randomize(tower)
    clips, gradients = torch.randn(2, FRAMES, 3, config.image_size, config.image_size), []
    for enabled in (False, True):
        tower.set_activation_checkpointing(enabled)
        runs = count_runs(tower)
        tower.zero_grad()
        tower(clips).square().sum().backward()
        assert len(runs) == config.num_built_layers * (2 if enabled else 1)
        gradients.append({name: p.grad for name, p in tower.named_parameters()})
    assert config.num_built_layers == 2  # of three, for the layer before the last
    assert all(gradient is not None and gradient.any() for gradient in gradients[0].values())
    assert_close(gradients[0], gradients[1], atol=0, rtol=0)


def count_runs(tower: Tower) -> list[int]:
    """A list that grows whenever the first norm of a layer runs: transformers' hooks of a layer see no recomputation."""
    runs: list[int] = []
    for name, module in tower.named_modules():
        if name.endswith((".norm1", ".layer_norm1", ".layernorm_before")):
            module._forward_pre_hooks.clear()  # those of an earlier count
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


def test_a_number_that_is_no_multiple_keeps_its_size() -> None:
    """V-JEPA 2 takes the MLP's size as a ratio: 240 / 176 × 176 is a little less than 240."""
    config = TowerConfig("vjepa2", 176, 1, 2, intermediate_size=240, patch_size=4, image_size=8, select_layer=-1)
    with torch.device("meta"):
        tower = TOWERS["vjepa2"](config, FRAMES)
    assert tower.get_parameter("model.encoder.layer.0.mlp.fc1.bias").shape == (240,)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "clip"}, r"kind .*siglip, internvideo2, vjepa2, videomae.*'clip'"),
        ({"select_layer": 0}, r"select_layer .*-1 to -3.*\b0$"),
        ({"select_layer": -4}, r"select_layer .*-1 to -3.*-4$"),
        ({"num_heads": 5}, r"hidden_size 24 .*num_heads 5$"),
        ({"kind": "internvideo2"}, r"hidden_size 24 .*\b16\b"),
    ],
)
def test_a_tower_that_cannot_be_is_an_error(values: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(IMAGE, **values)


def test_the_colours_are_those_that_the_models_were_trained_with() -> None:
    imagenet = (0.485, 0.456, 0.406, 0.229, 0.224, 0.225)
    expected = {"siglip": (0.5,) * 6, "internvideo2": imagenet, "vjepa2": imagenet, "videomae": imagenet}
    assert {kind: (*tower.mean, *tower.deviation) for kind, tower in TOWERS.items()} == expected


def test_a_recipe_takes_every_tower_that_there_is() -> None:
    assert tuple(TOWERS) == TOWER_KINDS
