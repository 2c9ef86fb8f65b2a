"""A trained stage under lmms-eval on a local task, in the environment that `make proof` makes for it."""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from PIL import Image

import lightning_apollo
from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.evaluation.ask import answer_prompts
from lightning_apollo.inference.trained import load_checkpoint
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.stage_folder import stage_folder
from tests.weights.stages import videollama3_with_clips

PROJECT = Path(lightning_apollo.__file__).parents[1]
PYTHON = PROJECT / ".cache/lmms_eval/bin/python"  # made by the Makefile
MAX_NEW_TOKENS = 12
TASK = """
task: local
dataset_path: json
dataset_kwargs: {{data_files: {{test: {questions}}}}}
test_split: test
output_type: generate_until
doc_to_visual: !function local_utils.media
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{max_new_tokens: {max_new_tokens}, temperature: 0, do_sample: false, until: ["{until}"]}}
process_results: !function local_utils.score
metric_list:
  - {{metric: right, aggregation: mean, higher_is_better: true}}
"""
FUNCTIONS = """
from PIL import Image

def media(row):
    return [Image.open(path) if path.endswith(".png") else path for path in row["media"]]

def score(row, results):
    return {"right": float(results[0] == row["answer"])}
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, TrainedModel]:
    recipe, folder = videollama3_with_clips(tmp_path_factory.mktemp("runs"))
    return recipe, load_checkpoint(str(folder))


@pytest.mark.slow
def test_a_local_task_gets_our_answers_and_a_score(trained: tuple[Recipe, TrainedModel], tmp_path: Path) -> None:
    """Videos by their paths and pictures that come decoded; the expected answers are those of `answer_prompts`, every other one
    spoilt, and all are cut at a text that occurs in one of them."""
    recipe, model = trained
    clips = sorted((Path(recipe.data.root) / "clips").glob("*.mp4"))[:3]
    pictures = [tmp_path / f"{side}.png" for side in (56, 84)]
    for picture in pictures:
        side = int(picture.stem)
        pixels = torch.randint(256, (side, side, 3), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(picture)
    media = [[clips[0]], [clips[1]], [clips[2]], pictures[:1], pictures]
    rows = [
        {"question": f"What is it, {number}?", "media": list(map(str, shown))} for number, shown in enumerate(media)
    ]
    whole = [_our_answer(model, row["question"], row["media"]) for row in rows]
    assert len(set(whole)) == len(rows)
    until = whole[0][2]
    cut = [text.split(until)[0].strip() for text in whole]
    assert cut != whole
    for number, row in enumerate(rows):
        row["answer"] = cut[number] if number % 2 == 0 else "spoilt"
    said, score = _ask_lmms_eval(recipe, rows, until, tmp_path)
    assert said == cut
    assert score == pytest.approx(3 / 5)


def _our_answer(trained: TrainedModel, question: str, media: list[str]) -> str:
    shown = [MediaPart("image" if path.endswith(".png") else "video", path) for path in media]
    conversation = Conversation("row", "test", (Message("user", (*shown, TextPart(question))),))
    return answer_prompts(trained, [trained.preparer.prompt(conversation, Path())], MAX_NEW_TOKENS)[0]


def _ask_lmms_eval(recipe: Recipe, rows: list[dict], until: str, folder: Path) -> tuple[list[str], float]:
    """The answers in the order of the rows, and the mean score."""
    (folder / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = TASK.format(
        questions=folder / "questions.jsonl", max_new_tokens=MAX_NEW_TOKENS, until=json.dumps(until)[1:-1]
    )
    (folder / "task").mkdir()
    (folder / "task" / "local.yaml").write_text(task)
    (folder / "task" / "local_utils.py").write_text(FUNCTIONS)
    command = [str(PYTHON), "-m", "lmms_eval", "--model", "lightning_apollo", "--tasks", "local", "--batch_size", "2"]
    command += ["--model_args", f"checkpoint={stage_folder(recipe, 'videos')}", "--include_path", str(folder / "task")]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "hub"), "CUDA_VISIBLE_DEVICES": ""}
    paths = [str(PROJECT), str(PROJECT / "kernels"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    written = list((folder / "out").rglob("*samples_local.jsonl"))  # its exit status is 0 whatever happens
    assert len(written) == 1, done.stderr[-3000:]
    logged = sorted((json.loads(line) for line in written[0].read_text().splitlines()), key=lambda line: line["doc_id"])
    (results,) = (folder / "out").rglob("*_results.json")
    scores = json.loads(results.read_text())["results"]["local"]
    return [line["filtered_resps"] for line in logged], scores["right,none"]
