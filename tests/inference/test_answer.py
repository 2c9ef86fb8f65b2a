"""Questions about files: function, stream and command against each other and the tokens."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from typer.testing import CliRunner

import lightning_apollo.inference.answer as module
from lightning_apollo.cli.main import app
from lightning_apollo.data.conversation import MediaPart, RowError, TextPart
from lightning_apollo.inference.answer import answer, question, stream_answer
from lightning_apollo.inference.generate import generate
from lightning_apollo.inference.trained import load_checkpoint
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.structures import MediaError
from tests.weights.stages import videollama3_with_clips


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return videollama3_with_clips(tmp_path_factory.mktemp("runs"))[0]


@pytest.fixture(scope="module")
def folder(recipe: Recipe) -> str:
    return str(stage_folder(recipe, "videos"))


@pytest.fixture(scope="module")
def trained(folder: str) -> TrainedModel:
    return load_checkpoint(folder)


@pytest.fixture(scope="module")
def clips(recipe: Recipe) -> list[Path]:
    return sorted((Path(recipe.data.root) / "clips").iterdir())[:2]


def said(*words: object) -> Any:
    return CliRunner().invoke(app, ["generate", *map(str, words)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_function_stream_and_command_say_what_the_tokens_say(
    folder: str, trained: TrainedModel, clips: list[Path]
) -> None:
    asked = question("Which colour came first?", clips)
    prompt = trained.preparer.prompt(asked, Path())
    assert [item.modality for item in prompt.visuals] == ["video", "video"]
    ids = generate(trained.model, [prompt], trained.end_id, 12)[0]
    expected = str(trained.tokenizer.decode(ids, skip_special_tokens=True)).strip()
    assert expected
    assert answer(trained, "Which colour came first?", videos=clips, max_new_tokens=12) == expected
    pieces = list(stream_answer(trained, asked, 12))
    assert len(pieces) > 1
    assert "".join(pieces).strip() == expected
    words = [folder, "--prompt", "Which colour came first?", "--max-new-tokens", 12]
    done = said(*words, "--video", clips[0], "--video", clips[1])
    assert (done.exit_code, done.stdout.strip()) == (0, expected)
    assert len(ids) == 12
    assert "--max-new-tokens 12: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_answer_that_ends_by_itself_was_not_cut(monkeypatch: pytest.MonkeyPatch, trained: TrainedModel) -> None:
    cuts: list[int] = []
    monkeypatch.setattr(module, "stream_tokens", lambda *_: ({0: token} for token in (70, 71, 72)))
    for limit in (3, 4):
        list(stream_answer(trained, question("Why?"), limit, at_limit=lambda limit=limit: cuts.append(limit)))
    assert cuts == [3]


def test_a_time_range_shows_that_part(trained: TrainedModel, clips: list[Path]) -> None:
    (whole,) = trained.preparer.prompt(question("?", clips[:1]), Path()).visuals
    (part,) = trained.preparer.prompt(question("?", clips[:1], begin_seconds=1.0, end_seconds=2.0), Path()).visuals
    assert float(whole.frames.pts_seconds[0]) < 1.0
    moments = part.frames.pts_seconds
    assert 0.9 <= float(moments.min()) <= float(moments.max()) <= 2.0


def test_markers_say_where_media_go() -> None:
    (turn,) = question("<video> After <image> and <video>?", ["a.mp4", "b.mp4"], ["c.png"]).messages
    a, b, c = MediaPart("video", "a.mp4"), MediaPart("video", "b.mp4"), MediaPart("image", "c.png")
    assert [part for part in turn.parts if isinstance(part, MediaPart)] == [a, c, b]
    (turn,) = question("What?", ["a.mp4", "b.mp4"], ["c.png"]).messages
    assert turn.parts == (c, a, b, TextPart("What?"))


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(RowError, match=r"time range.*video"):
        question("What?", images=["a.png"], begin_seconds=1.0)
    with pytest.raises(RowError, match=r"\b2 videos"):
        question("What?", ["a.mp4", "b.mp4"], end_seconds=1.0)
    with pytest.raises(RowError, match=r"\b2 <video>"):
        question("<video> or <video>?", ["a.mp4"])


def test_errors_are_one_line(folder: str, trained: TrainedModel, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(MediaError, match=r"broken\.mp4"):
        answer(trained, "What?", videos=[broken])
    for words, message in (
        ([folder, "--video", broken, "--prompt", "What?"], "broken.mp4"),
        ([folder, "--from", "1", "--prompt", "What?"], "time range"),
        ([tmp_path, "--prompt", "What?"], " recipe.yaml"),
    ):
        done = said(*words)
        assert done.exit_code == 2
        assert message in done.output
        assert len(done.output.splitlines()) == 1


def test_a_character_of_several_tokens_comes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the answer ends inside one: its bytes are shown as the tokenizer shows them."""
    tokenizer = load_tokenizer("conf/model/tiny_tokenizer")
    ids = tokenizer.encode("a é漢", add_special_tokens=False)
    assert len(ids) > 5

    def streamed(ids: list[int]) -> list[str]:
        def steps(*_: object) -> Iterator[dict[int, int]]:
            return ({0: token} for token in ids)

        monkeypatch.setattr(module, "stream_tokens", steps)
        preparer = SimpleNamespace(prompt=lambda *_: None)
        stub = cast("TrainedModel", SimpleNamespace(model=None, tokenizer=tokenizer, preparer=preparer, end_id=0))
        return list(stream_answer(stub, question("What?")))

    pieces = streamed(ids)
    assert "".join(pieces) == "a é漢"
    assert {"é", "漢"} <= {piece.strip() for piece in pieces}
    assert "".join(streamed(ids[:-1])) == "a é\ufffd"
