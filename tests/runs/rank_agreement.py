"""Pairs of ranks with different environments, for test_agreement.py. Forks of one process, with a launcher's variables.

python -m tests.runs.rank_agreement FOLDER      writes FOLDER/CASE.json: exit code, seconds and output of each rank
"""

import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

import lightning_apollo.runs.fit  # noqa: F401  before the forks, which so cost one import
from lightning_apollo.cli.main import app
from lightning_apollo.training.callbacks.same_plan import SamePlan
from lightning_apollo.training.processes import agreement
from tests.small_recipe import RECIPE

NUM_RANKS = 2
FIT = ("--stage", "adapt", "trainer.num_nodes=2", "trainer.devices=1", "trainer.strategy=ddp")


def write_recipe(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "test.yaml").write_text(RECIPE.format(output=folder))
    return str(folder / "test.yaml")


def an_output_each(folder: Path, rank: int) -> None:
    app(["fit", write_recipe(folder / f"node{rank}"), *FIT])


def another_seed(folder: Path, rank: int) -> None:
    app(["fit", str(folder / "test.yaml"), *FIT, f"seed={rank}"])


def a_manifest_on_one_machine(folder: Path, rank: int) -> None:
    (folder / "rows.jsonl").touch()
    name = folder / ("rows.jsonl" if rank == 0 else "gone.jsonl")
    app(["fit", str(folder / "test.yaml"), *FIT, f"data.manifests=[{name}]"])


def the_same_mistake_on_all(folder: Path, rank: int) -> None:
    app(["fit", str(folder / "test.yaml"), *FIT, "sed=1"])


def one_that_does_not_come(folder: Path, rank: int) -> None:
    agreement.NAMED_SECONDS, agreement.LATE_SECONDS = 0.5, 1.5
    if rank == 0:
        app(["fit", str(folder / "test.yaml"), *FIT])


def the_same(folder: Path, rank: int) -> None:
    facts = dict(agreement.agreed_facts(lambda: {"seed": "0"}, folder))
    sys.stdout.write(f"{facts} {[path.name for path in folder.glob('.ranks*')]}\n")


def other_rows(folder: Path, rank: int) -> None:
    """Found once the data are open, by ranks that agreed on all else."""
    torch.distributed.init_process_group("gloo")
    trainer: Any = SimpleNamespace(world_size=NUM_RANKS)
    try:
        SamePlan(lambda: {"digest of the data": f"abc{rank}"}).on_train_start(trainer, trainer)
    except agreement.RanksDisagree as error:
        sys.stdout.write(f"{error}\n")
        raise SystemExit(2) from error


CASES: tuple[Callable[[Path, int], None], ...] = (
    an_output_each,
    another_seed,
    a_manifest_on_one_machine,
    the_same_mistake_on_all,
    one_that_does_not_come,
    the_same,
    other_rows,
)


def run(case: Callable[[Path, int], None], folder: Path) -> list[dict[str, Any]]:
    """Outcome of each rank."""
    begun, port = time.monotonic(), _free_port()
    logs = [folder / f"{case.__name__}-{rank}.log" for rank in range(NUM_RANKS)]
    ranks = {_fork(case, folder, rank, port, log): rank for rank, log in enumerate(logs)}
    results: list[dict[str, Any]] = [{} for _ in logs]
    while ranks:
        process, status = os.wait()
        rank = ranks.pop(process)
        code, seconds = os.waitstatus_to_exitcode(status), time.monotonic() - begun
        results[rank] = {"code": code, "seconds": seconds, "output": logs[rank].read_text()}
    return results


def _fork(case: Callable[[Path, int], None], folder: Path, rank: int, port: int, log: Path) -> int:
    process = os.fork()
    if process:
        return process
    launcher = {"RANK": str(rank), "LOCAL_RANK": "0", "NODE_RANK": str(rank), "WORLD_SIZE": str(NUM_RANKS)}
    os.environ |= {**launcher, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    file = os.open(log, os.O_CREAT | os.O_WRONLY)
    os.dup2(file, 1)
    os.dup2(file, 2)
    code = 0
    try:
        case(folder, rank)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_recipe(root)
    for one in CASES:
        (root / f"{one.__name__}.json").write_text(json.dumps(run(one, root)))
