"""Recipes that start from released weights show frames as those were trained; `compat` alone changes nothing."""

from pathlib import Path

import pytest
import torch

from lightning_apollo.data.annotations.manifest import read_manifest
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.recipe.conf import recipe_names
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.structures import IGNORE_INDEX
from tests.media_files import h264, write_clip
from tests.small_data import tiny_tokenizer, write_rows

RELEASED = ("container", "end", "keep", "released")


@pytest.mark.parametrize("name", recipe_names())
def test_the_start_decides(name: str) -> None:
    data = load_recipe(name).data
    chosen = (data.sampling.clock, data.sampling.phase, data.sampling.repeats, data.streams)
    assert chosen == (RELEASED if name.startswith("finetune-") else ("from_start", "start", "drop", "ours"))


def test_a_released_stream(tmp_path: Path) -> None:
    """By hand: a cut from 1 s to 5 s, turns at 2.5 s and 3.2 s. Times count from the cut, every frame is a turn, and the
    frame of 4 s, behind the last turn, is not shown. The newline after a frame and the end of its turn are learnt."""
    write_clip(tmp_path / "film.mp4", 60, 10, *h264())
    talk = [("user", "Watch.", 2.5), ("assistant", "Goal!", 3.2)]
    row = {"stream": True, "video": "film.mp4", "start_time": 1.0, "end_time": 5.0}
    row["conversation"] = [{"role": role, "content": text, "time": time} for role, text, time in talk]
    conversation = read_manifest(write_rows(tmp_path / "rows.jsonl", [row]), "test", tmp_path)[0]
    budget = BudgetConfig(token_budget=100, min_tokens=4, max_length=1000)
    sampling = SamplingConfig(clock="container", phase="end", repeats="keep")
    preparer = Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 2, sampling, budget, streams="released"))
    sample = preparer.sample(conversation, tmp_path)
    tokenizer = tiny_tokenizer()
    end, image = (tokenizer.convert_tokens_to_ids(token) for token in ("<|stream_end|>", "<image>"))
    newline = tokenizer.encode("\n", add_special_tokens=False, split_special_tokens=True)[-1]
    ids = sample.input_ids[~sample.is_placeholder]
    text = tokenizer.decode(ids)  # pyright: ignore[reportAttributeAccessIssue] (transformers' own)

    def frame(second: float) -> str:
        return f"<|stream_start|>stream\nTime {second:.1f}s: \n<|stream_end|>\n"

    turns = ("<|im_start|>user\nWatch.<|im_end|>\n", "<|im_start|>assistant\nGoal!<|im_end|>\n")
    assert text == frame(0) + frame(1) + turns[0] + frame(2) + turns[1]
    streamed = sample.labels[: int((sample.input_ids == end).nonzero()[-1]) + 1]
    assert streamed[streamed != IGNORE_INDEX].tolist() == [newline, end] * 3
    assert image in sample.input_ids
    assert len(sample.visuals[0].frames) == 3


def test_a_released_model_of_silence_is_never_shown_it(tmp_path: Path) -> None:
    """Ours shows the frames behind the last turn, and learns the stamps that say: stay silent."""
    write_clip(tmp_path / "film.mp4", 60, 10, *h264())
    talk = [{"role": role, "content": "Hm.", "time": 1.0} for role in ("user", "assistant")]
    row = {"stream": True, "video": "film.mp4", "conversation": talk}
    conversation = read_manifest(write_rows(tmp_path / "rows.jsonl", [row]), "test", tmp_path)[0]
    budget = BudgetConfig(token_budget=100, min_tokens=4, max_length=1000)
    ours, released = (
        Preparer(Preprocessing(tiny_tokenizer(), 8, 1, 2, SamplingConfig(), budget, streams=streams)).sample(
            conversation, tmp_path
        )
        for streams in ("ours", "released")
    )
    assert [len(sample.visuals[0].frames) for sample in (ours, released)] == [6, 2]
    stamp = torch.tensor(tiny_tokenizer().encode("Time", add_special_tokens=False, split_special_tokens=True))
    assert [bool(torch.isin(stamp, sample.labels).all()) for sample in (ours, released)] == [True, False]
