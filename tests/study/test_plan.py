"""Study files: their runs, and one line for every mistake."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from lightning_apollo.recipe.conf import study_names
from lightning_apollo.recipe.layers import RecipeError
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.study.plan import Study, StudyRun, llm_parameters, load_study, plan_run, plan_runs
from tests.places import ROOT

RECIPE = """
base: [model/tiny, data/shapes]
name: small
model:
  vision: {hidden_size: 16, num_layers: 1, num_heads: 2, intermediate_size: 16}
  llm: {num_layers: 1, num_heads: 2, num_kv_heads: 2, intermediate_size: 32}
data:
  shapes: {num_clips: 8, num_held_out: 2, num_images: 16}
trainer: {accelerator: cpu, threads: 1}
stages:
  videos:
    kind: VideoCentricFineTuning
    trains: {vision: 1e-3, connector: 1e-3, llm: 1e-3}
    mixture: {video_qa: 1.0}
    image_merge_size: 2
    video_merge_size: 2
    max_steps: 1
    optimizer: {warmup_ratio: 0.0}
    global_batch_size: 4
    micro_batch_size: 4
"""
STUDY: dict[str, Any] = {
    "name": "mine",
    "variants": {
        "fast": {"set": ["data.sampling.fps=2.0"], "factors": {"fps": "2"}},
        "slow": {"set": ["data.sampling.fps=1.0"], "factors": {"fps": 1}},
    },
    "sizes": {"w16": {"set": ["model.llm.hidden_size=16"]}, "w32": {"set": ["model.llm.hidden_size=32"]}},
    "data": {"one": {"samples": 4}, "two": {"samples": 8, "set": ["stages.videos.max_steps=2"]}},
    "seeds": [0, 3],
}


def write_study(folder: Path, **changes: Any) -> Path:
    """A study of a recipe with one stage, all of it below the folder."""
    (folder / "small.yaml").write_text(RECIPE)
    places = {"recipe": str(folder / "small.yaml"), "output": str(folder / "out")}
    path = folder / "mine.yaml"
    OmegaConf.save(OmegaConf.create({**STUDY, **places, **changes}), path)
    return path


def study(folder: Path, **changes: Any) -> Study:
    return load_study(str(write_study(folder, **changes)))


def test_a_study_is_all_its_runs(tmp_path: Path) -> None:
    mine = study(tmp_path, seeds=[0], data={"one": {"samples": 4}})
    runs = plan_runs(mine)
    assert [run.name for run in runs] == ["fast.w16.one.s0", "slow.w16.one.s0", "fast.w32.one.s0", "slow.w32.one.s0"]
    assert (mine.score, mine.threshold, mine.variants["slow"].factors) == ("temporal", 0.8, {"fps": "1"})
    one = plan_run(mine, "slow.w32.one.s0")
    words = ["data.sampling.fps=1.0", "model.llm.hidden_size=32", f"output={tmp_path / 'out' / one.name}", "seed=0"]
    assert one.recipe == load_recipe(tmp_path / "small.yaml", [*words, "trainer.progress_bar=false"])
    assert (one.folder, one.fingerprint) == (tmp_path / "out" / one.name, runs[3].fingerprint)
    parameters = llm_parameters(mine, runs)
    table = 512 * 16  # embedding, shared with the output
    layer = 4 * 16 * 16 + 3 * 16 + 3 * 16 * 32 + 2 * 16  # attention with three biases, gated MLP, norms
    assert parameters["w16"] == table + layer + 16


def test_given_parameters_are_taken(tmp_path: Path) -> None:
    sizes = {"w16": {"set": [], "parameters": 5}, "w32": {"set": ["model.llm.hidden_size=32"], "parameters": 7}}
    assert llm_parameters(study(tmp_path, sizes=sizes), []) == {"w16": 5, "w32": 7}


def test_speed_and_place_do_not_change_what_a_run_is(tmp_path: Path) -> None:
    def fingerprint(*words: str) -> str:
        recipe = load_recipe(tmp_path / "small.yaml", words)
        return StudyRun("", "", "", 0, recipe).fingerprint

    write_study(tmp_path)
    assert fingerprint() == fingerprint("output=elsewhere", "trainer.threads=2", "data.num_workers=1")
    assert fingerprint() != fingerprint("seed=1")
    assert fingerprint() != fingerprint("stages.videos.max_steps=2")


@pytest.mark.parametrize("name", study_names())
def test_a_study_of_the_library_loads(name: str) -> None:
    assert load_study(name).name == name


def test_the_study_of_the_docs_loads(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "study.md").read_text()
    (tmp_path / "docs.yaml").write_text(text.split("```yaml\n")[1].split("```")[0])
    assert load_study(str(tmp_path / "docs.yaml")).output == "runs/study/apollo-tiny-design"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sede": [1]}, r"sede: .*\bseeds\b"),
        ({"variants": {"a": {"sett": []}}}, r"variants\.a\.sett: .*\bset\b"),
        ({"variants": {}}, r"variants: .*one"),
        ({"seeds": []}, r"seeds: .*one"),
        ({"seeds": [1, 1]}, r"seeds .*\b0\b.*\[1, 1\]"),
        ({"seeds": ["one"]}, r"seeds\[0\]"),
        ({"variants": {"a.b": {}}}, r"a\.b: .*folder"),
        ({"data": {"one": {}}}, r"data\.one\.samples: "),
        ({"data": {"one": {"samples": 0}}}, r"data\.one: samples .*\b0\b.*\b0\b"),
        ({"data": {"b": {"samples": 2}, "a": {"samples": 1}}}, r"data: .*smallest"),
        ({"sizes": {"w": {"parameters": 0}}}, r"sizes\.w: parameters .*\b0\b.*\b0\b"),
        ({"score": "ordre"}, r"score: ordre: .*\border\b"),
        ({"threshold": 2}, r"threshold .*-1\b.*\b1\b.*\b2\b"),
        (
            {"variants": {"a": {"factors": {"x": "1"}}, "b": {"factors": {"y": "1"}}}},
            r"variants\.b\.factors: .*\ba: x\b",
        ),
        ({"variants": {"a": {"set": ["seed=1"]}}}, r"variants\.a\.set: seed: "),
        (
            {"variants": {"a": {"set": ["model.llm={hidden_size: 8}"]}}},
            r"variants\.a\.set: model\.llm: sizes\.w16 ",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        study(tmp_path, **changes)
    assert re.search(message, str(caught.value))
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": {"a": {}, "b": {}}}, r"b\.w16\.one\.s0 and a\.w16\.one\.s0 "),
        ({"variants": {"a": {"set": ["models.llm=1"]}}}, r"models: .*\bmodel\b"),
        ({"variants": {"a": {"set": ["data.manifests=[x.json]"]}}}, r"data\.shapes"),
        ({"variants": {"a": {}, "b": {"set": ["data.shapes.seed=5"]}}}, r"b\.w16\.one\.s0: data\.shapes "),
        ({"recipe": "videollama3-tyni"}, r"\bvideollama3-tiny\b"),
    ],
)
def test_a_run_that_cannot_be_is_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    small = {"seeds": [0], "data": {"one": {"samples": 4}}, "sizes": {"w16": {}}}
    with pytest.raises(RecipeError) as caught:
        plan_runs(study(tmp_path, **small, **changes))
    assert re.search(message, str(caught.value))
    assert "\n" not in str(caught.value)


def test_sizes_are_written_smallest_first(tmp_path: Path) -> None:
    sizes = {"w32": {"set": ["model.llm.hidden_size=32"]}, "w16": {"set": ["model.llm.hidden_size=16"]}}
    mine = study(tmp_path, sizes=sizes, seeds=[0], data={"one": {"samples": 4}}, variants={"a": {}})
    with pytest.raises(RecipeError, match=r"w32 .*w16"):
        llm_parameters(mine, plan_runs(mine))


def test_unknown_names_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"fast\.w16\.one\.s9.*fast\.w16\.one\.s"):
        plan_run(study(tmp_path), "fast.w16.one.s9")
    with pytest.raises(RecipeError, match=r"apollo-tiny-desing: .*apollo-tiny-design\b"):
        load_study("apollo-tiny-desing")
    with pytest.raises(RecipeError, match=r"none\.yaml: .*file"):
        load_study("none.yaml")
