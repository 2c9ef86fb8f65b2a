"""Time from the start of a loader to its first batch when a run resumes at a position, which must not grow with the position.

    python benchmarks/bench_resume.py [--quick]      writes results/resume.csv and resume.png, prints the ratios as JSON

A source of a little over a million rows of text; a position is the number of samples before it. `counted` takes one sample for
each micro-batch, `packed` plans some sixteen into each, from costs that lie beside the index; both open manifest and costs, make
the order or plan of the epoch, and prepare the first batch. `replay` is what a loader without a position does: it prepares every
micro-batch before, and throws it away; it is measured as far as ten thousand. Before anything is timed, resuming must give the
very batch that a loader from the start gives there, and must not prepare any other; where it does not, nothing is written and the
exit status is 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

import harness
import numpy as np
import plots
from harness import Measurement, spread

from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.loader import MicroBatchLoader, Positions
from lightning_apollo.data.plan.costs import SampleCosts
from lightning_apollo.data.plan.epoch import PlanConfig
from lightning_apollo.data.plan.planner import CountedPlanner, PackedPlanner, Planner
from lightning_apollo.data.prepare import Preparer
from lightning_apollo.data.preprocessing import Preprocessing
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.source import open_sources
from lightning_apollo.models.llm import load_tokenizer
from lightning_apollo.recipe.conf import conf_folder
from lightning_apollo.structures import PackedBatch, Sample

NUM_ROWS, QUICK_ROWS = 1_001_000, 600
POSITIONS, QUICK_POSITIONS = (0, 10_000, 1_000_000), (0, 50, 200)
MAX_REPLAY = 10_000  # positions
ROUNDS = 3
_SAMPLES_PACKED = 16  # into a micro-batch
SOURCE = "text"


class CountingDataset(ConversationDataset):
    """Count the samples that it prepares."""

    num_prepared = 0

    def prepare(self, source: int, row: int, epoch: int = 0) -> Sample:
        self.num_prepared += 1
        return super().prepare(source, row, epoch)


class Data:
    """A manifest of `num_rows` rows, and costs as they lie beside an index."""

    def __init__(self, folder: Path, num_rows: int) -> None:
        self.folder = folder / str(num_rows)
        self.num_rows = num_rows
        self.preparer = Preparer(
            Preprocessing(load_tokenizer(str(conf_folder() / "model" / "tiny_tokenizer")), 8, 1, 1)
        )
        if not (self.folder / "llm_tokens.npy").is_file():
            self._write()

    def loader(self, kind: str, position: int) -> MicroBatchLoader:
        """A loader of one rank that resumes at a position, everything opened anew as in a new process."""
        sources = open_sources({SOURCE: SourceConfig(["text.jsonl"], str(self.folder))}, [])
        planner = self.planner(kind)
        positions = Positions(planner, planner.num_micro_batches(0), rank=0, world_size=1)
        positions.position = positions.num_given = self.num_before(planner, position)
        dataset = CountingDataset(sources, self.preparer, seed=0, skips_bad=False)
        return MicroBatchLoader(dataset, positions, Quarantine(self.folder / "quarantine.jsonl", 0.0), num_workers=0)

    def num_before(self, planner: Planner, position: int) -> int:
        """Micro-batches of some `position` samples."""
        return position * planner.num_micro_batches(0) // self.num_rows

    def planner(self, kind: str) -> Planner:
        if kind == "counted":
            return CountedPlanner({SOURCE: self.num_rows}, {SOURCE: 1.0}, 1, 1, seed=0)
        tokens = np.load(self.folder / "llm_tokens.npy", mmap_mode="r")
        zeros = np.zeros(self.num_rows, dtype=np.int32)
        costs = SampleCosts((SOURCE,), zeros.astype(np.int16), tokens, zeros, zeros.astype(np.int64))
        limit = _SAMPLES_PACKED * int(tokens.mean())
        return PackedPlanner(costs, np.arange(self.num_rows, dtype=np.int32), [0], PlanConfig(limit, 1))

    def _write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "text.jsonl").open("w") as file:
            for row in range(self.num_rows):
                turns = [{"from": "human", "value": f"What is {row}?"}, {"from": "gpt", "value": "A number."}]
                file.write(json.dumps({"conversations": turns}) + "\n")
        tokens = np.random.default_rng(0).integers(100, 120, self.num_rows, dtype=np.int32)
        np.save(self.folder / "llm_tokens.npy", tokens)


def first_batch(data: Data, kind: str, position: int) -> PackedBatch:
    """The batch at a position, gone to straight."""
    return next(iter(data.loader(kind, position)))


def replayed_batch(data: Data, position: int) -> PackedBatch:
    """The batch at a position, after preparing all before it."""
    return next(islice(iter(data.loader("counted", 0)), position, None))


def check(data: Data, position: int) -> None:
    """SystemExit unless resuming gives the same as having come from the start, and prepares nothing else."""
    for kind in ("counted", "packed"):
        loader = data.loader(kind, position)
        found = next(iter(loader))
        expected = next(islice(iter(data.loader(kind, 0)), data.num_before(data.planner(kind), position), None))
        assert isinstance(loader.dataset, CountingDataset)
        if found.sample_ids != expected.sample_ids or loader.dataset.num_prepared != len(found.sample_ids):
            raise SystemExit(f"{kind}: resuming at {position} gives {found.sample_ids}, not {expected.sample_ids}")


def measure(data: Data, positions: tuple[int, ...], rounds: int) -> Iterator[Measurement]:
    check(data, min(1_000, positions[-1]))
    for position in positions:
        providers = {kind: partial(first_batch, data, kind, position) for kind in ("counted", "packed")}
        if position <= MAX_REPLAY:
            providers["replay"] = partial(replayed_batch, data, position)
        seconds = harness.interleaved_seconds(providers, rounds)

        def measurement(provider: str, metric: str, unit: str, values: list[float], at: int = position) -> Measurement:
            config = f"{data.num_rows:,} rows of text, one loader without worker processes"
            return Measurement(
                "resume", provider, "first batch", metric, unit, "position", str(at), spread(values), config
            )

        for name, values in seconds.items():
            yield measurement(name, "seconds", "s", values)
        if "replay" in seconds:
            yield measurement(
                "replay/counted", "time_ratio", "x", harness.ratios(seconds["replay"], seconds["counted"])
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="600 rows, two rounds, into benchmarks/.cache")
    parser.add_argument("--output", type=Path, help="folder of the CSV and the picture")
    arguments = parser.parse_args()
    harness.use_one_core()
    data = Data(harness.CACHE / "resume", QUICK_ROWS if arguments.quick else NUM_ROWS)
    positions, rounds = (QUICK_POSITIONS, 2) if arguments.quick else (POSITIONS, ROUNDS)
    output = arguments.output or (harness.CACHE / "quick" if arguments.quick else harness.RESULTS)
    rows = harness.record(measure(data, positions, rounds), output / "resume.csv")
    plots.plot(output / "resume.csv")
    print(harness.markdown(rows, harness.TABLES["resume"]))
    print(json.dumps(harness.ratio_summary(rows), ensure_ascii=False))


if __name__ == "__main__":
    main()
