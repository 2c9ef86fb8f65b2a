"""The base of errors that a user can put right, and who stands on it."""

import ast
import builtins
import importlib
import pickle

import pytest
import typer

from lightning_apollo.cli.user_errors import errors_in_one_line
from lightning_apollo.errors import UserError
from tests.places import ROOT

PACKAGE = ROOT / "lightning_apollo"

# Class -> the built-in kind that callers catch it as besides
KINDS = {
    "errors.RecipeError": Exception,
    "errors.MediaError": Exception,
    "structures.MediaError": Exception,
    "structures.WeightsError": ValueError,
    "data.plan.config.PlanError": ValueError,
    "data.datamodule.DataChanged": ValueError,
    "data.index.tables.IndexFileError": ValueError,
    "data.index.shards.ShardError": ValueError,
    "data.annotations.manifest.ManifestError": ValueError,
    "data.annotations.manifest.MissingManifest": ValueError,
    "data.plan.order.TooFewSamples": ValueError,
    "data.quarantine.TooManyBadSamples": RuntimeError,
    "data.conversation.RowError": ValueError,
    "data.storage.address.StorageError": ValueError,
    "evaluation.question.BenchmarkError": Exception,
    "evaluation.results.ResultsError": Exception,
    "inference.chat.session.ChatError": Exception,
    "study.table.StudyError": Exception,
    "training.callbacks.checkpoint.CheckpointError": RuntimeError,
    "training.callbacks.non_finite.NonFiniteLoss": ArithmeticError,
}


def bases_in_source() -> dict[str, set[str]]:
    """Every class of the package with the names of its bases, read without importing it."""
    classes = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    return classes


def test_every_exception_of_the_package_is_a_user_error() -> None:
    classes = bases_in_source()

    def ancestors(name: str) -> set[str]:
        return {name}.union(*(ancestors(base) for base in classes.get(name, ())))

    def is_exception(name: str) -> bool:
        kind = getattr(builtins, name, None)
        return isinstance(kind, type) and issubclass(kind, Exception)

    raised = {name for name in classes if any(map(is_exception, ancestors(name)))}
    assert {place.rpartition(".")[2] for place in KINDS} <= raised
    assert {name for name in raised if "UserError" not in ancestors(name)} == set()


@pytest.mark.parametrize("place", KINDS)
def test_an_error_keeps_its_other_kind_and_its_words_through_a_pickle(place: str) -> None:
    module, _, name = place.rpartition(".")
    kind = getattr(importlib.import_module(f"lightning_apollo.{module}"), name)
    arguments = {"MediaError": 2, "ManifestError": 3, "MissingManifest": 3}.get(name, 1)
    error = kind(*("a path", "a place", "a reason")[:arguments])
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, UserError)
    assert isinstance(again, KINDS[place])
    assert (type(again), str(again), vars(again)) == (kind, str(error), vars(error))


def test_a_user_error_is_one_line_and_code_2_and_any_other_keeps_its_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(typer.Exit) as ended, errors_in_one_line(debug=False):
        raise UserError("the clip [0] has no frames: name another")
    assert ended.value.exit_code == 2
    assert capsys.readouterr().err == "the clip [0] has no frames: name another\n"
    with pytest.raises(UserError), errors_in_one_line(debug=True):
        raise UserError("shown with its traceback")
    with pytest.raises(ValueError, match="ours"), errors_in_one_line(debug=False):
        raise ValueError("a mistake of ours")
