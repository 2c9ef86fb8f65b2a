"""Apollo's three stages and the seven schedules of Table 3: trained, frozen and logged values."""

import csv
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor

from lightning_apollo.models.apollo.config import FusedEncoderConfig, TowerConfig
from lightning_apollo.models.config import ConnectorConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.recipe.schema import load_recipe
from lightning_apollo.runs.explain import explain
from lightning_apollo.stages import StageConfig, check_stage, find_stage
from lightning_apollo.structures import Frames, PackedBatch, VisualItem
from tests.models.samples import MODEL, pack, sample
from tests.quiet_trainer import quiet_trainer
from tests.stages.test_stages import Batches, fit

COMPONENTS = ("vision", "connector", "llm")
# Table 3 (papers.md 1.5): what each stage of a schedule trains, in order
SCHEDULES = {
    "one-stage-a": ("CL",),
    "one-stage-b": ("VCL",),
    "two-stage-a": ("C", "CL"),
    "two-stage-b": ("VC", "CL"),
    "two-stage-c": ("VC", "VCL"),
    "three-stage-a": ("C", "VC", "CL"),
    "three-stage-b": ("C", "VC", "VCL"),
}
# Table 12: the best rate of the towers in each stage that trains them
VISION_RATES = {
    "one-stage-b": [1e-6],
    "two-stage-b": [5e-6],
    "two-stage-c": [1e-6, 1e-6],
    "three-stage-a": [5e-6],
    "three-stage-b": [1e-6, 1e-6],
}


def clip_model() -> ModelConfig:
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 48, "patch_size": 8}
    return ModelConfig(
        llm=MODEL.llm,
        fused=FusedEncoderConfig(
            image=TowerConfig(kind="siglip", image_size=16, select_layer=-1, **sizes),
            video=TowerConfig(kind="internvideo2", image_size=16, select_layer=-1, **sizes),
            num_frames=2,
        ),
        connector=ConnectorConfig(kind="perceiver", num_tokens=3, num_heads=2, head_dim=8, num_kv_heads=1),
    )


def clip_batch(seed: int) -> PackedBatch:
    """A video of two clips, an image, two images and text alone."""
    shape = clip_model().clip
    generator = torch.Generator().manual_seed(seed)

    def item(num_frames: int) -> VisualItem:
        pixels = torch.randint(0, 256, (num_frames, 3, 16, 12), dtype=torch.uint8, generator=generator)
        frames = Frames(pixels, torch.arange(num_frames).double())
        return VisualItem(frames, "video" if num_frames > 1 else "image", 1, clip=shape)

    visuals = ((item(4),), (item(1),), (item(1), item(1)), ())
    return pack(*(sample(*items, num_text=6, seed=seed + number) for number, items in enumerate(visuals)))


def stage_config(kind: str, *trains: str) -> StageConfig:
    rates = dict.fromkeys(trains, 1e-3)
    return StageConfig(kind=kind, trains=rates, mixture={"any": 1.0}, image_merge_size=1, video_merge_size=1)


def weights(model: VideoLMM) -> dict[str, dict[str, Tensor]]:
    return {
        name: {key: tensor.clone() for key, tensor in part.state_dict().items()}
        for name, part in model.components().items()
    }


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_train_what_table_3_says(schedule: str) -> None:
    recipe = load_recipe(f"apollo-{schedule}")
    trained = tuple("".join(c[0].upper() for c in COMPONENTS if c in stage.trains) for stage in recipe.stages.values())
    assert trained == SCHEDULES[schedule]
    rates = [stage.trains["vision"] for stage in recipe.stages.values() if "vision" in stage.trains]
    assert rates == VISION_RATES.get(schedule, [])
    for stage in recipe.stages.values():
        assert stage.trains["connector"] == 1e-4
        assert stage.trains.get("llm", 3e-5) == 3e-5


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_explain_shows_frozen_and_trained_parts(schedule: str) -> None:
    console = Console(width=120, record=True, file=StringIO())
    console.print(explain(load_recipe(f"apollo-{schedule}")))
    words = [line.split() for line in console.export_text().splitlines()]
    shown = {name: [line[5] for line in words if line[1:2] == [name] and len(line) > 5] for name in COMPONENTS}
    letters = dict(zip(COMPONENTS, "VCL", strict=True))
    for name in COMPONENTS:
        expected = ["trained" if letters[name] in stage else "frozen" for stage in SCHEDULES[schedule]]
        assert shown[name] == expected


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_frozen_weights_stay_bit_for_bit(schedule: str) -> None:
    torch.manual_seed(0)
    model = build_model(clip_model(), ReducerConfig())
    for stage in load_recipe(f"apollo-{schedule}").stages.values():
        before = weights(model)
        fit(find_stage(stage.kind)(model, stage_config(stage.kind, *stage.trains)), [clip_batch(1), clip_batch(2)])
        after = weights(model)
        for name in COMPONENTS:
            changed = [key for key in before[name] if not torch.equal(before[name][key], after[name][key])]
            assert bool(changed) == (name in stage.trains), (stage.kind, name)


def test_the_conflict_about_the_towers_is_a_value() -> None:
    for trains in ({"connector": 1e-4, "llm": 2e-5}, {"vision": 1e-6, "connector": 1e-4, "llm": 2e-5}):
        words = [f"stages.instruction_tuning.trains={trains}".replace("'", "")]
        assert load_recipe("apollo-3b", words).stages["instruction_tuning"].trains == trains
    with pytest.raises(ValueError, match=r"InstructionTuning .*connector, llm \(.*vision"):
        check_stage(stage_config("InstructionTuning", "llm"))
    with pytest.raises(ValueError, match=r"ConnectorAlignment .*connector, not vision, connector"):
        check_stage(stage_config("ConnectorAlignment", "vision", "connector"))


@pytest.mark.parametrize(
    ("recipe", "rates", "clips"),
    [("apollo-1.5b", 5e-5, 200), ("apollo-3b", 2e-5, 200), ("apollo-7b", 1e-5, 150)],
)
def test_recipes_have_the_values_of_table_7(recipe: str, rates: float, clips: int) -> None:
    align, vision, tune = load_recipe(recipe).stages.values()
    assert [stage.trains for stage in (align, vision, tune)] == [
        {"connector": 1e-4},
        {"vision": 5e-6, "connector": 1e-4},
        {"connector": 1e-4, "llm": rates},
    ]
    assert [stage.max_clips for stage in (align, vision, tune)] == [25, 25, clips]
    for stage in (align, vision, tune):
        assert (stage.global_batch_size, stage.epochs) == (256, 1)
        assert (stage.optimizer.warmup_ratio, stage.optimizer.gradient_clip) == (0.03, 1.0)


def test_realised_shares_are_logged(tmp_path: Path) -> None:
    from lightning.pytorch.loggers import CSVLogger

    torch.manual_seed(0)
    stage = find_stage("ConnectorAlignment")(
        build_model(clip_model(), ReducerConfig()), stage_config("ConnectorAlignment", "connector")
    )
    text = pack(*(sample(num_text=6, seed=number) for number in range(4)))
    trainer = quiet_trainer(
        log_every_n_steps=1,
        logger=CSVLogger(tmp_path, name="", version=""),
    )
    trainer.fit(stage, train_dataloaders=Batches([clip_batch(1), text]))
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["share/video"]]
    names = ("text", "image", "multi_image", "video")
    shares = [[float(row[f"share/{name}"]) for name in names] for row in rows]
    assert shares == [[0.25, 0.25, 0.25, 0.25], [0.625, 0.125, 0.125, 0.125]]  # 4 samples, then 4 texts more
