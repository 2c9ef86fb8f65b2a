"""Cost of planning an epoch, in seconds and memory. Fill and waiting of ranks are compared with two usual ways to make batches.

    python benchmarks/bench_plan.py [--quick]      writes results/plan.csv and plan.png, prints the ratios as JSON

The samples are made up (plan_costs.py), limits and costs are VideoLLaMA 3 7B's. `random` shuffles and takes a fixed number of
samples for each micro-batch, the largest with which at most 1 % of them are over a limit. `length_grouped` sorts by length in
windows of 4,096 samples, fills micro-batches up to a limit and shuffles them. `imbalance` is the time of all steps over what equal
ranks would take, `worst_imbalance` that of the worst step, both in the cost model of the plan and without accumulation. Before
anything is timed, the plan must hold every sample once and respect the limits; where it does not, nothing is written and the exit
status is 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import harness
import numpy as np
import plots
from harness import Measurement, PeakMemory, spread
from numpy.typing import NDArray
from plan_costs import MAX_LLM_TOKENS, MAX_PATCHES, mixed_costs

from lightning_apollo.data.plan.balance import imbalance
from lightning_apollo.data.plan.costs import SampleCosts, costs_of_samples
from lightning_apollo.data.plan.epoch import Plan, PlanConfig, make_plan

CONFIG = PlanConfig(MAX_LLM_TOKENS, MAX_PATCHES)
SIZES, QUICK_SIZES = (10_000, 100_000, 1_000_000), (5_000,)
RANKS, QUICK_RANKS = (8, 64, 256, 1024), (2, 64)
ROUNDS = 5
MAX_OVER = 0.01  # share of micro-batches of `random` that may be over a limit


def check(costs: SampleCosts, plan: Plan) -> None:
    """SystemExit unless every sample is in the plan once and no micro-batch is over a limit."""
    if not np.array_equal(np.sort(plan.samples), np.arange(len(costs))):
        raise SystemExit("the plan does not hold every sample once")
    if _is_over_limit(costs, plan).any():
        raise SystemExit("a micro-batch of the plan is over a limit")


def random_batches(costs: SampleCosts) -> Plan:
    """Fixed numbers of samples in random order."""
    order = np.random.default_rng(0).permutation(len(costs)).astype(np.int32)

    def batches(number: int) -> Plan:
        ends = np.arange(0, len(order) + 1, number, dtype=np.int32)
        return Plan(0, CONFIG, ends, order[: ends[-1]])

    number = 1
    while _is_over_limit(costs, batches(number + 1)).mean() <= MAX_OVER:
        number += 1
    return batches(number)


def length_grouped_batches(costs: SampleCosts) -> Plan:
    """Neighbours in length, as many as fit under both limits, in random order."""
    generator = np.random.default_rng(0)
    order = generator.permutation(len(costs))
    batches: list[list[int]] = []
    for first in range(0, len(order), CONFIG.window):
        window = order[first : first + CONFIG.window]
        batches.append([])
        tokens = patches = 0
        for sample in window[np.argsort(costs.llm_tokens[window], kind="stable")].tolist():
            tokens, patches = tokens + int(costs.llm_tokens[sample]), patches + int(costs.patches[sample])
            if tokens > MAX_LLM_TOKENS or patches > MAX_PATCHES:
                batches.append([])
                tokens, patches = int(costs.llm_tokens[sample]), int(costs.patches[sample])
            batches[-1].append(sample)
    batches = [batches[number] for number in generator.permutation(len(batches)) if batches[number]]
    ends = np.cumsum([0, *map(len, batches)], dtype=np.int32)
    return Plan(0, CONFIG, ends, np.concatenate(batches).astype(np.int32))


PROVIDERS = {
    "ours": lambda costs: make_plan(costs, CONFIG, epoch=0),
    "random": random_batches,
    "length_grouped": length_grouped_batches,
}


def measure(num_samples: int, ranks: tuple[int, ...], rounds: int) -> Iterator[Measurement]:
    """Time and memory of planning; fill and imbalance on every number of ranks that the epoch has a step for."""
    costs = mixed_costs(num_samples)
    plans = {name: make(costs) for name, make in PROVIDERS.items()}
    check(costs, plans["ours"])

    def measurement(provider: str, mode: str, metric: str, unit: str, values: list[float]) -> Measurement:
        config = f"{MAX_LLM_TOKENS} LLM tokens, {MAX_PATCHES} patches, seed 0"
        return Measurement("plan", provider, mode, metric, unit, "samples", str(num_samples), spread(values), config)

    seconds = harness.interleaved_seconds({"ours": lambda: PROVIDERS["ours"](costs)}, rounds)["ours"]
    yield measurement("ours", "planning", "seconds", "s", seconds)
    mib = harness.run_for_number(__file__, "--memory", str(num_samples))
    yield measurement("ours", "planning", "peak_memory_over_base", "MiB", [mib])
    for name, plan in plans.items():
        tokens = int(costs.llm_tokens[plan.samples].sum(dtype=np.int64))
        yield measurement(name, "planning", "fill", "share", [tokens / ((len(plan.offsets) - 1) * MAX_LLM_TOKENS)])
        over = float(_is_over_limit(costs, plan).mean())
        yield measurement(name, "planning", "over_limit", "share", [over])
    for world_size in ranks:
        mode, waits = f"{world_size} ranks", {}
        for name, plan in plans.items():
            if len(dealt := replace(plan, config=replace(CONFIG, step_size=world_size))):
                waits[name] = imbalance(_costs_of_micro_batches(costs, dealt), world_size)
                yield measurement(name, mode, "imbalance", "share", [waits[name].mean])
                yield measurement(name, mode, "worst_imbalance", "share", [waits[name].worst])
        for name in [name for name in waits if name != "ours" and "ours" in waits]:
            ratio = waits[name].mean / waits["ours"].mean
            yield measurement(f"{name}/ours", mode, "imbalance_ratio", "x", [ratio])


def _is_over_limit(costs: SampleCosts, plan: Plan) -> NDArray[np.bool_]:
    tokens = np.add.reduceat(costs.llm_tokens[plan.samples], plan.offsets[:-1])
    return (tokens > MAX_LLM_TOKENS) | (np.add.reduceat(costs.patches[plan.samples], plan.offsets[:-1]) > MAX_PATCHES)


def _costs_of_micro_batches(costs: SampleCosts, plan: Plan) -> NDArray[np.float64]:
    """Behind the last whole step too: `imbalance` leaves them out."""
    return np.add.reduceat(costs_of_samples(costs, CONFIG.cost)[plan.samples], plan.offsets[:-1])


def peak_memory(num_samples: int) -> float:
    """MiB over base of one plan, where the costs are in memory and a small plan has been made."""
    PROVIDERS["ours"](mixed_costs(1000))
    costs = mixed_costs(num_samples)
    peak = PeakMemory()
    PROVIDERS["ours"](costs)
    return peak.mib_over_base()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="5,000 samples, two rounds, into benchmarks/.cache")
    parser.add_argument("--output", type=Path, help="folder of the CSV and the picture")
    parser.add_argument("--sizes", type=int, nargs="+", help="numbers of samples")
    parser.add_argument("--memory", type=int, metavar="SAMPLES", help="print one plan's peak memory over base, in MiB")
    arguments = parser.parse_args()
    harness.use_one_core()
    if arguments.memory:
        print(peak_memory(arguments.memory))
        return
    sizes = arguments.sizes or (QUICK_SIZES if arguments.quick else SIZES)
    ranks, rounds = (QUICK_RANKS, 2) if arguments.quick else (RANKS, ROUNDS)
    measurements = [one for num_samples in sizes for one in measure(num_samples, ranks, rounds)]
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    rows = harness.record(measurements, output / "plan.csv")
    plots.plot(output / "plan.csv")
    print(harness.markdown(rows, harness.TABLES["plan"]))
    print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
