"""Float32 masters of bfloat16 weights: against the same optimizer over float32 weights, and a stage against one in float32.

What they are on several ranks stands in test_sharding.py and test_ranks.py.
"""

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer

from lightning_apollo.models.config import LoraConfig, ReducerConfig
from lightning_apollo.models.video_lmm import VideoLMM, build_model
from lightning_apollo.runs.explain import stage_memory
from lightning_apollo.stages.base import Stage
from lightning_apollo.structures import PackedBatch
from lightning_apollo.training.config import OptimizerConfig, TrainerConfig
from lightning_apollo.training.master_weights import MASTER, MasterWeights, cast, named_masters
from tests.models.clips import randomize
from tests.models.samples import MODEL, image, pack, sample, video
from tests.quiet_trainer import quiet_trainer
from tests.stages.test_stages import Batches, config, fit

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "AdamW": lambda groups: AdamW(groups, lr=1e-5),
    "SGD": lambda groups: SGD(groups, lr=1e-5, momentum=0.9),
    "Adagrad": lambda groups: Adagrad(groups, lr=1e-5),
}


def weights() -> list[nn.Parameter]:
    """A matrix and a vector in bfloat16, and one parameter that is float32 as adapters are."""
    torch.manual_seed(0)
    return [
        nn.Parameter(torch.randn(8, 4).bfloat16()),
        nn.Parameter(torch.randn(4).bfloat16()),
        nn.Parameter(torch.randn(3)),
    ]


def gradients(step: int) -> list[Tensor]:
    torch.manual_seed(100 + step)
    return [torch.randn(8, 4).bfloat16(), torch.randn(4).bfloat16(), torch.randn(3)]


def take_steps(optimizer: Optimizer, parameters: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for parameter, gradient in zip(parameters, gradients(step), strict=True):
            parameter.grad = gradient.to(parameter.dtype)
        for group in optimizer.param_groups:
            group["lr"] = 1e-5 * (step + 1)  # as a schedule does
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_copies_take_the_steps_of_float32_weights(name: str) -> None:
    rounded, wide = weights(), [nn.Parameter(weight.detach().float()) for weight in weights()]
    optimizer = MasterWeights(OPTIMIZERS[name](rounded))
    take_steps(optimizer, rounded, range(10))
    take_steps(OPTIMIZERS[name](wide), wide, range(10))
    for parameter, expected in zip(rounded[:2], wide[:2], strict=True):
        assert torch.equal(optimizer.masters[parameter], expected)
        assert torch.equal(parameter, expected.bfloat16())
    assert torch.equal(rounded[2], wide[2])
    assert len(optimizer.masters) == 2
    assert not torch.equal(optimizer.masters[rounded[0]], rounded[0])  # steps that the weights cannot hold


def test_gradients_of_many_micro_batches_are_summed_in_float32() -> None:
    parameter = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = MasterWeights(SGD([parameter], lr=1.0))
    for _ in range(1000):  # bfloat16 has no number between 256 and 258: a sum in it stays at 256
        parameter.grad = torch.ones(1, dtype=torch.bfloat16)
        optimizer.collect()
    master = optimizer.masters[parameter]
    assert master.grad is not None
    assert master.grad.item() == 1000.0
    assert parameter.grad is None
    optimizer.zero_grad()
    assert master.grad is None


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("num_steps", [0, 4])
def test_saved_and_loaded_copies_continue_to_the_same_bits(name: str, num_steps: int) -> None:
    straight = weights()
    optimizer = MasterWeights(OPTIMIZERS[name](straight))
    take_steps(optimizer, straight, range(num_steps))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    saved = [weight.detach().clone() for weight in straight]
    take_steps(optimizer, straight, range(num_steps, 8))

    resumed = [nn.Parameter(weight + 1) for weight in saved]
    other = MasterWeights(OPTIMIZERS[name](resumed))
    resumed[2].data.copy_(saved[2])  # float32: the model's own checkpoint has it
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    take_steps(other, resumed, range(num_steps, 8))
    for one, two in zip(straight, resumed, strict=True):
        assert torch.equal(one, two)
        assert one.dtype != torch.bfloat16 or torch.equal(optimizer.masters[one], other.masters[two])
    last = (weight.state_dict()["state"][0] for weight in (optimizer, other))
    assert all(torch.equal(*pair) for pair in zip(*(values.values() for values in last), strict=True))


def test_the_state_of_a_version_without_copies_begins_them_at_the_weights() -> None:
    parameters = weights()
    optimizer = MasterWeights(AdamW(parameters, lr=1e-5))
    take_steps(optimizer, parameters, range(2))
    state = optimizer.state_dict()
    for values in state["state"].values():
        values.pop(MASTER, None)
    optimizer.load_state_dict(state)
    assert all(torch.equal(master, parameter.float()) for parameter, master in optimizer.masters.items())


def test_copies_start_from_what_the_weights_were_rounded_from() -> None:
    model = nn.Linear(4, 4)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    wide = cast(model, torch.bfloat16)
    start = {model.get_parameter(name): tensor for name, tensor in wide.items()}
    masters = named_masters(model, [MasterWeights(SGD(model.parameters(), lr=1.0), start)])
    assert model.weight.dtype == torch.bfloat16
    assert all(torch.equal(masters[name], tensor) for name, tensor in before.items())
    assert not torch.equal(masters["weight"], model.weight.float())
    assert cast(model, torch.float64) == {}


def build(dtype: torch.dtype) -> tuple[VideoLMM, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = build_model(MODEL, ReducerConfig())
    randomize(model)
    return model, cast(model, dtype)


def batch() -> PackedBatch:
    images = [sample(image(28, 42, seed), num_text=12, seed=seed) for seed in range(2)]
    return pack(*images, sample(video(2, 28, 56, 9), num_text=10, seed=4))


def loss(state: dict[str, Tensor]) -> float:
    """Of weights in float32, a label."""
    model = build_model(MODEL, ReducerConfig())
    model.load_state_dict(state)
    output = model(batch())
    return nn.functional.cross_entropy(output.logits, output.targets).item()


def train(dtype: torch.dtype, rate: float) -> dict[str, Tensor]:
    """The weights after ten steps, as the stage would export them."""
    model, start = build(dtype)
    trains = dict.fromkeys(("vision", "connector", "llm"), rate)
    stage = Stage(model, config(trains=trains, optimizer=OptimizerConfig(warmup_ratio=0.0)))
    stage.start_weights = start
    trainer = fit(stage, [batch()] * 10)
    return {**model.state_dict(), **named_masters(model, trainer.optimizers)}


@pytest.mark.parametrize("rate", [1e-5, 2e-6])
def test_ten_small_steps_move_all_and_follow_the_loss_of_float32(rate: float) -> None:
    start = build(torch.float32)[0].state_dict()
    wide, rounded = train(torch.float32, rate), train(torch.bfloat16, rate)
    moved = [
        sum(int((end[name] != weight).sum()) for name, weight in start.items()) / sum(map(Tensor.numel, start.values()))
        for end in (wide, rounded)
    ]
    assert moved[1] == pytest.approx(moved[0], rel=1e-3)  # all but the embeddings of tokens that no sample has
    assert moved[1] > 0.85
    before = loss(start)
    falls = before - loss(wide), before - loss({name: weight.detach() for name, weight in rounded.items()})
    assert falls[0] > 0.0
    assert falls[1] == pytest.approx(falls[0], rel=0.05)


def test_what_is_frozen_has_no_copy_and_stays_bfloat16() -> None:
    model, start = build(torch.bfloat16)
    stage = Stage(model, config(trains={"connector": 1e-3}))
    stage.start_weights = start
    trainer = fit(stage, [batch()] * 2)
    masters = named_masters(model, trainer.optimizers)
    assert set(masters) == {f"connector.{name}" for name, _ in model.connector.named_parameters()}
    frozen = [weight for name, weight in model.named_parameters() if name not in masters]
    assert {weight.dtype for weight in frozen} == {torch.bfloat16}
    assert all(weight.grad is None for weight in frozen)
    assert not stage.start_weights  # their memory is free again


def test_adapters_are_float32_themselves_and_have_no_copy() -> None:
    model, _ = build(torch.bfloat16)
    stage = Stage(model, replace(config(trains={"llm": 1e-3}), lora={"llm": LoraConfig(rank=2, alpha=2)}))
    trainer = fit(stage, [batch()] * 2)
    assert not isinstance(trainer.optimizers[0], MasterWeights)
    assert {weight.dtype for weight in model.parameters() if weight.requires_grad} == {torch.float32}


class Bytes(Callback):
    """Bytes in memory at the end of the last backward pass of a step."""

    def on_after_backward(self, trainer: Trainer, pl_module: Any) -> None:
        optimizer: Any = trainer.optimizers[0]
        weights = list(pl_module.parameters())
        gradients = [weight.grad for weight in (*weights, *optimizer.masters.values()) if weight.grad is not None]
        states = [v for values in optimizer.state_dict()["state"].values() for k, v in values.items() if k != "step"]
        self.counted = [sum(tensor.nbytes for tensor in tensors) for tensors in (weights, gradients, states)]


@pytest.mark.parametrize("trained", [("connector",), ("connector", "llm")])
def test_explain_counts_the_bytes_that_are_there(trained: tuple[str, ...]) -> None:
    model, _ = build(torch.bfloat16)
    stage, found = Stage(model, config(trains=dict.fromkeys(trained, 1e-3))), Bytes()
    trainer = quiet_trainer(accumulate_grad_batches=2, callbacks=[found])
    trainer.fit(stage, train_dataloaders=Batches([batch()] * 4))
    sizes = {name: sum(weight.numel() for weight in part.parameters()) for name, part in model.components().items()}
    memory = stage_memory(stage.config, TrainerConfig(precision="bf16-true"), sizes)
    assert found.counted == [memory.weights, memory.gradients, memory.optimizer]
