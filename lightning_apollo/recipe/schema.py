"""Recipes: the whole schema, composed of dataclasses that are each declared beside what they configure.

They stand in the `config.py` of each room, which imports neither torch nor lightning: a mistake is answered at once.
How files and words become one recipe is written in layers.py.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import OmegaConf

from lightning_apollo.data.config import DataConfig
from lightning_apollo.data.plan.mixture import check_shares, passes_for_shares
from lightning_apollo.models.config import CALIBRATED, ModelConfig
from lightning_apollo.recipe.conf import conf_folder, recipe_file
from lightning_apollo.recipe.layers import (
    RecipeError,
    Tree,
    apply_word,
    build,
    read_layers,
    short_path,
    suggestion,
    with_defaults,
)
from lightning_apollo.stages import StageConfig, check_stage
from lightning_apollo.training.config import TrainerConfig

__all__ = ["Recipe", "RecipeError", "load_recipe", "load_recipes", "save_recipe"]

COMPATIBILITIES = ("videollama3", "apollo")
_IN_CONF = (
    ("vision", "weights"),
    ("llm", "weights"),
    ("llm", "tokenizer"),
)  # keys of a model that may name folders of conf/
CUSTOM_SOURCE = "custom"  # the source that data.manifests makes


@dataclass(frozen=True)
class Recipe:
    """A run from its first stage to its last."""

    name: str
    model: ModelConfig
    data: DataConfig
    stages: dict[str, StageConfig]  # run in the order in which the YAML names them
    compat: str = "videollama3"  # whose prompt text, resize rule and units are reproduced
    output: str = "runs/${name}"  # one folder per stage below it
    seed: int = 0
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

    def __post_init__(self) -> None:
        for key in ("name", "output"):
            if not getattr(self, key).strip():
                raise ValueError(f"{key} is empty: write {key}=..., which names a folder")
        if self.compat not in COMPATIBILITIES:
            raise ValueError(f"compat is one of {', '.join(COMPATIBILITIES)}, not {self.compat!r}")
        if (self.compat == "apollo") != (self.model.fused is not None):
            encoder = "of clips (model.fused)" if self.model.fused is not None else "of frames (model.vision)"
            raise ValueError(f"compat {self.compat} does not go with an encoder {encoder}")
        self.data.sampling.check_clip(self.model.clip)
        if not self.stages:
            raise ValueError("stages: a recipe has at least one")
        for name, stage in self.stages.items():
            self._check_stage(name, stage)
        first, stage = next(iter(self.stages.items()))
        is_random = stage.init == "previous"  # and nothing is before it
        if self.model.connector.init == CALIBRATED and is_random and "connector" not in stage.trains:
            raise ValueError(
                f"stages.{first}: model.connector.init {CALIBRATED} fits the connector to the first step that trains it, and this "
                f"stage does not: add it to stages.{first}.trains, or set model.connector.init=default"
            )

    def require_positions(self) -> None:
        """RecipeError where a sample may have more tokens than the language model has positions.

        For training alone: what was trained so, by a version that did not look, can be asked.
        """
        positions, longest = self.model.llm.max_position_embeddings, self.data.budget.max_length
        if positions < longest:
            raise RecipeError(
                f"data.budget.max_length is {longest}, but the language model has {positions} positions "
                "(model.llm.max_position_embeddings): lower the first, or raise the second where the model was trained with more"
            )

    def _check_stage(self, name: str, stage: StageConfig) -> None:
        if not name.isidentifier():
            raise ValueError(f"stages.{name}: the name is a folder's: write letters, digits and underscores")
        for source in stage.mixture:
            if source not in self.data.sources:
                raise ValueError(
                    f"stages.{name}.mixture.{source}: no such source{suggestion(source, self.data.sources)}"
                )
        if stage.shares:
            try:
                check_shares(stage.shares)
                sizes = dict.fromkeys(stage.mixture, 1)  # whatever they are: only the modalities are looked at
                modalities = {source: self.data.sources[source].modality for source in stage.mixture}
                passes_for_shares({k: v for k, v in stage.mixture.items() if v}, sizes, modalities, stage.shares)
            except ValueError as error:
                raise ValueError(f"stages.{name}: {error}") from error
        if self.model.fused is not None:
            if (stage.image_merge_size, stage.video_merge_size) != (1, 1):
                raise ValueError(f"stages.{name}: merge sizes are 1 where the encoder takes clips")
            if stage.reducer.kind != "none":
                raise ValueError(f"stages.{name}: reducer.kind is none where the encoder takes clips")
        elif stage.max_clips is not None:
            raise ValueError(f"stages.{name}: max_clips is for encoders of clips")
        self._check_packing(name, stage)
        if stage.is_quantized and (self.trainer.strategy == "fsdp" or self.trainer.precision == "64-true"):
            raise ValueError(f"stages.{name}.lora: quantize goes with neither strategy fsdp nor precision 64-true")
        try:
            check_stage(stage)
        except ValueError as error:
            raise ValueError(f"stages.{name}: {error}") from error

    def _check_packing(self, name: str, stage: StageConfig) -> None:
        """The largest sample that the budget allows must have room in a micro-batch, whatever the data."""
        packing, budget = stage.packing, self.data.budget
        if packing is None:
            return
        if self.data.visuals != "full":
            raise ValueError(f"stages.{name}: packing goes with data.visuals full, not {self.data.visuals}")
        if packing.max_llm_tokens < budget.max_length:
            raise ValueError(
                f"stages.{name}: packing.max_llm_tokens {packing.max_llm_tokens} is less than data.budget.max_length "
                f"{budget.max_length}, which one sample may take"
            )


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Return the recipe of that name in conf/recipe, or of that file, with `key=value` words applied last.

    Raises RecipeError for an unknown key or recipe, a wrong type, a missing value, a key given twice, and values that
    do not go together.
    """
    return load_recipes(name_or_path, [overrides])[0]


def load_recipes(name_or_path: str | Path, choices: Sequence[Sequence[str]]) -> list[Recipe]:
    """Return one recipe for each choice of `key=value` words, like `load_recipe`; the files are read once."""
    path = recipe_file(str(name_or_path))
    written = with_defaults(read_layers(path, Recipe, conf_folder()), Recipe)
    recipes = []
    for overrides in choices:
        tree = written
        for word in overrides:
            tree = apply_word(tree, Recipe, word)
        recipes.append(build(_resolve_folders(_use_manifests(tree)), Recipe, short_path(path)))
    return recipes


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the recipe with nothing left to look up: the file loads back to an equal Recipe.

    Folders of conf/ are written relative to it, so that another installation reads them as its own.
    """
    tree = asdict(recipe)
    for part, key in _IN_CONF:
        model = tree["model"][part]
        if model is not None and model[key] and Path(model[key]).is_relative_to(conf_folder()):
            model[key] = Path(model[key]).relative_to(conf_folder()).as_posix()
    OmegaConf.save(OmegaConf.create(tree), path)


def _use_manifests(tree: Tree) -> Tree:
    """data.manifests points a recipe at other data: they become the one source, which every stage passes over once."""
    data = tree["data"]
    if not isinstance(data, dict) or not data["manifests"]:
        return tree
    sources = {CUSTOM_SOURCE: {"manifests": data["manifests"], "root": data["root"]}}
    stages = {
        name: stage
        if list(stage["mixture"]) == [CUSTOM_SOURCE]
        else {**stage, "mixture": {CUSTOM_SOURCE: 1.0}, "shares": {}}
        for name, stage in tree["stages"].items()
    }
    return {**tree, "data": {**data, "sources": sources, "shapes": None}, "stages": stages}


def _resolve_folders(tree: Tree) -> Tree:
    """Weights and tokenizers that lie in conf/ are named relative to it; any other name is a hub's or a path."""
    model = tree["model"]
    if not isinstance(model, dict):
        return tree
    for part, key in _IN_CONF:
        value = model[part][key] if isinstance(model[part], dict) else None
        if value and (folder := _in_conf(value)) is not None:
            model = {**model, part: {**model[part], key: str(folder)}}
    return {**tree, "model": model}


def _in_conf(name: str) -> Path | None:
    """Path for a name relative to conf/, or for a path in the conf/ of an installation that is gone; None for others."""
    if Path(name).is_absolute() and not Path(name).exists():
        name = name.rpartition("/conf/")[2] or name
    return conf_folder() / name if (conf_folder() / name).exists() else None
