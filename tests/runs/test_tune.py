"""Loader processes and decoder threads: trials, recommendation and the real loader."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.recipe.schema import RecipeError
from lightning_apollo.runs import tune
from lightning_apollo.runs.tune import Setting, Throughput, measure_settings, needed_batches, recommend, settings
from tests.small_recipe import recipe


@pytest.mark.parametrize("num_cores", [1, 2, 3, 8, 12])
def test_no_setting_is_larger_than_the_machine(num_cores: int) -> None:
    tried = settings(num_cores)
    assert len(set(tried)) == len(tried)
    assert {(0, 1), (1, 1), (num_cores, 1)} <= set(tried)
    assert all(max(1, workers) * threads <= num_cores for workers, threads in tried)


def test_what_is_tried_on_four_cores() -> None:
    assert settings(4) == [(0, 1), (0, 2), (0, 4), (1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]


def measured(rates: dict[tuple[int, int], float]) -> list[Throughput]:
    return [Throughput(Setting(*setting), rate, 10 * rate, 100 * rate) for setting, rate in rates.items()]


RATES = {(0, 1): 9.0, (1, 1): 3.0, (1, 4): 5.9, (2, 1): 5.8, (2, 2): 6.0, (4, 1): 6.1}


@pytest.mark.parametrize(
    ("needed", "expected"),
    [
        (None, (2, 1)),  # 5.8 is 95 % of 6.1
        (2.5, (1, 1)),
        (3.5, (2, 1)),
        (5.95, (2, 2)),  # as many cores as 4 × 1, in fewer processes
        (6.05, (4, 1)),
        (50.0, (2, 1)),  # nothing is enough: the cheapest that is about the best
    ],
)
def test_the_cheapest_that_is_enough_is_recommended(needed: float | None, expected: tuple[int, int]) -> None:
    assert recommend(measured(RATES), needed).setting == expected


def test_without_loader_processes_there_is_one_choice() -> None:
    assert recommend(measured({(0, 1): 2.0, (0, 2): 2.01})).setting == (0, 1)


def test_what_a_training_process_needs(tmp_path: Path) -> None:
    assert needed_batches(recipe(tmp_path), "videos", step_seconds=0.5) == 8  # 8 samples a step, 2 a micro-batch
    assert needed_batches(recipe(tmp_path, "trainer.devices=2"), "videos", step_seconds=0.5) == 4
    with pytest.raises(RecipeError, match=r"stages.videos: global_batch_size 8.*6"):
        needed_batches(recipe(tmp_path, "trainer.devices=3"), "videos", step_seconds=0.5)


def test_ranks_share_the_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    assert tune.cores_of_a_rank(recipe(tmp_path, "trainer.devices=4")) == 3
    assert tune.cores_of_a_rank(recipe(tmp_path, "trainer.devices=4", "trainer.num_nodes=2")) == 3
    assert tune.cores_of_a_rank(recipe(tmp_path, "trainer.devices=64")) == 1


def test_the_real_loader_is_read(tmp_path: Path) -> None:
    """Faster than the data come there is no setting: 2 samples a micro-batch, in all processes."""
    small = recipe(tmp_path)
    steps: list[tuple[int, int]] = []
    found = measure_settings(small, "videos", [Setting(0, 1), Setting(1, 2)], 0.2, lambda *step: steps.append(step))
    assert [one.setting for one in found] == [(0, 1), (1, 2)]
    assert steps == [(0, 2), (1, 2)]
    for one in found:
        assert one.samples_per_second == pytest.approx(2 * one.batches_per_second)
        assert one.tokens_per_second > 10 * one.samples_per_second
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["shapes"]  # a run's folder is not touched


def test_the_command_recommends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe(tmp_path)
    monkeypatch.setattr(tune, "settings", lambda _: [Setting(0, 1), Setting(0, 2)])
    path = str(tmp_path / "test.yaml")
    words = ["--stage", "videos", "--seconds", "0.1", "--step-seconds", "100"]
    result = CliRunner().invoke(app, ["data", "tune", path, *words], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    assert "training takes 0.04 micro-batches/s: it will not wait" in result.stdout
    chosen = re.search(r"put into the recipe: (\S+) (\S+)", result.stdout)
    assert chosen is not None
    data = recipe(tmp_path, *chosen.groups()).data
    assert (data.num_workers, data.decoder_threads) == (0, 1)


@pytest.mark.parametrize("command", ["tune", "calibrate"])
def test_help_loads_nothing_heavy(command: str) -> None:
    program = (
        "import sys\nfrom typer.testing import CliRunner\nfrom lightning_apollo.cli.main import app\n"
        f"assert CliRunner().invoke(app, ['data', {command!r}, '--help']).exit_code == 0\n"
        "print(*[name for name in ('torch', 'lightning', 'scipy', 'numpy', 'omegaconf') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
