"""Published weights of the towers: wrapped or prefixed, with extra or missing tensors."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.testing import assert_close
from transformers import SiglipVisionConfig, SiglipVisionModel

from lightning_apollo.models.apollo.config import TowerConfig
from lightning_apollo.models.apollo.internvideo2 import InternVideo2, resize_positions
from lightning_apollo.models.apollo.towers import InternVideo2Tower
from lightning_apollo.models.checkpoint.load import load_pretrained, load_tower_weights, load_weights, save_weights
from lightning_apollo.models.llm import load_llm
from lightning_apollo.structures import WeightsError
from tests.models.clips import CLIP_MODEL, FRAMES, FUSED, IMAGE, clip_model, randomize

# 16 × 16 patches a frame, as all released weights have
RELEASED = TowerConfig("internvideo2", 16, num_layers=3, num_heads=2, intermediate_size=24, patch_size=1, image_size=16)


def release(num_frames: int, path: Path, config: TowerConfig = RELEASED, wrapper: str = "module") -> dict[str, Tensor]:
    """Write a .pt file with all layers for clips of `num_frames`; return the tensors of the vision encoder."""
    model = InternVideo2Tower(replace(config, select_layer=-1), num_frames).model
    randomize(model)
    state = {f"vision_encoder.{name}": tensor for name, tensor in model.state_dict().items()}
    others = ("vision_encoder.clip_projector.weight", "text_encoder.weight", "temp")
    state |= {name: torch.ones(2) for name in others}
    torch.save({wrapper: state, "epoch": 3}, path)
    return model.state_dict()


def internvideo2(path: Path, config: TowerConfig = RELEASED) -> InternVideo2:
    """The tower with the weights at `path`."""
    config = replace(config, weights=str(path))
    model = InternVideo2Tower(config, FRAMES).model
    load_tower_weights(model, config)
    return model


@pytest.mark.parametrize(("wrapper", "image_size"), [("module", 16), ("model", 16), ("state_dict", 6)])
def test_internvideo2_is_found_in_its_wrapper_below_its_prefix(wrapper: str, image_size: int, tmp_path: Path) -> None:
    config = replace(RELEASED, image_size=image_size)  # positions that fit are taken as they are, released or not
    theirs = release(FRAMES, tmp_path / "f4.pt", config, wrapper)
    ours = internvideo2(tmp_path / "f4.pt", config).state_dict()
    assert not [name for name in ours if name.startswith("blocks.2.")]  # behind the selected layer
    assert_close(ours, {name: theirs[name] for name in ours}, atol=0, rtol=0)


def test_positions_of_eight_frames_become_those_of_four(tmp_path: Path) -> None:
    theirs = release(8, tmp_path / "f8.pt")["pos_embed"]
    ours = internvideo2(tmp_path / "f8.pt").pos_embed
    pairs = theirs[:, 1:].view(1, 4, 2, 256, 16).mean(dim=2)  # half as many: each is the mean of two
    assert_close(ours, torch.cat([theirs[:, :1], pairs.flatten(1, 2)], dim=1))


def test_positions_for_larger_frames_are_taken_for_what_they_are(tmp_path: Path) -> None:
    """1,024 places are 4 frames of 16 × 16, though they would also make one of the tower's 32 × 32."""
    theirs = release(4, tmp_path / "f4.pt")["pos_embed"]
    ours = internvideo2(tmp_path / "f4.pt", replace(RELEASED, image_size=32)).pos_embed
    assert_close(ours, resize_positions(theirs, (FRAMES, 32, 32), old_num_frames=4))


def test_positions_of_other_sizes_are_an_error(tmp_path: Path) -> None:
    release(FRAMES, tmp_path / "small.pt", replace(RELEASED, image_size=6))
    with pytest.raises(WeightsError, match=r"pos_embed.*145 places.*16×16"):
        internvideo2(tmp_path / "small.pt")


@pytest.mark.parametrize("lost", ["pos_embed", "blocks.1.ls2.gamma"])
def test_what_the_weights_lack_is_named(lost: str, tmp_path: Path) -> None:
    state = release(FRAMES, tmp_path / "whole.pt")
    torch.save({name: tensor for name, tensor in state.items() if name != lost}, tmp_path / "part.pt")
    with pytest.raises(WeightsError, match=rf"part\.pt: .*{lost}$"):
        internvideo2(tmp_path / "part.pt")


def siglip(folder: Path, image_size: int = IMAGE.image_size) -> dict[str, Tensor]:
    """Save transformers' class as it saves itself; return its tensors."""
    sizes = SiglipVisionConfig(
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=40,
        patch_size=4,
        image_size=image_size,
    )
    model = SiglipVisionModel(sizes)
    model.save_pretrained(folder)
    return model.state_dict()


def test_weights_of_another_size_are_named(tmp_path: Path) -> None:
    siglip(tmp_path, image_size=16)
    config = replace(CLIP_MODEL, fused=replace(FUSED, image=replace(IMAGE, weights=str(tmp_path))))
    said = r"embeddings.position_embedding.weight is \(16, 24\), in the recipe \(9, 24\)$"
    with pytest.raises(WeightsError, match=said):
        load_pretrained(clip_model(), config)


@pytest.mark.parametrize("name", ["google/not-there", "no/such/file.pt"])
def test_a_name_that_is_nowhere_is_said_in_one_line(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"^{name}: .*hub.*: .+$"):
        internvideo2(Path(name))


def test_a_file_without_the_tower_is_said(tmp_path: Path) -> None:
    save_file({"other.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match=r"other.safetensors: 0 parts.*patch_embed.proj.weight.*1 tensors"):
        internvideo2(tmp_path / "other.safetensors")


def test_the_towers_that_name_weights_start_from_them(tmp_path: Path) -> None:
    theirs = siglip(tmp_path)
    fused = replace(FUSED, image=replace(IMAGE, weights=str(tmp_path)))
    model, untouched = clip_model(), clip_model()
    load_pretrained(model, replace(CLIP_MODEL, fused=fused))
    ours = model.get_submodule("vision_encoder.towers.image.model").state_dict()
    assert_close(ours, {name: theirs[name] for name in ours}, atol=0, rtol=0)
    for name, parameter in untouched.named_parameters():
        assert name.startswith("vision_encoder.towers.image.") or torch.equal(parameter, model.get_parameter(name))


def test_weights_survive_the_round_trip(tmp_path: Path) -> None:
    model, other = clip_model(), clip_model()
    randomize(other, seed=1)
    save_weights(model, tmp_path / "weights.safetensors")
    load_weights(other, tmp_path / "weights.safetensors")
    assert_close(other.state_dict(), model.state_dict(), atol=0, rtol=0)
    del model.connector
    with pytest.raises(WeightsError, match="missing nothing; unknown connector"):
        load_weights(model, tmp_path / "weights.safetensors")


def test_a_language_model_of_another_size_is_named(tmp_path: Path) -> None:
    clip_model().llm.save_pretrained(tmp_path)
    config = replace(CLIP_MODEL.llm, weights=str(tmp_path))
    assert load_llm(config).config.hidden_size == config.hidden_size
    with pytest.raises(WeightsError, match=r"model.llm.num_layers.*3.*2"):
        load_llm(replace(config, num_layers=3))
    with pytest.raises(WeightsError, match=r"rope_theta.*1e\+06.*model\.llm\.rope_theta.*10000"):
        load_llm(replace(config, rope_theta=10_000.0))
