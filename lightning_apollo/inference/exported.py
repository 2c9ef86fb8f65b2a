"""Read an exported folder: weights, tokenizer and lightning_apollo.json with all the rest."""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from lightning_apollo.data.config import DataConfig
from lightning_apollo.data.media.config import PictureConfig
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.prompt.config import ClipTextConfig
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.checkpoint.expected import check_shapes, shapes_of_recipe
from lightning_apollo.models.checkpoint.files import open_weights
from lightning_apollo.models.checkpoint.layouts import PARTS
from lightning_apollo.models.checkpoint.load import from_port_names, tied_names
from lightning_apollo.models.config import ModelConfig, ReducerConfig
from lightning_apollo.models.llm import load_tokenizer_of
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.layers import build
from lightning_apollo.structures import WeightsError

SETTINGS = "lightning_apollo.json"
PORT, OWN = "video_llama_3", "lightning_apollo"  # who names the tensors: transformers' class, or we


@dataclass(frozen=True)
class ExportedConfig:
    """Configuration to run an exported model as it was trained. Nothing in it names a file."""

    format: str  # video_llama_3: names of transformers' class | lightning_apollo: our own
    model: ModelConfig
    reducer: ReducerConfig
    sampling: SamplingConfig
    budget: BudgetConfig
    clip_text: ClipTextConfig  # between clips, for encoders that take clips
    image_merge_size: int  # side of the square of patches that becomes one visual token
    video_merge_size: int
    system_prompt: str = ""  # put before conversations that bring none
    stream_max_frames: int = 400  # frames of a stream
    picture: PictureConfig = field(default_factory=PictureConfig)  # how still pictures are shown
    streams: str = "ours"  # as in DataConfig

    def __post_init__(self) -> None:
        if self.format not in (PORT, OWN):
            raise ValueError(f"format is {PORT} or {OWN}, not {self.format!r}")


def export_metadata(model: ModelConfig, reducer: ReducerConfig, settings: Preprocessing) -> ExportedConfig:
    """Metadata of an export of this model; weights and tokenizer are those in the folder."""
    llm = replace(model.llm, weights=None, tokenizer=".")
    model = replace(model, llm=llm, vision=model.vision and replace(model.vision, weights=None))
    if model.fused is not None:
        towers = {name: replace(tower, weights=None) for name, tower in model.fused.towers.items()}
        model = replace(model, fused=replace(model.fused, **towers))
    return ExportedConfig(
        format=OWN if model.vision is None else PORT,
        model=model,
        reducer=reducer,
        sampling=settings.sampling,
        budget=settings.budget,
        clip_text=settings.clip_text,
        image_merge_size=settings.image_merge_size,
        video_merge_size=settings.video_merge_size,
        system_prompt=settings.system_prompt,
        stream_max_frames=settings.stream_max_frames,
        picture=settings.picture,
        streams=settings.streams,
    )


def shown_with(config: ExportedConfig | DataConfig) -> dict[str, Any]:
    """Keys of a recipe's `data` that say how a model is shown frames and their times."""
    sampling = config.sampling
    return {
        "sampling": {"clock": sampling.clock, "phase": sampling.phase, "repeats": sampling.repeats},
        "streams": config.streams,
    }


def write_settings(config: ExportedConfig, folder: Path) -> None:
    """Write lightning_apollo.json."""
    (folder / SETTINGS).write_text(json.dumps(asdict(config), indent=2) + "\n")


def is_exported(folder: Path) -> bool:
    """True if `load_exported` reads this folder."""
    return (folder / SETTINGS).is_file()


def read_export_metadata(folder: Path) -> ExportedConfig:
    """Contents of lightning_apollo.json."""
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text())
    return build(settings, ExportedConfig, str(folder / SETTINGS))


def load_exported(folder: Path, device: torch.device | str = "cpu") -> TrainedModel:
    """The model of an exported folder, in float32, with its tokenizer and the preprocessing of its training.

    WeightsError for a folder that `lightning-apollo export` did not write, or whose tensors are not those of its model.
    """
    if not is_exported(folder):
        raise WeightsError(f"{folder}: no {SETTINGS} in it: name a folder that `lightning-apollo export` wrote")
    config = read_export_metadata(folder)
    tensors = open_weights(str(folder))
    if config.format == PORT:
        tensors = from_port_names(tensors)
    check_shapes(tensors, shapes_of_recipe(config.model, PARTS["all"]), str(folder))
    model = build_model(config.model, config.reducer)
    result = model.load_state_dict({name: tensor.read() for name, tensor in tensors.items()}, strict=False)
    assert set(result.missing_keys) <= tied_names(model)  # all others were checked
    tokenizer = load_tokenizer_of(config.model.llm, str(folder))
    settings = Preprocessing(
        tokenizer=tokenizer,
        patch_size=config.model.patch_size,
        image_merge_size=config.image_merge_size,
        video_merge_size=config.video_merge_size,
        sampling=config.sampling,
        budget=config.budget,
        system_prompt=config.system_prompt,
        stream_max_frames=config.stream_max_frames,
        streams=config.streams,
        clip=config.model.clip,
        clip_text=config.clip_text,
        picture=config.picture,
    )
    return TrainedModel(model.eval().to(device), tokenizer, Preparer(settings))
