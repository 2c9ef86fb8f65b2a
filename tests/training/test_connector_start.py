"""Calibrated connectors: equal weights on one rank and four, and unchanged training otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.optim import AdamW

from lightning_apollo.models.config import ConnectorConfig, ModelConfig, ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.callbacks.connector_start import ConnectorStart
from tests.launch import launch
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer
from tests.training.rank_connector_start import CASES, Peekable, calibrated, steps
from tests.training.test_blank_media_check import stage_of

SHOWN = [pack(sample(video(2, 28, 56, 1), seed=1), sample(seed=2)), pack(sample(image(28, 42, 2), seed=3))]
TEXT = [pack(sample(seed=4)), pack(sample(seed=5))]


def config(init: str, **llm: Any) -> ModelConfig:
    return replace(MODEL, connector=ConnectorConfig(init=init), llm=replace(MODEL.llm, **llm))


def model_of(init: str) -> VideoLMM:
    torch.manual_seed(0)
    return build_model(config(init), ReducerConfig())


class Rows(Logger):
    """Keep the scale in each step's row."""

    @property
    def name(self) -> str:
        return "rows"

    @property
    def version(self) -> int:
        return 0

    def __init__(self) -> None:
        super().__init__()
        self.scales: list[float | None] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.scales.append(metrics.get("start/visual_scale"))

    def log_hyperparams(self, *arguments: Any, **values: Any) -> None: ...


class Recorder(ConnectorStart):
    """Keep the weights with which training begins."""

    start: dict[str, Tensor]
    scales: list[float | None]  # of each step's row

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self.start = copied(pl_module)


def copied(stage: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in stage.get_submodule("model").state_dict().items()}


def train(
    model: VideoLMM, batches: Sequence[PackedBatch], init: str, is_random: bool = True, **llm: Any
) -> tuple[Recorder, list[str], dict[str, Tensor]]:
    """Two micro-batches a step: the callback, what it said, and the weights at the end."""
    said: list[str] = []
    rows = Rows()
    loader = Peekable(batches)
    start = Recorder(config(init, **llm), is_random, loader.peek, said.append)
    stage = stage_of(model, reducer=ReducerConfig())
    trainer = quiet_trainer(accumulate_grad_batches=2, callbacks=[start], logger=rows, log_every_n_steps=1)
    trainer.fit(stage, train_dataloaders=loader)
    start.scales = rows.scales
    return start, said, copied(stage)


def shown_to(model: VideoLMM, batches: Sequence[PackedBatch]) -> tuple[Tensor, Tensor]:
    """(M, D) and (M, E) float64: what enters the connector and what leaves it."""
    seen: list[tuple[Tensor, Tensor]] = []

    def see(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        seen.append((inputs[0], output))

    hook = model.connector.register_forward_hook(see)
    with torch.no_grad():
        for batch in batches:
            model.encode(batch.visual)
    hook.remove()
    features, outputs = (torch.cat(some).double() for some in zip(*seen, strict=True))
    return features, outputs


def test_the_weights_are_those_of_the_formulas() -> None:
    """Against the whole step at once: the first layer of standardised features, an output as wide as the embeddings."""
    model = model_of("calibrated")
    features, _ = shown_to(model, SHOWN)
    mean, spread = features.mean(dim=0), features.std(dim=0, correction=0)
    layers = nn.Sequential(*model.connector.get_submodule("readout").children())
    with torch.no_grad():
        outputs = layers.double()((features - mean) / spread)
    table = model.llm.get_input_embeddings().get_parameter("weight").double()
    expected = outputs * table.std(correction=0) / outputs.std(correction=0)

    start, said, _ = train(model_of("calibrated"), SHOWN, "calibrated")
    model = model_of("he")
    model.load_state_dict(start.start)
    assert torch.allclose(shown_to(model, SHOWN)[1], expected, rtol=1e-3, atol=1e-5)
    assert start.scales == [pytest.approx(1.0, abs=1e-4)]
    assert said == []


def test_the_rest_of_the_training_is_as_if_the_weights_had_come_so() -> None:
    """With dropout, bit for bit, and the first step is trained on."""
    finals = []
    began: dict[str, Tensor] = {}
    for is_first in (True, False):
        model = model_of("calibrated")
        model.vision_encoder.set_submodule("post_layernorm", nn.Sequential(nn.LayerNorm(32), nn.Dropout(0.5)))
        if not is_first:
            model.load_state_dict(began)
        before = copied(nn.ModuleDict({"model": model}))
        torch.manual_seed(1)
        start, _, final = train(model, [*SHOWN, *SHOWN], "calibrated", is_random=is_first)
        began = start.start
        changed = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, began[name])}
        assert changed == ({"connector"} if is_first else set())
        assert not torch.equal(final["llm.lm_head.weight"], began["llm.lm_head.weight"])
        finals.append(final)
    assert all(torch.equal(finals[0][name], value) for name, value in finals[1].items())


def test_a_start_on_text_alone_waits_for_the_first_step_that_shows_something() -> None:
    model = model_of("calibrated")
    before = {name: value.clone() for name, value in model.connector.named_parameters()}
    start, _, final = train(model, [*TEXT, *SHOWN, *TEXT], "calibrated")
    assert all(torch.equal(start.start[f"connector.{name}"], value) for name, value in before.items())
    assert start.scales == [None, pytest.approx(1.0, abs=0.02), None]
    assert not start.is_due
    assert final["connector.readout.2.weight"].std() < 0.2 * before["readout.2.weight"].std()


@pytest.mark.parametrize(
    ("init", "times", "weights", "line"),
    [
        ("default", 0.5, "some/llm", None),
        ("he", 1.0, "some/llm", "warning: visual tokens start"),
        ("he", 1.0, None, "which are random as well"),
        ("default", 1e-3, "some/llm", "warning: visual tokens start"),
    ],
)
def test_the_scale_is_logged_once_and_said_where_it_is_far_off(
    init: str, times: float, weights: str | None, line: str | None
) -> None:
    model = model_of(init)
    with torch.no_grad():
        model.connector.get_submodule("readout.2").get_parameter("weight").mul_(times)
        model.connector.get_submodule("readout.2").get_parameter("bias").mul_(times)
    table = model.llm.get_input_embeddings().get_parameter("weight").double()
    expected = shown_to(model, SHOWN)[1].std(correction=0) / table.std(correction=0)
    start, said, _ = train(model, [*SHOWN, *SHOWN], init, weights=weights)
    assert start.scales == [pytest.approx(expected.item(), rel=1e-5), None]
    assert len(said) == (line is not None)
    assert all(
        str(line) in one and f"{expected:.3g} times" in one and "connector.init=calibrated" in one for one in said
    )


def test_a_connector_from_a_file_is_measured_and_nothing_more() -> None:
    start, said, _ = train(model_of("he"), SHOWN, "calibrated", is_random=False)
    assert start.scales[0] is not None
    assert start.scales[0] > 20.0
    assert said == []


def test_a_resumed_stage_calibrates_nothing(tmp_path: Path) -> None:
    """Neither where its checkpoint says that it is done, nor where that is of a version without calibrating."""

    def peek(num_batches: int) -> list[PackedBatch]:
        raise AssertionError("no step is looked at")

    start = ConnectorStart(config("calibrated"), is_random=True, peek=peek, say=lambda line: None)
    nothing: Any = None
    start.on_load_checkpoint(nothing, nothing, {})
    start.on_train_start(nothing, nothing)
    done, _, _ = train(model_of("calibrated"), SHOWN, "calibrated")
    waiting, _, _ = train(model_of("calibrated"), TEXT, "calibrated")
    for before, is_due in ((done, False), (waiting, True)):
        start = ConnectorStart(config("calibrated"), is_random=True, peek=peek, say=lambda line: None)
        start.on_load_checkpoint(nothing, nothing, {})
        start.load_state_dict(before.state_dict())
        assert (start.is_due, start.is_logged) == (is_due, not is_due)


class _Copies(AdamW):
    """Steps float64 copies and writes them into the parameters, as an optimizer with master weights does."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.masters = {parameter: parameter.detach().double().requires_grad_() for parameter in parameters}
        super().__init__(parameters, lr=1e-6)

    def step(self, closure: Any = None) -> Any:
        loss = super().step(closure)
        with torch.no_grad():
            for parameter, master in self.masters.items():
                parameter.copy_(master)
        return loss


def test_master_weights_begin_as_the_calibrated_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("calibrated")
    loader = Peekable(SHOWN)
    start = Recorder(config("calibrated"), True, loader.peek, print)
    stage = stage_of(model, reducer=ReducerConfig())
    monkeypatch.setattr(stage, "configure_optimizers", lambda: _Copies(list(model.connector.parameters())))
    monkeypatch.setattr(stage, "_log_step", lambda *arguments: None)
    quiet_trainer(accumulate_grad_batches=2, callbacks=[start]).fit(stage, train_dataloaders=loader)
    assert all(
        torch.equal(value, start.start[f"connector.{name}"]) for name, value in model.connector.named_parameters()
    )


@pytest.mark.slow
def test_four_ranks_come_to_the_weights_of_one(tmp_path: Path) -> None:
    """Bit for bit: frames and clips, whole copies and slices, with recomputation."""
    done = launch(4, "tests.training.rank_connector_start:run", str(tmp_path))
    assert done.returncode == 0, done.stdout
    for case in CASES:
        alone = calibrated(case, steps(case.is_clips), num_ranks=1)
        for rank in range(4):
            found = torch.load(tmp_path / f"{case.name}-{rank}.pt", weights_only=True)
            assert found.keys() == alone.keys()
            assert all(torch.equal(found[name], value) for name, value in alone.items())
