"""The DataModule under a Trainer: epochs, ranks and loader processes. Resumption at a position."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.datamodule import Batching, DataChanged, VideoDataModule
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.loader import MicroBatchLoader, Positions
from lightning_apollo.data.plan.planner import CountedPlanner, MicroBatchRequest
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.shapes.dataset import ShapesConfig
from lightning_apollo.structures import MediaError, PackedBatch
from lightning_apollo.training.callbacks.checkpoint import (
    CheckpointFile,
    StepCheckpoint,
    checkpoint_step,
    latest_checkpoint,
)
from lightning_apollo.training.config import CheckpointConfig
from tests.quiet_trainer import quiet_trainer
from tests.small_data import tiny_settings, tiny_text, write_pictures

BUDGET = BudgetConfig(token_budget=32, min_tokens=4, max_length=256)


def batching(**values: Any) -> Batching:
    defaults: dict[str, Any] = {
        "mixture": {"pictures": 1.0},
        "micro_batch_size": 2,
        "global_batch_size": 4,
    }
    return Batching(**{**defaults, **values})


def data_module(folder: Path, **chosen: Any) -> VideoDataModule:
    sources = {"pictures": SourceConfig(["pictures.jsonl"], str(folder))}
    data = DataConfig(sources=sources, supervision=None)
    return VideoDataModule(data, batching(**chosen), tiny_settings(budget=BUDGET), tiny_text(), folder / "run", seed=3)


def positions(rank: int = 0, world_size: int = 1, num_epochs: int = 1) -> Positions:
    """18 rows are 8 micro-batches an epoch."""
    planner = CountedPlanner({"pictures": 18}, {"pictures": 1.0}, micro_batch_size=2, global_batch_size=4, seed=3)
    return Positions(planner, 8 * num_epochs, rank, world_size)


class Reader(LightningModule):
    """Note the samples that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[str, ...]] = []

    def training_step(self, batch: PackedBatch, batch_idx: int) -> torch.Tensor:
        self.seen.append(batch.sample_ids)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**values: Any) -> Trainer:
    return quiet_trainer(
        accumulate_grad_batches=2,
        **values,
    )


def test_epochs_are_whole_and_shuffled_anew(tmp_path: Path) -> None:
    write_pictures(tmp_path, 18)
    reader, again = Reader(), Reader()
    trainer().fit(reader, datamodule=data_module(tmp_path, epochs=2))
    trainer().fit(again, datamodule=data_module(tmp_path, epochs=2))
    assert len(reader.seen) == 16  # 4 steps an epoch of 2 micro-batches; 2 of the 18 rows are left over
    first, second = reader.seen[:8], reader.seen[8:]
    for epoch in (first, second):
        assert len({sample for batch in epoch for sample in batch}) == 16
    assert first != second
    assert again.seen == reader.seen


def test_a_resumed_run_continues_at_its_position(tmp_path: Path) -> None:
    write_pictures(tmp_path, 18)
    whole, after = Reader(), Reader()
    saving = StepCheckpoint(tmp_path, CheckpointConfig(every_n_steps=3))
    trainer(callbacks=[saving], plugins=[CheckpointFile()]).fit(whole, datamodule=data_module(tmp_path, max_steps=5))
    checkpoint = latest_checkpoint(tmp_path)
    assert checkpoint is not None
    assert checkpoint_step(checkpoint) == 3
    rest = data_module(tmp_path, max_steps=5)
    trainer().fit(after, datamodule=rest, ckpt_path=checkpoint)
    assert len(whole.seen) == 10  # the last two of them from the second epoch
    assert after.seen == whole.seen[6:]
    assert rest.loader is not None
    assert rest.loader.cost.num_reads == 8  # pictures of what was left, and none before it


def test_the_state_is_a_position_that_any_number_of_ranks_can_resume_from() -> None:
    one = positions()
    whole = [request.rows for request in one]
    for _ in range(4):  # a step of four micro-batches
        one.advance()
    assert (one.epoch, one.position, one.num_given) == (0, 4, 4)
    rest = [request.rows for request in one]
    assert rest == whole[4:]
    ranks = [positions(rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.epoch, rank.position, rank.num_given = one.epoch, one.position, one.num_given
    dealt = [request.rows for pair in zip(*ranks, strict=True) for request in pair]
    assert dealt == rest


def test_the_last_micro_batch_of_an_epoch_leads_to_the_next() -> None:
    two = positions(rank=1, world_size=2, num_epochs=2)
    assert len(two) == 8
    assert [request.epoch for request in two] == [0] * 4 + [1] * 4
    for _ in range(4):
        two.advance()
    assert (two.epoch, two.position, two.num_given) == (1, 0, 8)
    assert [request.epoch for request in two] == [1] * 4


def test_other_data_than_those_of_the_state_are_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path, 18)
    first = data_module(tmp_path)
    trainer().fit(Reader(), datamodule=first)
    state = first.state_dict()
    first.load_state_dict(state)
    write_pictures(tmp_path, 17)
    other = data_module(tmp_path)
    other.setup("fit")
    with pytest.raises(DataChanged, match=r"fingerprint [0-9a-f]{12}, then [0-9a-f]{12}"):
        other.load_state_dict(state)


def reading(folder: Path, **chosen: Any) -> VideoDataModule:
    """A DataModule whose Trainer has asked for its loader."""
    module = data_module(folder, **chosen)
    module.trainer = trainer()
    module.setup("fit")
    module.train_dataloader()
    return module


def test_another_micro_batch_resumes_at_the_same_sample(tmp_path: Path) -> None:
    write_pictures(tmp_path, 18)
    first = reading(tmp_path, micro_batch_size=2, epochs=2)
    assert first.loader is not None
    for _ in range(10):  # an epoch of eight micro-batches, and a step of two
        first.loader.positions.advance()
    rest = [row for request in first.loader.positions for row in request.rows]
    for size in (1, 4):
        other = reading(tmp_path, micro_batch_size=size, epochs=2)
        other.load_state_dict(first.state_dict())
        assert other.loader is not None
        assert other.loader.state_dict() == {"epoch": 1, "position": 4 // size, "num_given": 20 // size}
        assert [row for request in other.loader.positions for row in request.rows] == rest
        assert len(rest) == 12


def test_a_micro_batch_that_changes_the_step_of_a_small_epoch_is_refused(tmp_path: Path) -> None:
    """Seven samples under a step of eight: two micro-batches of three, or one of four."""
    write_pictures(tmp_path, 7)
    first = reading(tmp_path, micro_batch_size=3, global_batch_size=9)
    other = reading(tmp_path, micro_batch_size=4, global_batch_size=8)
    with pytest.raises(DataChanged, match=r"6 samples.*4: .*micro_batch_size"):
        other.load_state_dict(first.state_dict())


def test_the_first_position_of_a_request_counts_samples() -> None:
    requests: list[MicroBatchRequest] = list(positions(rank=1, world_size=2))
    assert [request.first_position for request in requests] == [2, 6, 10, 14]


def loader(folder: Path, num_workers: int, skips_bad: bool = True) -> MicroBatchLoader:
    module = data_module(folder)
    module.setup("fit")
    rows = ConversationDataset(module.sources, module.preparer, seed=3, skips_bad=skips_bad)
    return MicroBatchLoader(rows, positions(), Quarantine(folder / "quarantine.jsonl", 1.0), num_workers)


def test_loader_processes_change_nothing_and_raise_what_is_wrong(tmp_path: Path) -> None:
    write_pictures(tmp_path, 18, broken={2})
    alone = [batch.sample_ids for batch in loader(tmp_path, num_workers=0)]
    shared = loader(tmp_path, num_workers=2)
    assert [batch.sample_ids for batch in shared] == alone
    assert shared.state_dict() == {"epoch": 1, "position": 0, "num_given": 8}
    assert shared.cost.num_reads >= 16
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2 * len(shared.quarantine.num_bad)
    strict = iter(loader(tmp_path, num_workers=1, skips_bad=False))
    with pytest.raises(MediaError) as caught:
        _exhaust(strict)
    assert caught.value.path.endswith("002.png")


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_batches_that_were_looked_at_are_given_and_counted_once(tmp_path: Path, num_workers: int) -> None:
    write_pictures(tmp_path, 18, broken={2})
    expected = [batch.sample_ids for batch in loader(tmp_path, num_workers=0)]
    num_listed = len((tmp_path / "quarantine.jsonl").read_text().splitlines())
    looked = loader(tmp_path, num_workers)
    assert [batch.sample_ids for batch in looked.peek(2)] == expected[:2]
    assert looked.state_dict() == {"epoch": 0, "position": 0, "num_given": 0}
    assert not looked.quarantine.num_tried
    batches = iter(looked)
    given = [next(batches).sample_ids]
    assert [batch.sample_ids for batch in looked.peek(3)] == expected[1:4]
    assert looked.state_dict()["num_given"] == 1
    given += [batch.sample_ids for batch in batches]
    assert given == expected
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 2 * num_listed


def _exhaust(batches: Iterator[PackedBatch]) -> None:
    for _ in batches:
        pass


def test_the_built_in_set_is_rendered_first(tmp_path: Path) -> None:
    folder = tmp_path / "shapes"
    sources = {"video_qa": SourceConfig(["video_qa.jsonl"], str(folder))}
    shapes = ShapesConfig(num_clips=2, num_held_out=1, num_images=8)
    config = DataConfig(sources=sources, root=str(folder), shapes=shapes, supervision=None)
    chosen = batching(mixture={"video_qa": 1.0})
    module = VideoDataModule(config, chosen, tiny_settings(budget=BUDGET), tiny_text(), tmp_path)
    module.prepare_data()
    module.setup("fit")
    assert len(module.sources[0]) >= 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"on_error": "ignore"}, r"data\.on_error .*skip_and_refill.*raise.*\bignore$"),
        ({"visuals": "none"}, r"data\.visuals .*full, single_frame.*blind.*\bnone$"),
        ({"max_error_share": 2.0}, r"data\.max_error_share .*\b0\b.*\b1\b"),
        ({"num_workers": -1}, r"data\.num_workers .*\b0\b"),
        ({"outside_root": ["videos"]}, r"data\.outside_root .*absolute"),
    ],
)
def test_impossible_data_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**values)
