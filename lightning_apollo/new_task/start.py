"""Start weights of a new task: the model that `--from` names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.inference.exported import is_exported, shown_with
from lightning_apollo.inference.trained import find_stage_of
from lightning_apollo.models.checkpoint.expected import shapes_of_recipe
from lightning_apollo.models.checkpoint.files import open_weights
from lightning_apollo.models.checkpoint.layouts import PARTS
from lightning_apollo.models.config import ModelConfig
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.recipe.schema import Recipe, RecipeError
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.importing import read_data_settings

Compose = Callable[..., Recipe]  # files of conf/ on top of the template -> the recipe


@dataclass(frozen=True)
class Start:
    """Start weights of a new task, with the settings they were trained under."""

    init: str | None  # for `stages.NAME.init`; None: what the template says
    model: ModelConfig
    sampling: SamplingConfig  # the most that the model has been trained on
    budget: BudgetConfig
    system_prompt: str = ""  # with which it was trained
    data: Mapping[str, Any] = field(
        default_factory=dict
    )  # keys of `data`: how it was shown frames; empty: as the template says


def find_start(weights: str | None, compose: Compose) -> Start:
    """Return the start: a finished stage's folder, or weights that `import` wrote, whose shapes tell the model.

    RecipeError for anything else, WeightsError for a file that cannot be read as tensors alone.
    """
    template = compose()
    if weights is None:
        return Start(None, template.model, template.data.sampling, template.data.budget)
    path = Path(weights)
    if not path.exists():
        raise RecipeError(f"{weights}: no such file or folder: `lightning-apollo import` fetches published weights")
    if (path / "recipe.yaml").is_file():
        return _finished_stage(path)
    if path.is_dir() and (is_exported(path) or not (path / WEIGHTS).is_file()):
        raise RecipeError(
            f"{weights}: no folder of a finished stage: make weights of it with "
            f"`lightning-apollo import {weights} start.safetensors`, then --from start.safetensors"
        )
    model, shown = _model_of(path, compose), read_data_settings(path)
    return Start(str(path), model, template.data.sampling, template.data.budget, data=shown)


def _finished_stage(folder: Path) -> Start:
    recipe, _ = find_stage_of(str(folder))
    if not (folder / WEIGHTS).is_file():
        raise RecipeError(f"{folder}: no {WEIGHTS} in it: finish that stage with `lightning-apollo fit` first")
    if recipe.model.vision is None:
        raise RecipeError(f"{folder}: an Apollo: the templates are for VideoLLaMA 3, whose encoder takes frames")
    data = recipe.data
    return Start(str(folder), recipe.model, data.sampling, data.budget, data.system_prompt, shown_with(data))


def _model_of(path: Path, compose: Compose) -> ModelConfig:
    """The template's model, or that of conf/model, of which these are all weights."""
    file = path / WEIGHTS if path.is_dir() else path
    if file.suffix != ".safetensors":
        raise RecipeError(f"{file}: training starts from safetensors: convert it with `lightning-apollo import`")
    shapes = {name: tensor.shape for name, tensor in open_weights(str(file)).items()}
    for model in _models(compose):
        if shapes_of_recipe(model, PARTS["all"]) == shapes:
            return model
    raise RecipeError(
        f"{path}: its shapes are those of no whole model of conf/model: start from the folder of a finished stage, or "
        "import with --recipe"
    )


def _models(compose: Compose) -> Iterator[ModelConfig]:
    yield compose().model
    for file in sorted((conf_folder() / "model").glob("*.yaml")):
        try:
            model = compose(f"model/{file.stem}").model
        except RecipeError:  # an encoder of clips, with which no template goes
            continue
        yield model
