"""The rule for docstrings on sentences of before and after, and over all code."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.docstring_rule import first_sentence, is_refused, main, offences
from tests.places import ROOT

HELD = ("lightning_apollo", "kernels", "benchmarks", "tests")

REFUSED = [  # as they stood in the code before there was a rule
    "What a person sees while a stage trains.",
    "Who opens media files: what a sample asks for headers and frames.",
    "Where the time of every step goes, and at the end of a stage what it was bound by.",
    "Whether an exported folder answers as the model that it was exported from.",
    "How lmms-eval finds our model: the entry point `lmms_eval.models` of pyproject.toml, loaded whenever lmms-eval starts.",
    "By how much each visual token of a video changed since an earlier frame: the integers behind `similarity_keep`.",
    "Runs a recipe: its stages one after the other, each in a process and a folder of its own.",
    "Writes the recipe of a new task: a template, the user's data, and the few settings that fit them.",
    "The plan of an epoch: every draw once, whole steps on every rank, the same in every process and for every world size.",
    "A judge behind an endpoint: what it is asked, once; what its failures come to.",
]
KEPT = [
    "Progress bars for indexing.",
    "MediaReader: probes headers, decodes frames.",
    "Stage configuration.",
    "State of a stage folder: finished, resumable or stale.",
    "Deadlock reports from rank positions.",
    "Report broken rows per source.",
    "Write final weights and done.json.",
    "Train video language models (VideoLLaMA 3, Apollo, and what follows) on PyTorch Lightning.",
    "Runs of similar visual tokens merged to their mean, 10,000 of them in one launch.",
    "Costs of a sample under `fps, max_frames, budget`, from the index alone.",
]
TOLD = [  # first sentences of functions and classes, as they stood
    "Returns the number of optimizer steps of a stage, or None where its data is not there.",
    "Writes every broken row to a CSV file.",
    "Raises PlanError if a sample that may be drawn is over a limit by itself, and names the first.",
    "Yields packed batches; its state is where the stage is.",
    "Keeps the account of one rank and appends to `path`.",
    "Says where its rank is; on rank 0, also compares what all ranks say.",
    "Counts the tokens of text as `conversation.render` lays it out.",
    "Answers each file with its facts until the parent hangs up.",
    "Slices the model over the ranks where the strategy wants that.",
    "Has every rank ask its share of the questions that have no answer yet.",
]
NAMED = [  # theirs may hold commas
    "Optimizer steps of a stage, or None where its data is not there, or only planning can count them.",
    "Write every broken row to a CSV file.",
    "Counts of what is drawn and never shown.",
    "Answers of a model to own rows, earlier runs included.",
    "Runs of tokens that follow each other as one.",
    "Bytes a second read and written by a copy on the device.",
    "Items one after the other, each frame after frame, rows of tokens after rows of tokens.",
    "Scores of runs and what is compared.",
    "Passes over each source that an epoch takes any sample from.",
    "Sums (3, D) of the connector's inputs, over the micro-batches of all ranks.",
]
RIDDLES = [  # refused in comments and messages, too; \x20 hides them from the rule that reads this file
    'raise ValueError("the run goes\x20on")',
    "cost = 1.0  # of the dear\x65st rank",
    'MESSAGE = "a folder that is called\x20like no stage of its recipe"',
    "def checkpoint_to_go\x5fon_from(): ...",
]


@pytest.mark.parametrize("sentence", REFUSED)
def test_refused(sentence: str) -> None:
    assert is_refused(sentence)


@pytest.mark.parametrize("sentence", KEPT)
def test_kept(sentence: str) -> None:
    assert not is_refused(sentence)


@pytest.mark.parametrize("sentence", TOLD)
def test_functions_are_not_told_in_the_third_person(sentence: str) -> None:
    assert is_refused(sentence, is_module=False)


@pytest.mark.parametrize("sentence", NAMED)
def test_names_and_imperatives_of_functions_stay(sentence: str) -> None:
    assert not is_refused(sentence, is_module=False)


@pytest.mark.parametrize("line", RIDDLES)
def test_riddles_anywhere(line: str) -> None:
    assert list(offences(line)) == [(1, line)]


def test_first_sentence_of_classes_and_functions() -> None:
    source = '''"""Packed batches."""

class Batch:
    """Where a batch lies,
    on the device. And more."""

    def size(self) -> int:
        """Size, in tokens, of text, and of media."""
'''
    assert list(offences(source)) == [(4, "Where a batch lies, on the device.")]  # commas are counted of modules alone
    assert (
        first_sentence("Pack 2.5 tokens (e.g. of text), see `a.b`. Then more.")
        == "Pack 2.5 tokens (e.g. of text), see `a.b`."
    )


def test_command(tmp_path: Path) -> None:
    """As pre-commit calls it: one line for each offence, and 1 where there is one."""
    bad, good = tmp_path / "bad.py", tmp_path / "good.py"
    bad.write_text(f'"""{REFUSED[0]}"""\n')
    good.write_text(f'"""{KEPT[0]}"""\n')
    command = [sys.executable, "-m", "tests.docstring_rule"]
    done = subprocess.run([*command, str(good), str(bad)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, f"{bad}:1: {REFUSED[0]}\n", "")
    assert subprocess.run([*command, str(good)], cwd=ROOT, check=False).returncode == 0


def test_all_code(capsys: pytest.CaptureFixture[str]) -> None:
    files = [str(path) for folder in HELD for path in sorted((ROOT / folder).rglob("*.py"))]
    assert main(files) == 0, capsys.readouterr().out
