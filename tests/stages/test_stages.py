"""Stages: trained components, normalisation by the labels of the whole step and untouched weights."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.nn import functional

from lightning_apollo.models.config import ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.stages import STAGES, StageConfig, check_stage, find_stage
from lightning_apollo.stages.base import Stage
from lightning_apollo.stages.videollama3 import VisionEncoderAdaptation
from lightning_apollo.structures import PackedBatch, Sample
from lightning_apollo.training.config import OptimizerConfig
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer

ALL = {"vision": 1e-3, "connector": 2e-3, "llm": 3e-3}


def config(**values: Any) -> StageConfig:
    defaults: dict[str, Any] = {
        "kind": "Stage",
        "trains": ALL,
        "mixture": {"any": 1.0},
        "image_merge_size": 1,
        "video_merge_size": 2,
        "optimizer": OptimizerConfig(warmup_ratio=0.0),
    }
    return StageConfig(**{**defaults, **values})


def model(seed: int = 0) -> VideoLMM:
    torch.manual_seed(seed)
    return build_model(MODEL, ReducerConfig())


def eight_samples() -> list[Sample]:
    """Media of every kind and none, and 2 to 9 labels, so that a mean of means is not the mean."""
    visuals = [(), (image(28, 42, 1),), (video(2, 28, 56, 2),), (image(28, 28, 3), video(1, 28, 28, 4))] * 2
    return [sample(*items, num_text=4 + 2 * number, seed=number) for number, items in enumerate(visuals)]


class Batches:
    """The loader of Lightning's that is least in the way."""

    def __init__(self, batches: Sequence[PackedBatch]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[PackedBatch]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def fit(stage: Stage, batches: Sequence[PackedBatch], accumulate: int = 1) -> Trainer:
    trainer = quiet_trainer(
        accumulate_grad_batches=accumulate,
    )
    trainer.fit(stage, train_dataloaders=Batches(batches))
    return trainer


class RecordingStage(Stage):
    """Keep the gradient that the optimizer gets."""

    def configure_gradient_clipping(self, *args: Any, **kwargs: Any) -> None:
        super().configure_gradient_clipping(*args, **kwargs)
        self.gradients = {
            name: parameter.grad.clone()
            for name, parameter in self.model.named_parameters()
            if parameter.grad is not None
        }


def reference_gradients(samples: Sequence[Sample]) -> dict[str, Tensor]:
    """Plain PyTorch in float64: one sample at a time, summed losses, one division by the number of all labels."""
    reference = model().double()
    num_labels = 0
    for one in samples:
        output = reference(pack(one))
        functional.cross_entropy(output.logits, output.targets, reduction="sum").backward()
        num_labels += output.targets.numel()
    return {
        name: parameter.grad / num_labels
        for name, parameter in reference.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("num_micro_batches", [1, 4, 8])
def test_the_gradient_is_that_of_the_mean_over_all_labels_of_the_step(num_micro_batches: int) -> None:
    samples = eight_samples()
    size = len(samples) // num_micro_batches
    batches = [pack(*samples[start : start + size]) for start in range(0, len(samples), size)]
    stage = RecordingStage(model().double(), config())
    fit(stage, batches, accumulate=num_micro_batches)
    expected = reference_gradients(samples)
    assert stage.gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(stage.gradients[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


def test_clipping_acts_on_the_mean() -> None:
    samples = eight_samples()
    stage = RecordingStage(model().double(), config(optimizer=OptimizerConfig(warmup_ratio=0.0, gradient_clip=0.5)))
    trainer = fit(stage, [pack(*samples[:4]), pack(*samples[4:])], accumulate=2)
    expected = reference_gradients(samples)
    norm = torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in expected.values()]))
    assert norm > 0.5  # or nothing is clipped
    assert trainer.logged_metrics["grad_norm"] == pytest.approx(norm.item(), rel=1e-9)
    for name, gradient in expected.items():
        torch.testing.assert_close(stage.gradients[name], gradient * 0.5 / norm, rtol=1e-5, atol=1e-9, msg=name)


@pytest.mark.parametrize("trained", [("vision", "connector"), ("connector",), ("llm",), ("vision", "connector", "llm")])
def test_frozen_parts_stay_bit_for_bit_and_trained_ones_move(trained: tuple[str, ...]) -> None:
    one = model()
    before = {name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in one.components().items()}
    batches = [pack(*eight_samples()[start : start + 2]) for start in (0, 2, 4)]
    fit(Stage(one, config(trains=dict.fromkeys(trained, 1e-3))), batches)
    for name, part in one.components().items():
        equal = [torch.equal(before[name][key], value) for key, value in part.state_dict().items()]
        assert all(equal) if name not in trained else not any(equal), name


def test_each_trained_parameter_is_in_one_group_with_its_components_rate() -> None:
    one = model()
    stage = VisionEncoderAdaptation(
        one, config(trains={"vision": 1e-5, "connector": 1e-3}, optimizer=OptimizerConfig(weight_decay=0.1))
    )
    stage.trainer = Trainer(accelerator="cpu", max_steps=10, logger=False, enable_checkpointing=False)
    optimizer = stage.configure_optimizers()["optimizer"]
    rates = [(parameter, group["initial_lr"]) for group in optimizer.param_groups for parameter in group["params"]]
    expected = {"vision": 1e-5, "connector": 1e-3}
    assert len(rates) == len({id(parameter) for parameter, _ in rates})
    by_id = {id(parameter): rate for parameter, rate in rates}
    for name, part in one.components().items():
        for parameter in part.parameters():
            assert by_id.get(id(parameter)) == expected.get(name)
            assert parameter.requires_grad == (name in expected)


def test_a_row_of_metrics_counts_the_whole_step() -> None:
    samples = eight_samples()
    trainer = fit(Stage(model(), config()), [pack(*samples[:4]), pack(*samples[4:])], accumulate=2)
    metrics = {name: value.item() for name, value in trainer.logged_metrics.items()}
    visual = sum(item.num_visual_tokens(14) for one in samples for item in one.visuals)
    assert metrics["visual_tokens"] == visual
    assert metrics["text_tokens"] == sum(one.input_ids.numel() for one in samples) - visual
    assert metrics["kept_share"] == 1.0
    assert metrics["tokens_per_second"] > 0
    assert {name: rate for name, rate in metrics.items() if name.startswith("lr/")} == {
        "lr/vision": 1e-3,
        "lr/connector": 2e-3,
        "lr/llm": 3e-3,
    }


def test_a_step_without_any_label_moves_nothing_to_nan() -> None:
    silent = sample(image(28, 28, 0), num_text=4)
    silent.labels.fill_(-100)
    one = model()
    trainer = fit(Stage(one, config()), [pack(silent)])
    assert trainer.logged_metrics["loss"] == 0.0
    assert all(parameter.isfinite().all() for parameter in one.parameters())


def test_text_alone_gives_every_trained_parameter_a_gradient() -> None:
    stage = RecordingStage(model(), config())
    fit(stage, [pack(sample(num_text=6))])
    assert stage.gradients.keys() == {name for name, _ in stage.model.named_parameters()}  # DDP waits for each of them
    assert not any(stage.gradients[name].any() for name in stage.gradients if name.startswith("vision_encoder."))


def test_activation_checkpointing_changes_no_gradient() -> None:
    batches = [pack(*eight_samples())]
    stages = [RecordingStage(model().double(), config(activation_checkpointing=enabled)) for enabled in (False, True)]
    for stage in stages:
        fit(stage, batches)
    for name, gradient in stages[0].gradients.items():
        torch.testing.assert_close(stages[1].gradients[name], gradient, rtol=1e-12, atol=1e-12, msg=name)


def test_the_papers_stages_train_what_they_say() -> None:
    with pytest.raises(ValueError, match=r"VisionEncoderAdaptation .*vision, connector, not vision, connector, llm"):
        VisionEncoderAdaptation(model(), config())
    check_stage(config(kind="MultiTaskFineTuning"))
    with pytest.raises(ValueError, match="kind: Stage "):
        check_stage(config(kind="MultiTaskFineTuning", trains={"llm": 1e-5}))


def test_stages_are_found_by_name() -> None:
    stages = [find_stage(name) for name in STAGES]
    assert [(stage.__name__, stage.kind) for stage in stages] == list(STAGES.items())
    assert all(issubclass(stage, Stage) and issubclass(stage, LightningModule) for stage in stages)
    with pytest.raises(ValueError, match=r"\bMultiTaskFineTuning\b"):
        find_stage("MultiTaskFinetuning")
    with pytest.raises(ValueError, match="Stage, VisionEncoderAdaptation"):
        find_stage("xyz")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"trains": {}}, r"^trains "),
        ({"trains": {"lmm": 1e-5}}, r"^trains .*\['lmm'\]"),
        ({"trains": {"llm": 0.0}}, r"^trains\.llm .*\b0\.0: .*freeze"),
        ({"mixture": {"any": 0.0}}, r"^mixture .*'any': 0\.0"),
        ({"trains": {"llm": float("nan")}}, r"^trains\.llm .*\bnan\b"),
        ({"trains": {"llm": float("inf")}}, r"^trains\.llm .*\binf\b"),
        ({"max_steps": 0}, r"^max_steps .*\b1\b.*-1\b"),
        ({"max_steps": 1, "optimizer": OptimizerConfig()}, r"^max_steps .*\b1: .*\b0\b"),
        ({"global_batch_size": 9, "micro_batch_size": 2}, r"\b9 .*micro_batch_size 2$"),
    ],
)
def test_impossible_stages_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**values)


def test_accumulation_must_divide_exactly() -> None:
    assert config(global_batch_size=128, micro_batch_size=2).accumulate(world_size=8) == 8
    with pytest.raises(ValueError, match=r"\b128\b.*\b6\b.*micro_batch_size 2.*\b3 ranks"):
        config(global_batch_size=128, micro_batch_size=2).accumulate(world_size=3)
