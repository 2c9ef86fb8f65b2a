"""Unknown keys and values: one line before torch is loaded, by every command and at any depth."""

import shlex
from pathlib import Path

import pytest

from tests.recipe.test_early_checks import CLI, run_python

MAX_RATIO = 1.5  # CPU time of an answer over that of `import torch`; about 0.4
TRIES = 3  # the best counts

COMMANDS = {  # command -> what its answer names
    "fit videollama3-tiny data.mytypo=1": "data.mytypo: unknown key",
    "fit videollama3-tiny trainer.mytypo=1": "trainer.mytypo: unknown key",
    "fit videollama3-tiny mytypo=1": "mytypo: unknown key",
    "fit apollo-tiny model.fused.video.mytypo=1": "model.fused.video.mytypo: unknown key",
    "fit videollama3-tiny stages.multi_task_fine_tuning.optimizer.mytypo=1": "optimizer.mytypo: unknown key",
    "fit videollama3-tiny stages.mytypo.init=x": "stages.mytypo: unknown key",
    "fit videollama3-tiny trainer.precision=9": "trainer: precision is one of",
    "fit videollama3-tiny model.connector.kind=9": "connector.kind is one of",
    "fit videollama3-tiny stages.multi_task_fine_tuning.kind=MultiTask": "did you mean MultiTaskFineTuning?",
    "fit apollo-tiny seed=one": "seed: ",
    "fit typo.yaml": "typo.yaml: data.shapes.mytypo: unknown key",
    "fit above.yaml": "typo.yaml: data.shapes.mytypo: unknown key",
    "explain videollama3-tiny data.sampling.mytypo=1": "data.sampling.mytypo: unknown key",
    "explain typo.yaml": "typo.yaml: data.shapes.mytypo: unknown key",
    "inspect videollama3-tiny data.budget.mytypo=1": "data.budget.mytypo: unknown key",
    "demo typo.yaml": "typo.yaml: data.shapes.mytypo: unknown key",
    "generate stage data.mytypo=1 --prompt x": "data.mytypo: unknown key",
    "chat stage model.mytypo=1": "model.mytypo: unknown key",
    "evaluate stage data.mytypo=1 --data rows.jsonl": "data.mytypo: unknown key",
    "evaluate stage data.mytypo=1 --benchmark mvbench --data .": "data.mytypo: unknown key",
    "evaluate export data.mytypo=1 --data rows.jsonl": "leave data.mytypo=1 out",
    "export spoilt out": "recipe.yaml: mytypo: unknown key",
    "import . out.safetensors --recipe typo.yaml": "typo.yaml: data.shapes.mytypo: unknown key",
    "data index --recipe typo.yaml": "typo.yaml: data.shapes.mytypo: unknown key",
    "data show . data.mytypo=1 --recipe videollama3-tiny": "data.mytypo: unknown key",
    "data tune videollama3-tiny data.mytypo=1": "data.mytypo: unknown key",
    "data calibrate videollama3-tiny model.vision.mytypo=1": "model.vision.mytypo: unknown key",
    "study list study.yaml": "study.yaml: mytypo: unknown key",
    "study run variant.yaml": "model.mytypo: unknown key",
}
STUDY = (
    "name: s\noutput: out\nrecipe: videollama3-tiny\nsizes: {small: {set: []}}\ndata: {few: {samples: 4}}\nseeds: [0]\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder: recipes and studies with a mistake, a finished stage, one whose recipe has a mistake, and an export."""
    folder = tmp_path_factory.mktemp("work")
    for name in ("stage", "spoilt", "export"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_bytes(b"")
    (folder / "rows.jsonl").write_text("")
    (folder / "typo.yaml").write_text(
        "base: [recipe/videollama3-tiny]\nname: typo\ndata: {shapes: {num_clips: 8, mytypo: 1}}\n"
    )
    (folder / "above.yaml").write_text("base: [typo.yaml]\nname: above\n")
    (folder / "stage" / "recipe.yaml").write_text("base: [recipe/videollama3-tiny]\n")
    (folder / "spoilt" / "recipe.yaml").write_text("base: [recipe/videollama3-tiny]\nmytypo: 1\n")
    (folder / "export" / "lightning_apollo.json").write_text("{}")
    (folder / "study.yaml").write_text(f"{STUDY}mytypo: 1\nvariants: {{one: {{set: [], factors: {{a: b}}}}}}\n")
    (folder / "variant.yaml").write_text(f"{STUDY}variants: {{one: {{set: [model.mytypo=1], factors: {{a: b}}}}}}\n")
    return folder


@pytest.fixture(scope="module")
def seconds_of_torch(folder: Path) -> float:
    """CPU time of `import torch`."""
    return min(run_python("import torch", [], folder)[0] for _ in range(TRIES))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistake_in_a_recipe_is_answered_without_torch(command: str, folder: Path, seconds_of_torch: float) -> None:
    ratios = []
    for _ in range(TRIES):
        took, done = run_python(CLI, shlex.split(command), folder)
        assert done.returncode == 2, done.stderr
        assert COMMANDS[command] in done.stderr
        assert done.stdout.splitlines()[-1].split() == ["heavy:"]
        ratios.append(took / seconds_of_torch)
        if ratios[-1] <= MAX_RATIO:
            return
    pytest.fail(f"{command}: {min(ratios):.1f} times the CPU time of `import torch`")


# Every section of a recipe, as a program finds them in the schema: one import, no torch
SECTIONS = """
import sys
from dataclasses import is_dataclass
from typing import get_args, get_type_hints
from lightning_apollo.errors import RecipeError
from lightning_apollo.recipe.layers import check_keys
from lightning_apollo.recipe.schema import Recipe

def sections(kind, path=()):
    yield path
    for name, hint in get_type_hints(kind).items():
        for inner in (hint, *get_args(hint)):
            if is_dataclass(inner):
                yield from sections(inner, (*path, name, *(["any"] if "dict" in str(hint) else [])))

for path in sections(Recipe):
    tree = {"mytypo": 1}
    for name in reversed(path):
        tree = {name: tree}
    try:
        check_keys(tree, Recipe, "recipe.yaml")
    except RecipeError as error:
        print(str(error).split(": ")[1])
print("heavy:", *sorted({"torch", "lightning", "transformers", "torchvision", "torchmetrics"} & set(sys.modules)))
"""


def test_every_section_refuses_an_unknown_key_without_torch(folder: Path) -> None:
    _, done = run_python(SECTIONS, [], folder)
    *named, heavy = done.stdout.splitlines()
    assert {"mytypo", "data.sources.any.mytypo", "stages.any.lora.any.mytypo", "trainer.non_finite.mytypo"} <= set(
        named
    )
    assert {"model.fused.image.mytypo", "stages.any.packing.mytypo", "data.frame_cache.mytypo"} <= set(named)
    assert len(named) == len(set(named)) == 28
    assert heavy.split() == ["heavy:"]
