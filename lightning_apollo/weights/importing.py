"""Import published weights. Every tensor of the source is used, or left out for a stated reason, or an error."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from transformers import PreTrainedConfig

from lightning_apollo.inference.exported import is_exported, read_export_metadata, shown_with
from lightning_apollo.models.checkpoint.expected import Shape, check_shapes, shapes_of_itself, shapes_of_recipe
from lightning_apollo.models.checkpoint.files import StoredTensor, local_path, open_weights, write_stored
from lightning_apollo.models.checkpoint.layouts import PARTS, Mapped, map_names
from lightning_apollo.models.config import ModelConfig
from lightning_apollo.models.llm import check_llm, config_of_recipe
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.structures import WeightsError
from lightning_apollo.weights.gguf_files import GGUFSource, read_gguf
from lightning_apollo.weights.llm_files import copy_tokenizer, llm_config_of

WEIGHTS, REPORT = "model.safetensors", "import.json"
RELEASED = "data/released.yaml"  # in conf/
_EMBEDDINGS, _HEAD = "llm.model.embed_tokens.weight", "llm.lm_head.weight"


@dataclass(frozen=True)
class ImportReport:
    """Account of every tensor of the source."""

    source: str
    layout: str
    output: str
    used: dict[str, str]  # our name -> theirs
    unused: dict[str, str]  # their name -> why
    padded: dict[str, str]  # our name -> which rows were added, and what they hold
    data: dict[str, Any]  # `data.sampling` and `data.streams` with which the weights were trained, where that is known

    def lines(self) -> list[str]:
        """The report in short, for people: unused tensors counted by reason."""
        reasons = Counter(self.unused.values())
        return [
            f"{self.source}: {self.layout}",
            f"used    {len(self.used)} tensors -> {self.output}",
            *(f"unused  {count} tensors: {why}" for why, count in reasons.items()),
            *(f"padded  {name}: {rows}" for name, rows in self.padded.items()),
            *([f"data    {json.dumps(self.data)}, as they were trained: `new --from` sets it"] if self.data else []),
        ]


def import_weights(source: str, output: Path, part: str = "all", model: ModelConfig | None = None) -> ImportReport:
    """Write a published checkpoint, or one part of it, under our names; return what became of each of its tensors.

    `source` is a file, a folder or a hub name. An `output` that ends in .safetensors becomes that file, any other a folder
    with model.safetensors, which `stages.NAME.init` and `model.vision.weights` take; with part "llm" the folder is one of
    transformers, with configuration and tokenizer, for `model.llm.weights` and `model.llm.tokenizer`. The report is
    written beside the weights. Tensors must be those of the recipe's `model`, or without one those of a whole model of
    their own sizes: what is missing, unknown or of a wrong shape is a WeightsError. Embeddings of fewer rows than the
    recipe's vocabulary get the mean of their rows in each new one.
    """
    if part not in PARTS:
        raise WeightsError(f"--part {part}: it is one of {', '.join(PARTS)}")
    gguf = read_gguf(source)
    tensors = open_weights(source) if gguf is None else gguf.tensors
    mapped = map_names(tensors, source, part)
    ours = {name: tensors[theirs] for name, theirs in mapped.used.items()}
    if not ours:
        raise WeightsError(f"{source}: {mapped.layout.name} has no part {part}")
    expected = _expected(ours, mapped, part, model)
    ours, unused = _without_tied_head(ours, expected, mapped, source)
    ours, padded = _padded(ours, expected)
    check_shapes(ours, expected, source, mapped.unknown)
    report = ImportReport(
        source=source,
        layout=mapped.layout.name if gguf is None else f"{mapped.layout.name}, dequantised from GGUF",
        output=str(output),
        used={name: mapped.used[name] for name in ours},
        unused=unused,
        padded=padded,
        data=_data_settings(source, mapped) if part == "all" else {},
    )
    llm = _llm_config(source, gguf, model) if "llm" in mapped.parts else None
    if part != "llm" or output.suffix == ".safetensors":
        _write(ours, report, output)
    elif llm is None:
        raise WeightsError(
            f"{source}: no config.json in it that transformers knows: give --recipe, or an OUTPUT.safetensors"
        )
    else:
        _write(ours, report, output, _LLMFiles(llm, gguf))
    return report


def read_data_settings(weights: Path) -> dict[str, Any]:
    """Value of `data` in the report beside imported weights, a file or a folder; empty where there is none."""
    report = weights / REPORT if weights.is_dir() else weights.with_suffix(f".{REPORT}")
    return json.loads(report.read_text()).get("data", {}) if report.is_file() else {}


def _data_settings(source: str, mapped: Mapped) -> dict[str, Any]:
    """Media settings of the weights: as an export of ours says, or as the authors of VideoLLaMA 3 did."""
    if is_exported(Path(source)):
        return shown_with(read_export_metadata(Path(source)))
    if mapped.parts < {"vision_encoder", "connector", "llm"}:
        return {}
    return yaml.safe_load((conf_folder() / RELEASED).read_text())["data"]


def _expected(
    ours: Mapping[str, StoredTensor], mapped: Mapped, part: str, model: ModelConfig | None
) -> dict[str, Shape]:
    parts = mapped.parts
    if model is None:
        return shapes_of_itself({name: tensor.shape for name, tensor in ours.items()}, parts)
    if model.vision is None and parts & {"vision_encoder", "connector"}:
        raise WeightsError(f"{mapped.layout.name}: the recipe's encoder takes clips: import --part llm alone")
    return shapes_of_recipe(model, parts)


def _without_tied_head(
    ours: dict[str, StoredTensor], expected: Mapping[str, Shape], mapped: Mapped, source: str
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Leave out a head that is stored beside embeddings with which the recipe ties it; it must be equal to them."""
    if _HEAD not in ours or _HEAD in expected:
        return ours, mapped.unused
    theirs = mapped.used[_HEAD]
    if _EMBEDDINGS in ours and not torch.equal(ours[_HEAD].read(), ours[_EMBEDDINGS].read()):
        raise WeightsError(
            f"{source}: {theirs} differs from the embeddings, but the recipe ties them: "
            "set model.llm.tie_word_embeddings=false"
        )
    kept = {name: tensor for name, tensor in ours.items() if name != _HEAD}
    return kept, {**mapped.unused, theirs: "equal to the embeddings, with which it is tied"}


def _padded(
    ours: Mapping[str, StoredTensor], expected: Mapping[str, Shape]
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Give embeddings and head the rows of the expected vocabulary that they lack: tokens that were added since."""
    padded, rows = dict(ours), {}
    for name in (_EMBEDDINGS, _HEAD):
        if name not in ours or name not in expected:
            continue
        (num_rows, *width), (num_wanted, *wanted_width) = ours[name].shape, expected[name]
        if num_rows < num_wanted and width == wanted_width:
            padded[name] = replace(ours[name], shape=expected[name], read=_Padded(ours[name], num_wanted))
            rows[name] = f"rows {num_rows} to {num_wanted - 1} are the mean of those before"
    return padded, rows


@dataclass(frozen=True)
class _Padded:
    """Read a table and add rows to it, each the mean of those that it has."""

    table: StoredTensor
    num_rows: int

    def __call__(self) -> Tensor:
        table = self.table.read()
        mean = table.mean(dim=0, dtype=torch.float32).to(table.dtype)
        return torch.cat([table, mean.expand(self.num_rows - len(table), -1)])


def _llm_config(source: str, gguf: GGUFSource | None, model: ModelConfig | None) -> PreTrainedConfig | None:
    """The language model's configuration: the recipe's where there is one, checked against that of the source."""
    theirs = llm_config_of(local_path(source)) if gguf is None else gguf.config
    if model is None:
        return theirs
    if theirs is not None:
        check_llm(model.llm, theirs, source)
        positions = getattr(theirs, "max_position_embeddings", None) or model.llm.max_position_embeddings
        longest = min(positions, model.llm.max_position_embeddings)  # `fit` compares them with what it shows
        return config_of_recipe(replace(model.llm, max_position_embeddings=longest))
    return config_of_recipe(model.llm)


@dataclass(frozen=True)
class _LLMFiles:
    """Files that let transformers load a folder of weights as a language model."""

    config: PreTrainedConfig
    gguf: GGUFSource | None

    def write(self, source: str, folder: Path) -> None:
        self.config.save_pretrained(folder)
        if self.gguf is None:
            copy_tokenizer(local_path(source), folder)
        else:
            self.gguf.write_tokenizer(folder)


def _write(ours: Mapping[str, StoredTensor], report: ImportReport, output: Path, llm: _LLMFiles | None = None) -> None:
    """Write weights and report: one file and the report beside it, or both into a folder, with `llm` as transformers wants."""
    if output.suffix == ".safetensors":
        folder, weights, path = output.parent, output, output.with_suffix(f".{REPORT}")
    else:
        folder, weights, path = output, output / WEIGHTS, output / REPORT
    folder.mkdir(parents=True, exist_ok=True)
    if llm is not None:
        ours = {name.removeprefix("llm."): tensor for name, tensor in ours.items()}
        llm.write(report.source, folder)
    write_stored(ours, weights)
    path.write_text(json.dumps(asdict(report), indent=2) + "\n")
