"""The demo's recipe on two nodes: two agents of torchrun on this machine, in a network namespace each where it permits that."""

import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from safetensors.torch import load_file

from lightning_apollo.recipe.schema import Recipe, load_recipe, save_recipe
from lightning_apollo.runs.stage_folder import stage_folder
from tests.places import ROOT
from tests.stopped_runs import read_notes

# The first stage, of images, and the last, of videos, text and streams; three steps of each
STAGES = ("vision_encoder_adaptation", "video_centric_fine_tuning")
WORDS = (
    "data.shapes.num_clips=24",
    "data.shapes.num_held_out=1",
    "data.shapes.num_images=24",
    "trainer.accelerator=cpu",
    "trainer.threads=1",
    "trainer.progress_bar=false",
    "trainer.precision=64-true",  # AdamW makes steps of the noise where a gradient is zero, as of the bias of keys
    *(
        f"stages.{name}.{word}"
        for name in STAGES
        for word in ("max_steps=3", "global_batch_size=8", "micro_batch_size=2")
    ),
)
DEADLINE = ("timeout", "-k", "5", "240")  # for one stage

pytestmark = pytest.mark.slow


class Place(NamedTuple):
    """Place of a node: the prefix of its command, the address of the first one, and the interface between them."""

    prefix: tuple[str, ...]
    address: str
    interface: str


def permits_namespaces() -> bool:
    """True if two network namespaces with a cable between them can be made here; tried in one that goes at once."""
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    cable = ("ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1")
    return subprocess.run(["unshare", "--net", "--mount", *cable], capture_output=True, check=False).returncode == 0


@contextmanager
def one_network() -> Iterator[list[Place]]:
    yield [Place((), "127.0.0.1", "lo")] * 2


@contextmanager
def two_namespaces() -> Iterator[list[Place]]:
    """Two network namespaces, joined by a pair of virtual interfaces and nothing else."""
    names = [f"apollo-{os.getpid()}-{number}" for number in range(2)]
    try:
        for name in names:
            _ip("netns", "add", name)
        ends = [f"name node{number} netns {name}" for number, name in enumerate(names)]
        _ip(*f"link add {ends[0]} type veth peer {ends[1]}".split())
        for number, name in enumerate(names):
            _ip(*f"-n {name} address add 10.99.0.{number + 1}/24 dev node{number}".split())
            _ip(*f"-n {name} link set node{number} up".split())
            _ip(*f"-n {name} link set lo up".split())
        yield [Place(("ip", "netns", "exec", name), "10.99.0.1", f"node{number}") for number, name in enumerate(names)]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


NETWORKS = {"loopback": one_network} | ({"namespaces": two_namespaces} if permits_namespaces() else {})


def demo(folder: Path, shapes: Path, *words: str) -> Recipe:
    one = load_recipe("videollama3-tiny", [*WORDS, f"data.root={shapes}", f"output={folder}", *words])
    return type(one)(**{**vars(one), "stages": {name: one.stages[name] for name in STAGES}})


def commands(one: Recipe, stage: str, launcher: tuple[str, ...]) -> list[str]:
    """Command that trains a stage and notes the batches of each rank."""
    path, notes = Path(one.output) / "recipe.yaml", Path(one.output) / "notes" / stage
    path.parent.mkdir(parents=True, exist_ok=True)
    save_recipe(one, path)
    return [*DEADLINE, *launcher, "-m", "tests.stopped_runs", str(path), stage, str(notes), "0", "begin"]


def run(processes: list[tuple[list[str], dict[str, str]]]) -> None:
    """Run commands side by side, each with variables of its own."""
    running = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command, environment in processes
    ]
    outputs = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(outputs)


def train_on_agents(one: Recipe, stage: str, places: list[Place]) -> None:
    """On one agent of torchrun a place, each with one process."""
    port, processes = str(_free_port()), []
    for number, place in enumerate(places):
        rendezvous = f"--nnodes {len(places)} --node-rank {number} --nproc-per-node 1"
        address = f"--master-addr {place.address} --master-port {port}"
        torchrun = (*place.prefix, sys.executable, "-m", "torch.distributed.run", *rendezvous.split(), *address.split())
        processes.append((commands(one, stage, torchrun), {"GLOO_SOCKET_IFNAME": place.interface}))
    run(processes)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built-in set is rendered once."""
    return tmp_path_factory.mktemp("nodes") / "shapes"


@pytest.fixture(scope="module")
def alone(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Trained by one process."""
    one = demo(tmp_path_factory.mktemp("alone"), shapes)
    for stage in STAGES:
        run([(commands(one, stage, (sys.executable,)), {})])
    return one


def assert_the_same(many: Recipe, alone: Recipe) -> None:
    """Each of two ranks took half of the samples, and the weights are those of one process."""
    for stage in STAGES:
        notes, expected_notes = (Path(one.output) / "notes" / stage for one in (many, alone))
        num_batches = [len((notes / f"rank{rank}.jsonl").read_text().splitlines()) for rank in range(2)]
        assert num_batches == [6, 6]  # three steps of four
        assert Counter(read_notes(notes)) == Counter(read_notes(expected_notes))
        weights, expected = (load_file(stage_folder(one, stage) / "model.safetensors") for one in (many, alone))
        assert weights.keys() == expected.keys()
        for name, tensor in expected.items():
            assert (weights[name] - tensor).abs().max() <= 1e-9, f"{stage}: {name}"


@pytest.mark.parametrize("network", NETWORKS)
def test_two_nodes_train_the_weights_of_one(network: str, alone: Recipe, shapes: Path, tmp_path: Path) -> None:
    words = ("trainer.num_nodes=2", "trainer.devices=1", "trainer.strategy=ddp")
    one = demo(tmp_path, shapes, *words)
    with NETWORKS[network]() as places:
        for stage in STAGES:
            train_on_agents(one, stage, places)
    assert_the_same(one, alone)


def test_two_processes_of_one_node_train_the_same_weights(alone: Recipe, shapes: Path, tmp_path: Path) -> None:
    one = demo(tmp_path, shapes, "trainer.devices=2", "trainer.strategy=ddp")
    for stage in STAGES:
        run([(commands(one, stage, (sys.executable,)), {})])
    assert_the_same(one, alone)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
