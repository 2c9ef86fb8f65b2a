"""A store that a user has registered with fsspec, in this process and in those that a run starts."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.registry import _registry, known_implementations

from lightning_apollo.data.config import DataConfig, SourceConfig
from lightning_apollo.data.datamodule import Batching, VideoDataModule
from lightning_apollo.data.dataset import ConversationDataset
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.loader import MicroBatchLoader, Positions
from lightning_apollo.data.media.fork_server import start_fork_server
from lightning_apollo.data.plan.planner import CountedPlanner
from lightning_apollo.data.quarantine import Quarantine
from lightning_apollo.data.sampling.budget import BudgetConfig
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage import own_stores
from lightning_apollo.data.storage.protocols import StorageConfig
from lightning_apollo.errors import StorageError
from tests.drawer_store import Drawer
from tests.small_data import tiny_settings, tiny_text, write_pictures

_READ = """
import pickle, sys
root = pickle.loads(bytes.fromhex(sys.argv[1]))
from lightning_apollo.data.storage.address import open_address
print(open_address(root.address("note.txt")).read().decode())
"""


@pytest.fixture(autouse=True)
def _registered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fsspec.register_implementation("drawer", Drawer, clobber=True)
    yield
    for table in (_registry, known_implementations, own_stores._carried):
        table.pop("drawer", None)


def test_a_process_that_is_handed_the_root_knows_the_store(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "note.txt").write_text("from the drawer")
    write_pictures(tmp_path / "top", 1)
    root = open_source("own", SourceConfig(["pictures*.jsonl"], f"drawer://{tmp_path}/top"), protocols=["drawer"]).root
    child = subprocess.run(
        [sys.executable, "-c", _READ, pickle.dumps(root).hex()], capture_output=True, text=True, timeout=120
    )
    assert (child.stdout, child.stderr) == ("from the drawer\n", "")


def test_it_is_refused_where_the_recipe_does_not_name_it(tmp_path: Path) -> None:
    write_pictures(tmp_path / "top", 1)
    with pytest.raises(StorageError, match=r"drawer is none of .*data\.storage\.protocols=\[drawer\]"):
        open_source("own", SourceConfig(["pictures.jsonl"], f"drawer://{tmp_path}/top"))


def batches(folder: Path, root: str, **chosen: Any) -> list[tuple[object, ...]]:
    """Batches of the pictures below a root."""
    data = DataConfig(
        sources={"pictures": SourceConfig(["pictures.jsonl"], root)},
        storage=StorageConfig(["drawer"]),
        **chosen,
    )
    settings = tiny_settings(budget=BudgetConfig(token_budget=32, min_tokens=4, max_length=256))
    batching = Batching({"pictures": 1.0}, micro_batch_size=2, global_batch_size=4)
    module = VideoDataModule(data, batching, settings, tiny_text(), run_folder=folder, seed=3)
    module.setup("fit")
    loader = MicroBatchLoader(
        ConversationDataset(module.sources, module.preparer, seed=3, skips_bad=False),
        Positions(CountedPlanner({"pictures": 18}, {"pictures": 1.0}, 2, 4, seed=3), 8, rank=0, world_size=1),
        Quarantine(folder / "quarantine.jsonl", max_share=0.0),
        data.num_workers,
    )
    return [(batch.sample_ids, batch.input_ids.tolist(), batch.visual.pixels.numpy().tobytes()) for batch in loader]


@pytest.mark.slow
def test_loader_probe_and_decoding_processes_read_it(tmp_path: Path) -> None:
    """Those of a fork server too, which runs before the store is registered."""
    write_pictures(tmp_path / "top", 18)
    start_fork_server()
    expected = batches(tmp_path / "a", str(tmp_path / "top"), supervision=None)
    assert len(expected) == 8
    assert batches(tmp_path / "b", f"drawer://{tmp_path}/top", num_workers=1) == expected
    source = open_source("own", SourceConfig(["pictures.jsonl"], f"drawer://{tmp_path}/top"), protocols=["drawer"])
    index = build_index([source], tmp_path / "index", jobs=1)
    assert index.media.column("error").null_count == 18
