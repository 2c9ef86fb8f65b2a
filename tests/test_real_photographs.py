"""Real photographs and clips of installed packages on the command line, with answers and scores."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.media.video import probe
from lightning_apollo.runs.stage_folder import stage_folder
from tests.evaluation import published
from tests.test_real_clips import CLIPS
from tests.weights import stages


def files_of(package: str, *names: str) -> list[Path]:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return [Path(spec.origin).parent / name for name in names]


PHOTOGRAPHS = [
    *files_of("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    *files_of(
        "gradio", "media_assets/images/cheetah1.jpg", "media_assets/images/tower.jpg", "media_assets/images/lion.jpg"
    ),
]
FILMS = [*files_of("gradio", "media_assets/videos/world.mp4"), CLIPS / "bikes.mp4"]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights; what it says is noise, but always the same."""
    return stage_folder(stages.videollama3(tmp_path_factory.mktemp("run")), "videos")


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_they_are_photographs() -> None:
    infos = [probe(path, "image") for path in PHOTOGRAPHS]
    assert all(info.height * info.width > 60_000 for info in infos)
    assert len({(info.height, info.width) for info in infos}) > 2


def test_each_has_an_answer_of_its_own(stage: Path) -> None:
    ask = ("generate", stage, "--prompt", "What is shown?", "--max-new-tokens", 24)
    answers = [run(*ask, "--image", path) for path in PHOTOGRAPHS]
    answers += [run(*ask, "--video", path) for path in FILMS]
    assert len(set(answers)) == len(answers)
    assert run(*ask, "--image", PHOTOGRAPHS[0]) == answers[0]


def test_benchmarks_of_photographs_and_clips_are_scored(stage: Path, tmp_path: Path) -> None:
    question = "What is it?\n\nA. an animal\nB. something else\nPlease answer directly with only the letter."
    rows = [
        {"image": {"bytes": path.read_bytes(), "path": path.name}, "question": question, "answer": "A"}
        for path in PHOTOGRAPHS
    ]
    published.write_table(tmp_path / "photographs" / "data" / "test-00000-of-00001.parquet", rows)
    published.tempcompass(tmp_path / "clips")
    (tmp_path / "clips" / "videos").mkdir()
    shutil.copy(FILMS[1], tmp_path / "clips" / "videos" / "42.mp4")
    for benchmark, data, num_questions in (("realworldqa", "photographs", 4), ("tempcompass", "clips", 4)):
        output = tmp_path / "scores" / benchmark
        words = ("--data", tmp_path / data, "--output", output, "--modes", "full,blind")
        run("evaluate", "run", stage, "--benchmark", benchmark, *words)
        results = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
        asked = {(result["mode"], result["question_id"]) for result in results}
        assert len(results) == len(asked) == 2 * num_questions
        assert all(result["answer"] and isinstance(result["is_right"], bool) for result in results)
