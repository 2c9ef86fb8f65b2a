"""Signals to real processes: the step is saved and the job requeued once, without loss of a bit."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_apollo.recipe.schema import Recipe, save_recipe
from lightning_apollo.runs import fit
from lightning_apollo.runs.fit import run_stage
from lightning_apollo.runs.stage_folder import is_finished, stage_folder
from lightning_apollo.training.callbacks.checkpoint import CheckpointError, StepCheckpoint, latest_checkpoint
from lightning_apollo.training.processes.signals import EXIT_CODE, INTERRUPTED, SIGNALS, Preempted
from tests.launch import launch
from tests.places import ROOT
from tests.small_recipe import recipe
from tests.training.preempted_runs import Strike, with_strikes

STAGE = "videos"
# Four steps of four micro-batches, with dropout
WORDS = (f"stages.{STAGE}.max_steps=4", "model.llm.attention_dropout=0.3", "data.shapes.num_clips=6")


def small(folder: Path, shapes: Path, *words: str) -> Recipe:
    """The recipe with its second stage alone, which so begins from random weights."""
    one = recipe(folder, f"data.root={shapes}", f"output={folder}", *WORDS, *words)
    return type(one)(**{**vars(one), "stages": {STAGE: one.stages[STAGE]}})


def digest(one: Recipe) -> str:
    return hashlib.sha256((stage_folder(one, STAGE) / "model.safetensors").read_bytes()).hexdigest()


def checkpoint_name(one: Recipe) -> str:
    path = latest_checkpoint(stage_folder(one, STAGE) / "checkpoints")
    assert path is not None
    return path.name


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the built-in set is rendered once."""
    return tmp_path_factory.mktemp("preemption") / "shapes"


@pytest.fixture(scope="module")
def whole(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The stage, trained without a stop."""
    one = small(tmp_path_factory.mktemp("whole"), shapes)
    run_stage(one, STAGE)
    return one


@pytest.fixture(autouse=True)
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A SLURM job of number 4711, and the file in which a `scontrol` notes what it is asked."""
    asked, script = tmp_path / "asked", tmp_path / "bin" / "scontrol"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {asked}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return asked


def strike(one: Recipe, monkeypatch: pytest.MonkeyPatch, *strikes: Strike, resume: bool = False) -> int | str | None:
    """The exit code of a stage that is trained in this process with signals to it."""
    with monkeypatch.context() as patch:
        patch.setattr(fit, "stage_callbacks", with_strikes(strikes))
        with pytest.raises(Preempted) as preempted:
            run_stage(one, STAGE, resume)
    return preempted.value.code


def metric_steps(one: Recipe) -> list[str]:
    lines = (stage_folder(one, STAGE) / "metrics.csv").read_text().splitlines()
    place = lines[0].split(",").index("step")
    return [line.split(",")[place] for line in lines[1:]]


def test_a_stage_ends_at_the_edge_of_its_step_and_resumes_to_the_same_weights(
    whole: Recipe,
    shapes: Path,
    tmp_path: Path,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = small(tmp_path, shapes)
    handlers_before = [signal.getsignal(number) for number in SIGNALS]
    # The second of four micro-batches of the second step, and again
    assert strike(one, monkeypatch, Strike(0, 5, "SIGUSR1"), Strike(0, 7, "SIGUSR1")) == EXIT_CODE == 75
    assert [signal.getsignal(number) for number in SIGNALS] == handlers_before
    assert checkpoint_name(one) == "step-00000002.ckpt"
    assert not (stage_folder(one, STAGE) / "done.json").exists()
    assert metric_steps(one) == ["0", "1"]
    assert scontrol.read_text() == "requeue 4711\n"
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("stopped by SIGUSR1 after step 2: checkpoint ")]
    assert lines[-1].endswith("job 4711 is requeued")
    assert (
        strike(one, monkeypatch, Strike(0, 8, "SIGINT"), resume=True) == INTERRUPTED == 130
    )  # in the step right after
    assert checkpoint_name(one) == "step-00000003.ckpt"
    assert scontrol.read_text() == "requeue 4711\n"  # not after SIGTERM: scancel sends it too
    run_stage(one, STAGE, resume=True)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers_before
    assert digest(one) == digest(whole)
    assert metric_steps(one) == metric_steps(whole)


def test_a_stage_in_its_last_step_is_finished_first(
    whole: Recipe,
    shapes: Path,
    tmp_path: Path,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    one = small(tmp_path, shapes)
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "47")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    assert strike(one, monkeypatch, Strike(0, 13, "SIGUSR1")) == EXIT_CODE
    assert digest(one) == digest(whole)
    assert is_finished(one, STAGE)
    assert not (stage_folder(one, STAGE) / "checkpoints").exists()
    assert scontrol.read_text() == "requeue 47_11\n"
    assert "stopped by SIGUSR1 after step 4: this stage is finished" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["trainer.preemption.requeue=false", "trainer.preemption.requeue=true"])
def test_a_job_that_is_not_requeued_is_to_be_started_by_hand(
    word: str,
    shapes: Path,
    tmp_path: Path,
    scontrol: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if word.endswith("true"):
        (tmp_path / "bin" / "scontrol").write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    one = small(tmp_path, shapes, word)
    assert strike(one, monkeypatch, Strike(0, 0, "SIGUSR1")) == EXIT_CODE
    said = capsys.readouterr().out.splitlines()[-1]
    assert said.endswith("start it again with --resume")
    assert ("job 4711 could not be requeued (no such job)" in said) == word.endswith("true")
    assert not scontrol.exists()


def test_a_stop_that_could_not_be_saved_is_an_error(
    shapes: Path, tmp_path: Path, scontrol: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepCheckpoint, "save", lambda self, trainer: None)
    monkeypatch.setattr(fit, "stage_callbacks", with_strikes([Strike(0, 0, "SIGUSR1")]))
    with pytest.raises(CheckpointError, match=r"SIGUSR1.*checkpoint.*step 1\b"):
        run_stage(small(tmp_path, shapes), STAGE)
    assert not scontrol.exists()


def command(one: Recipe, how: str, *strikes: Strike) -> list[str]:
    """Command that trains the stage in a process of its own."""
    path = Path(one.output) / "one.yaml"
    save_recipe(one, path)
    words = (
        word for s in strikes for word in (str(s.rank), str(s.batch), s.name, "group" if s.to_group else "process")
    )
    return [sys.executable, "-m", "tests.training.preempted_runs", str(path), STAGE, how, *words]


def run_in_sessions(commands: list[list[str]], environments: list[dict[str, str]]) -> tuple[list[int], str]:
    """Exit codes and output of commands side by side, each in a session, so that a signal to its group meets nothing else."""
    common = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**common, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for command, environment in zip(commands, environments, strict=True)
    ]
    try:  # not under `timeout`, which would leave the session
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    return [process.returncode for process in processes], "".join(outputs)


@pytest.mark.slow
def test_a_signal_to_the_whole_group_leaves_the_loader_alive(
    whole: Recipe, shapes: Path, tmp_path: Path, scontrol: Path
) -> None:
    """torchrun sends SIGTERM to a rank's group, some clusters SIGUSR1 to all processes of a job, a terminal Ctrl-C."""
    one = small(tmp_path, shapes, "data.num_workers=2")
    strikes = Strike(0, 5, "SIGUSR1", True), Strike(0, 6, "SIGTERM", True)
    codes, output = run_in_sessions([command(one, "begin", *strikes)], [{}])
    assert codes == [EXIT_CODE], output
    assert checkpoint_name(one) == "step-00000002.ckpt"
    assert scontrol.read_text() == "requeue 4711\n"
    codes, output = run_in_sessions([command(one, "resume", Strike(0, 9, "SIGINT", True))], [{}])
    assert codes == [INTERRUPTED], output
    assert "Traceback" not in output
    assert "start it again with --resume" in output.splitlines()[-1]
    assert checkpoint_name(one) == "step-00000003.ckpt"
    assert scontrol.read_text() == "requeue 4711\n"
    run_stage(small(tmp_path, shapes), STAGE, resume=True)
    assert digest(one) == digest(whole)


@pytest.mark.slow
def test_ranks_stop_together_after_a_signal_to_one_of_them(shapes: Path, tmp_path: Path, scontrol: Path) -> None:
    """As tasks of srun, then started by Lightning, to the weights of ranks that nobody stopped."""
    for name in ("whole", "one"):
        (tmp_path / name).mkdir()
    whole, one = (
        small(tmp_path / name, shapes, "trainer.strategy=ddp", "trainer.devices=2") for name in ("whole", "one")
    )
    target = "tests.training.preempted_runs:train"
    done = launch(2, target, *command(whole, "begin")[3:])
    assert done.returncode == 0, done.stdout
    codes, output = run_in_sessions([command(one, "begin", Strike(1, 2, "SIGUSR1"))] * 2, tasks_of_srun())
    assert codes == [EXIT_CODE, EXIT_CODE], output
    assert output.count("stopped by SIGUSR1 after step 2: checkpoint ") == 1
    assert checkpoint_name(one) == "step-00000002.ckpt"
    assert scontrol.read_text() == "requeue 4711\n"
    codes, output = run_in_sessions([command(one, "resume", Strike(1, 4, "SIGTERM"))], [{}])
    assert codes == [EXIT_CODE], output  # of rank 0, which nobody sent a signal and which started the other
    assert output.count("stopped by SIGTERM after step 3: checkpoint ") == 1
    assert checkpoint_name(one) == "step-00000003.ckpt"
    assert scontrol.read_text() == "requeue 4711\n"
    done = launch(2, target, *command(one, "resume")[3:])
    assert done.returncode == 0, done.stdout
    assert digest(one) == digest(whole)


def tasks_of_srun() -> list[dict[str, str]]:
    """Environment that srun gives two tasks of one node."""
    job = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1", "SLURM_JOB_NAME": "lightning-apollo"}
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        job |= {"SLURM_NODELIST": "127.0.0.1", "MASTER_PORT": str(probe.getsockname()[1])}
    return [{**job, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0"} for rank in range(2)]
