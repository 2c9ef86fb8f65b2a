"""Forward, backward and AdamW on the same samples and weights. Ours packed, transformers' port padded.

    python benchmarks/bench_step.py [--quick]      writes results/step.csv and step.png, prints the ratios as JSON

The port gets ready pixel values and its keep mask (its processor is no part of a step); ours starts from uint8 pixels, so that
packing patches and the keep mask are inside its time. `ours_ready` has both outside too. The losses of three updates in a row
must agree to 1e-4 before anything is timed; where they do not, nothing is written and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import harness
import plots
import step_cases as cases
import torch
from harness import Measurement, PeakMemory, Spread, spread
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from apollo_kernels import Layout, pack_patches
from lightning_apollo.data.collate import collate
from lightning_apollo.models import video_lmm
from lightning_apollo.models.config import ModelConfig
from lightning_apollo.models.reduce import select
from lightning_apollo.models.video_lmm import FrameLMM
from lightning_apollo.structures import PackedBatch, Sample
from lightning_apollo.training.config import OptimizerConfig
from lightning_apollo.training.losses import token_loss_sum
from lightning_apollo.training.optim import build_optimizer

VOCABULARIES = (4_096, 32_768)
LOOSE_THRESHOLD = 5.8  # grey levels: what Run-Length Tokenization drops
HALF = 0.5  # of the token budget of every sample, in `ours_half`; sizes round down, so it shows a little less than half
CHECKED_UPDATES = 3
LOSS_TOLERANCE = 1e-4
PROFILED_OPS = 6
MODE = "forward, backward, AdamW"
PROVIDERS = ("port", "ours", "ours_ready", "ours_loose", "ours_half")


class PortTrainer:
    """The port on a padded batch, with its own loss."""

    def __init__(self, config: ModelConfig) -> None:
        self.model = cases.build_port(config)
        self.optimizer = _optimizer(self.model)

    def step(self, inputs: dict[str, Tensor]) -> float:
        loss = self.model(**inputs, use_cache=False).loss
        return _update(self.optimizer, loss)


class OurTrainer:
    """Our model on one packed sequence, from the same weights."""

    def __init__(self, config: ModelConfig, threshold: float = cases.THRESHOLD) -> None:
        self.model = cases.build_ours(config, cases.build_port(config), threshold)
        self.optimizer = _optimizer(self.model)

    def step(self, batch: PackedBatch) -> float:
        output = self.model(batch)
        return _update(self.optimizer, token_loss_sum(output.logits, output.targets) / batch.num_labels)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return build_optimizer([{"params": list(model.parameters()), "lr": 1e-4}], OptimizerConfig())


def _update(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


def make_step(provider: str, config: ModelConfig, *batches: list[Sample]) -> Iterator[Callable[[], float]]:
    """One training step for each batch, all on the same model and optimizer; a step returns its loss."""
    if provider == "port":
        trainer = PortTrainer(config)
        for samples in batches:
            inputs = cases.port_inputs(samples)
            yield lambda inputs=inputs: trainer.step(inputs)
    else:
        ours = OurTrainer(config, LOOSE_THRESHOLD if provider == "ours_loose" else cases.THRESHOLD)
        for samples in batches:
            batch = collate(samples, cases.PATCH_SIZE)
            run = _with_ready_patches(ours, batch) if provider == "ours_ready" else ours.step
            yield lambda run=run, batch=batch: run(batch)


def _with_ready_patches(trainer: OurTrainer, batch: PackedBatch) -> Callable[[PackedBatch], float]:
    """A step whose patches and keep mask were made beforehand, as the port's are."""
    visual = batch.visual
    layout = Layout.of(visual.sizes, visual.merge_sizes, visual.patch_size)
    patches = pack_patches(visual.pixels, layout)
    model = trainer.model
    assert isinstance(model, FrameLMM)
    selection = select(visual, layout, model.reducer)

    def step(batch: PackedBatch) -> float:
        with mock.patch.multiple(video_lmm, pack_patches=lambda *_, **__: patches, select=lambda *_: selection):
            return trainer.step(batch)

    return step


class Bench:
    """One vocabulary: its samples, the check, and what is measured."""

    def __init__(self, vocabulary: int, quick: bool) -> None:
        self.vocabulary = vocabulary
        self.quick = quick
        self.config = cases.model_config(vocabulary, quick)
        self.cases = cases.QUICK_CASES if quick else cases.CASES
        model = cases.build_port(self.config)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.description = f"{len(self.cases)} samples, {num_parameters / 1e6:.1f} M parameters, float32"

    def samples(self, provider: str = "ours") -> list[Sample]:
        return cases.make_samples(self.cases, self.vocabulary, HALF if provider == "ours_half" else 1.0)

    def measurement(self, provider: str, metric: str, unit: str, values: Spread, mode: str = MODE) -> Measurement:
        x_value = str(self.vocabulary)
        return Measurement("step", provider, mode, metric, unit, "vocabulary", x_value, values, self.description)

    def check(self) -> Iterator[Measurement]:
        """Raise SystemExit where a loss differs: the first one checks the forward, the next ones the updates."""
        losses: dict[str, list[float]] = {}
        for provider in ("port", "ours", "ours_ready"):
            (step,) = make_step(provider, self.config, self.samples())
            losses[provider] = [step() for _ in range(CHECKED_UPDATES)]
            yield self.measurement(provider, "first_loss", "nats", spread(losses[provider][:1]))
        for provider in ("ours", "ours_ready"):
            difference = max(abs(a - b) for a, b in zip(losses["port"], losses[provider], strict=True))
            if difference > LOSS_TOLERANCE:
                sys.exit(f"{provider}: losses differ by {difference:.2e}: {losses}; nothing is written")

    def times(self, rounds: int) -> Iterator[Measurement]:
        steps = {name: next(make_step(name, self.config, self.samples(name))) for name in PROVIDERS}
        seconds = harness.interleaved_seconds(steps, rounds)
        for provider, values in seconds.items():
            throughput = [len(self.cases) / value for value in values]
            yield self.measurement(provider, "throughput", "samples/s", spread(throughput))
        pairs = [("port", name) for name in PROVIDERS[1:]] + [("ours", "ours_loose"), ("ours", "ours_half")]
        for slow, fast in pairs:
            values = harness.ratios(seconds[slow], seconds[fast])
            yield self.measurement(f"{slow}/{fast}", "time_ratio", "x", spread(values))

    def memory(self) -> Iterator[Measurement]:
        for provider in ("port", "ours") if self.quick else ("port", "ours", "ours_loose", "ours_half"):
            arguments = ["--memory", provider, "--vocabulary", str(self.vocabulary), *["--quick"] * self.quick]
            mib = harness.run_for_number(__file__, *arguments)
            yield self.measurement(provider, "peak_memory_over_base", "MiB", spread([mib]))

    def shares(self) -> Iterator[Measurement]:
        """Shares of padding in the port, and of tokens kept by our reducer."""
        real = cases.port_inputs(self.samples())["attention_mask"].float().mean().item()
        yield self.measurement("port", "padding", "share of positions", spread([1 - real]))
        for provider in ("ours", "ours_loose", "ours_half"):
            trainer = OurTrainer(self.config, LOOSE_THRESHOLD if provider == "ours_loose" else cases.THRESHOLD)
            batch = collate(self.samples(provider), cases.PATCH_SIZE)
            _, reduction = trainer.model.encode(batch.visual)
            kept = reduction.num_kept
            yield self.measurement(provider, "kept", "visual tokens", spread([kept]))
            yield self.measurement(provider, "shown", "visual tokens", spread([batch.visual.num_visual_tokens]))

    def profiles(self) -> Iterator[Measurement]:
        """The operators that take most of their own time, as shares of the step."""
        for provider in ("port", "ours"):
            (step,) = make_step(provider, self.config, self.samples())
            step()
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                step()
            events = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
            total = sum(event.self_cpu_time_total for event in events)
            for event in events[:PROFILED_OPS]:
                values = spread([event.self_cpu_time_total / total])
                yield self.measurement(provider, "self_time", "share of the step", values, mode=f"op {event.key}")


def peak_memory(provider: str, bench: Bench) -> float:
    """MiB over base of one step, where the base has weights, AdamW's state and the batch, after a step on tiny samples."""
    tiny = cases.make_samples(cases.QUICK_CASES, bench.vocabulary)
    warm_up, step = make_step(provider, bench.config, tiny, bench.samples(provider))
    warm_up()
    peak = PeakMemory()
    step()
    return peak.mib_over_base()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny model, two rounds, into benchmarks/.cache")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="folder of the CSV and the picture")
    parser.add_argument("--memory", choices=PROVIDERS, help="print one provider's peak memory over base, in MiB")
    parser.add_argument("--vocabulary", type=int, default=VOCABULARIES[0], help="with --memory")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        print(peak_memory(arguments.memory, Bench(arguments.vocabulary, arguments.quick)))
        return
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    measurements: list[Measurement] = []
    for vocabulary in VOCABULARIES[:1] if arguments.quick else VOCABULARIES:
        bench = Bench(vocabulary, arguments.quick)
        measurements += bench.check()
        measurements += bench.times(2 if arguments.quick else arguments.rounds)
        measurements += [*bench.memory(), *bench.shares(), *bench.profiles()]
    rows = harness.record(measurements, output / "step.csv")
    plots.plot(output / "step.csv")
    print(harness.markdown(rows, harness.TABLES["step"]))
    print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
