"""Exports: run by stock transformers in a fresh process, equal after a round trip. Refused ones."""

import errno
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, TextPart
from lightning_apollo.data.sampling.budget import target_sizes
from lightning_apollo.data.shapes import dataset as shapes
from lightning_apollo.inference.exported import load_exported
from lightning_apollo.models.checkpoint.load import load_weights
from lightning_apollo.models.video_lmm import build_model
from lightning_apollo.recipe.schema import Recipe
from lightning_apollo.runs.build import build_data
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.structures import WeightsError
from lightning_apollo.training.callbacks.export import WEIGHTS
from lightning_apollo.weights import exporting
from lightning_apollo.weights.check_fixture import fixture_problems
from lightning_apollo.weights.exporting import export_stage
from lightning_apollo.weights.fixture import CHECK, FOLDER, read_fixture
from lightning_apollo.weights.importing import import_weights
from lightning_apollo.weights.port import chat_template
from lightning_apollo.weights.verify import verify
from tests.weights import stages

SYSTEM = 'You\'re "short".\nAnswer in one word, {{ please }}: é.'
OURS = ["lightning_apollo was imported", "apollo_kernels was imported"]  # what the check finds in a process of ours


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = stages.videollama3(tmp_path_factory.mktemp("run"), system_prompt=SYSTEM)
    assert recipe.data.shapes is not None
    shapes.render_shapes(recipe.data.shapes, Path(recipe.data.root))
    return recipe


def export(recipe: Recipe, output: Path, stage: str = "videos", **options: int) -> Path:
    export_stage(recipe, stage, stage_folder(recipe, stage) / WEIGHTS, output, **options)
    return output


@pytest.fixture(scope="module")
def exported(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(recipe, tmp_path_factory.mktemp("exports") / "videos")


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copy"))


def test_stock_transformers_gives_the_same_pixels_ids_logits_and_answers(exported: Path) -> None:
    """In a fresh process, which would say so if it had imported ours."""
    verified = verify(exported)
    assert verified.loader.startswith("transformers 5.")
    assert verified.num_cases == 2
    assert 0 < verified.max_logit_difference < 1e-4
    cases, logits = read_fixture(exported / FOLDER)
    assert [len(case.answer_ids) for case in cases] == [16, 16]  # long answers: token by token
    frames, rows, columns = cases[0].grid_thw
    config = json.loads((exported / "config.json").read_text())
    num_shown = cases[0].input_ids.count(config["video_token_id"])
    assert 0 < num_shown < frames * rows * columns // cases[0].merge_size ** 2  # reduction took part
    assert logits["video"].std() > 0.1


@pytest.mark.parametrize(("stage", "words"), [("adapt", ()), ("videos", ("model.llm.architecture=llama",))])
def test_other_reducers_and_language_models_run_in_transformers(
    stage: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    folder = export(stages.videollama3(tmp_path / "run", *words), tmp_path / "exported", stage)
    found = fixture_problems(folder / FOLDER)
    assert found["problems"] == OURS
    assert found["max_logit_difference"] < 1e-4


def test_a_changed_weight_pixel_or_id_is_found(copied: Path) -> None:
    weights = load_file(copied / WEIGHTS)
    weights["model.projector.readout.0.bias"] += 1e-2
    save_file(weights, copied / WEIGHTS, metadata={"format": "pt"})
    problems = " ".join(fixture_problems(copied / FOLDER)["problems"])
    assert "video: logits differ by up to" in problems
    assert "image: logits differ by up to" in problems
    expected = json.loads((copied / FOLDER / "expected.json").read_text())
    expected["cases"][0]["pixels_sha256"] = "0" * 64
    expected["cases"][1]["input_ids"][3] += 1
    (copied / FOLDER / "expected.json").write_text(json.dumps(expected))
    problems = " ".join(fixture_problems(copied / FOLDER)["problems"])
    assert "video: other pixels" in problems
    assert "image: token ids" in problems


def test_our_code_in_the_process_is_a_problem(exported: Path) -> None:
    """This process has imported it."""
    assert fixture_problems(exported / FOLDER)["problems"] == OURS


@pytest.mark.parametrize(
    ("program", "said"),
    [
        (
            """print('{"problems": ["video: other pixels", "image: token ids"]}'); raise SystemExit(1)""",
            "video: other pixels; i",
        ),
        (
            "raise RuntimeError('no class of that name')",
            "transformers does not run it: RuntimeError: no class of that name$",
        ),
        ("raise SystemExit(0)", "transformers does not run it: no word"),
    ],
)
def test_what_the_process_finds_or_dies_of_is_said_in_one_line(program: str, said: str, copied: Path) -> None:
    (copied / FOLDER / CHECK).write_text(program)
    with pytest.raises(WeightsError, match=f"copy: {said}"):
        verify(copied)
    shutil.rmtree(copied / FOLDER)
    with pytest.raises(WeightsError, match="fixture/ in"):
        verify(copied)


@pytest.mark.parametrize("max_shard_bytes", [10**9, 40_000])
def test_export_import_export_gives_the_same_bytes(max_shard_bytes: int, recipe: Recipe, tmp_path: Path) -> None:
    first = export(recipe, tmp_path / "first", max_shard_bytes=max_shard_bytes)
    back = tmp_path / "back" / WEIGHTS
    import_weights(str(first), back, model=recipe.model)
    export_stage(recipe, "videos", back, tmp_path / "second", max_shard_bytes)
    files = sorted(path.name for path in first.glob("model*"))
    assert ("model.safetensors.index.json" in files) == (len(files) > 1) == (max_shard_bytes < 10**9)
    assert sorted(path.name for path in (tmp_path / "second").glob("model*")) == files
    for name in files:
        assert (first / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert back.read_bytes() == (stage_folder(recipe, "videos") / WEIGHTS).read_bytes()
    if len(files) > 1:
        sizes = [path.stat().st_size for path in first.glob("model-*.safetensors")]
        assert max(sizes) < 80_000  # with its header, and one tensor that is larger by itself
        port = AutoModelForImageTextToText.from_pretrained(first)
        assert torch.equal(port.lm_head.weight, load_file(back)["llm.model.embed_tokens.weight"])


def asked(exported: Path) -> tuple[Conversation, list[dict[str, object]]]:
    """A conversation of several turns and media, for us and for transformers."""
    video, picture = exported / FOLDER / "clip.mp4", exported / FOLDER / "picture.png"
    image = MediaPart("image", picture.name)
    messages = (
        Message("user", (MediaPart("video", video.name), TextPart("What moves, 1 or 2?"))),
        Message("assistant", (TextPart("A square.\nRed."),)),
        Message("user", (TextPart("And here: "), image, image, TextPart("?"))),
    )
    shown = {"type": "image", "path": str(picture)}
    theirs = [
        {
            "role": "user",
            "content": [{"type": "video", "path": str(video)}, {"type": "text", "text": "What moves, 1 or 2?"}],
        },
        {"role": "assistant", "content": [{"type": "text", "text": "A square.\nRed."}]},
        {
            "role": "user",
            "content": [{"type": "text", "text": "And here: "}, shown, shown, {"type": "text", "text": "?"}],
        },
    ]
    return Conversation("asked", "test", messages), theirs


def test_the_chat_template_is_ours_for_several_turns_media_and_a_system_prompt(recipe: Recipe, exported: Path) -> None:
    ours, theirs = asked(exported)
    sample = build_data(recipe, "adapt").preparer.prompt(ours, exported / FOLDER)  # whose stage keeps every token
    processor = AutoProcessor.from_pretrained(exported)
    processor.video_processor.use_token_compression = False
    inputs = processor.apply_chat_template(theirs, tokenize=True, add_generation_prompt=True, return_dict=True)
    ids = torch.as_tensor(inputs["input_ids"]).flatten()
    stands_for_pixels = (ids == processor.image_token_id) | (ids == processor.video_token_id)
    assert torch.equal(stands_for_pixels, sample.is_placeholder)
    assert torch.equal(ids[~stands_for_pixels], sample.input_ids[~sample.is_placeholder])
    text = processor.tokenizer.decode(ids)
    assert text.startswith(f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nTime 0.0s:")
    own = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q"}]
    assert processor.apply_chat_template(own, add_generation_prompt=False) == (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n"
    )
    assert chat_template("") != chat_template(SYSTEM)


def test_the_exported_folder_loads_as_what_was_trained(recipe: Recipe, exported: Path) -> None:
    trained = load_exported(exported)
    model = build_model(recipe.model, recipe.stages["videos"].reducer)
    load_weights(model, stage_folder(recipe, "videos") / WEIGHTS)
    assert trained.model.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, trained.model.state_dict()[name])
    conversation, _ = asked(exported)
    expected = build_data(recipe, "videos").preparer.prompt(conversation, exported / FOLDER)
    found = trained.preparer.prompt(conversation, exported / FOLDER)
    assert torch.equal(found.input_ids, expected.input_ids)
    assert all(
        torch.equal(a.frames.pixels, b.frames.pixels) for a, b in zip(found.visuals, expected.visuals, strict=True)
    )


@pytest.mark.parametrize("frozen", ["connector.", "llm."])
def test_transformers_loads_what_bfloat16_training_leaves_without_rounding(
    frozen: str, recipe: Recipe, tmp_path: Path
) -> None:
    """Its trained weights are float32 beside frozen ones in bfloat16; config.json names one type for all."""
    weights = load_file(stage_folder(recipe, "videos") / WEIGHTS)
    mixed = {name: tensor.bfloat16() if name.startswith(frozen) else tensor for name, tensor in weights.items()}
    save_file(mixed, tmp_path / WEIGHTS, metadata={"format": "pt"})
    export_stage(recipe, "videos", tmp_path / WEIGHTS, tmp_path / "export")
    assert json.loads((tmp_path / "export" / "config.json").read_text())["dtype"] == "float32"


def test_an_apollo_is_exported_for_our_own_loader(tmp_path: Path) -> None:
    recipe = stages.apollo(tmp_path / "run")
    name = list(recipe.stages)[-1]
    folder = export(recipe, tmp_path / "apollo", name)
    assert not (folder / "config.json").exists()
    assert (folder / WEIGHTS).read_bytes() == (stage_folder(recipe, name) / WEIGHTS).read_bytes()
    assert verify(folder).loader == "lightning_apollo"
    weights = load_file(folder / WEIGHTS)
    weights["llm.model.norm.weight"] += 1e-1
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="video: "):
        verify(folder)
    del weights["connector.proj.bias"]
    save_file(weights, folder / WEIGHTS)
    with pytest.raises(WeightsError, match=r"connector.proj.bias"):
        load_exported(folder)


def test_the_card_says_what_it_was_made_of_and_nothing_of_the_machine(recipe: Recipe, exported: Path) -> None:
    card = (exported / "README.md").read_text()
    assert re.search(r"\| data \| `[0-9a-f]{64}` \|", card)  # of the manifests
    training = ("4 steps, loss 0.5000", "`videos`", "torch 2.")
    for text in (*training, "fps 2.0", "token_budget 64", "kind diff_fp", "sha256", "min_tokens: 4"):
        assert text in card
    everything = [
        path.read_text(errors="ignore") for path in exported.rglob("*") if path.suffix in (".md", ".json", ".py")
    ]
    assert not [text for text in everything if recipe.output in text or str(Path.home()) + "/" in text]


@pytest.mark.parametrize("size", [(36, 52), (64, 64), (1080, 1920), (5, 7), (480, 100), (100, 480)])
def test_the_ports_budget_gives_our_sizes(size: tuple[int, int], recipe: Recipe, exported: Path) -> None:
    preparer, processor = build_data(recipe, "videos").preparer, AutoProcessor.from_pretrained(exported)

    def num_patches(num_frames: int, merge_size: int) -> int:
        target = target_sizes(
            [(num_frames, *size)], [merge_size], preparer.settings.patch_size, preparer.settings.budget
        )[0]
        return num_frames * target[0] * target[1] // preparer.settings.patch_size**2

    assert processor.image_processor.get_number_of_image_patches(*size) == num_patches(
        1, preparer.settings.image_merge_size
    )
    for num_frames in (1, 3, 8):
        theirs = processor.video_processor.get_num_of_video_patches(num_frames, *size, {})
        assert theirs == num_patches(num_frames, preparer.settings.video_merge_size)


def test_the_cards_example_answers(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = re.search(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert code is not None
    program = code[1].replace("FOLDER", repr(str(exported))).replace("clip.mp4", str(exported / FOLDER / "clip.mp4"))
    exec(program, {})
    assert len(capsys.readouterr().out.strip()) > 10


def test_what_the_port_cannot_do_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    weights = stage_folder(recipe, "videos") / WEIGHTS

    def refused(changed: Recipe, match: str) -> None:
        with pytest.raises(WeightsError, match=match):
            export_stage(changed, "videos", weights, tmp_path / "refused")
        assert not (tmp_path / "refused").exists()

    stage = recipe.stages["videos"]
    similar = replace(stage, reducer=replace(stage.reducer, kind="merge_similar"))
    refused(replace(recipe, stages={**recipe.stages, "videos": similar}), "cannot reduce as the stage does")
    refused(replace(recipe, data=replace(recipe.data, visuals="blind")), "data.visuals=blind is a baseline")
    wide = replace(recipe.model, llm=replace(recipe.model.llm, intermediate_size=65))
    refused(replace(recipe, model=wide), r"wrong shape: .*gate_proj.weight is \(64, 32\), not \(65, 32\)")
    small = stages.videollama3(tmp_path / "run", "model.llm.vocab_size=503")
    with pytest.raises(WeightsError, match=r"<\|image_pad\|>.*<\|video_pad\|>.*train.*504"):
        export(small, tmp_path / "refused")
    (tmp_path / "there").mkdir()
    with pytest.raises(WeightsError, match="already"):
        export(recipe, tmp_path / "there")


def test_an_export_that_fails_leaves_nothing(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full when the fixture is due."""

    def write(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(exporting, "write_fixture", write)
    with pytest.raises(OSError, match="No space left on device"):
        export(recipe, tmp_path / "exported")
    assert list(tmp_path.iterdir()) == []
