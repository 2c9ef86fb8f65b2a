"""Export a trained stage as a folder for plain transformers, or for our own loader.

model.safetensors       weights, in several files above a size, then with model.safetensors.index.json
lightning_apollo.json   what our own loader needs (exported.py)
config.json ...         what transformers needs (port.py); an Apollo has the tokenizer's files alone
README.md               the run card
fixture/                two small files and what the model makes of them (fixture.py)
"""

import json
from collections.abc import Mapping
from functools import reduce
from pathlib import Path

import torch
from huggingface_hub import split_state_dict_into_shards_factory

from lightning_apollo.files import remove_partials, write_folder_atomically
from lightning_apollo.inference.exported import PORT, export_metadata, load_exported, write_settings
from lightning_apollo.models.checkpoint.expected import check_shapes, shapes_of_recipe
from lightning_apollo.models.checkpoint.files import StoredTensor, open_weights, write_stored
from lightning_apollo.models.checkpoint.layouts import PARTS
from lightning_apollo.models.checkpoint.load import to_port_names
from lightning_apollo.models.llm import load_tokenizer_of
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.structures import WeightsError
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights.fixture import FOLDER, write_fixture
from lightning_apollo.weights.port import check_portable, write_port_files
from lightning_apollo.weights.run_card import run_card

MAX_SHARD_BYTES = 5_000_000_000  # as the hub's own tools split


def export_stage(
    recipe: Recipe, stage: str, weights: Path, output: Path, max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write the folder `output`, all or nothing; WeightsError where it is there already and for what cannot be exported."""
    if output.exists():
        raise WeightsError(f"{output} is there already: name a folder that is not")
    tensors = open_weights(str(weights))
    check_shapes(tensors, shapes_of_recipe(recipe.model, PARTS["all"]), str(weights))
    preparer, reducer = build_data(recipe, stage).preparer, recipe.stages[stage].reducer
    config = export_metadata(recipe.model, reducer, preparer.settings)
    if config.format == PORT:
        check_portable(recipe.model, reducer, preparer)
        tensors = to_port_names(tensors)
    remove_partials(output.parent, output.name)  # what an export that was killed left
    with write_folder_atomically(output) as unfinished:
        write_shards(tensors, unfinished, max_shard_bytes)
        write_settings(config, unfinished)
        placeholders = None
        if config.format == PORT:
            dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))  # what holds all of them
            placeholders = write_port_files(recipe.model, reducer, preparer, dtype, unfinished)
        else:
            load_tokenizer_of(recipe.model.llm).save_pretrained(unfinished)
        (unfinished / "README.md").write_text(run_card(recipe, stage, config, weights.parent))
        write_fixture(load_exported(unfinished), unfinished / FOLDER, placeholders)


def write_shards(tensors: Mapping[str, StoredTensor], folder: Path, max_shard_bytes: int) -> None:
    """Write one file, or several with an index where it would be larger than `max_shard_bytes`; tensor by tensor."""
    split = split_state_dict_into_shards_factory(
        {name: tensors[name] for name in sorted(tensors)},
        get_storage_size=lambda tensor: tensor.num_bytes,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file, names in split.filename_to_tensors.items():
        write_stored({name: tensors[name] for name in names}, folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index, indent=2) + "\n")
