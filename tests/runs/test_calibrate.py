"""Constants of a micro-batch's cost: found again where they are known, and measured on a real model."""

from __future__ import annotations

from dataclasses import asdict, astuple, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lightning_apollo.cli.main import app
from lightning_apollo.data.plan.config import CostConfig
from lightning_apollo.recipe.schema import Recipe, RecipeError, load_recipe
from lightning_apollo.runs import calibrate as calibrate_module
from lightning_apollo.runs.calibrate import CONSTANTS, calibrate, cost_terms, fit_cost, timed_batches
from tests.small_recipe import recipe

KNOWN = np.array([3e-9, 2e-6, 5e-8, 7e-6])


def known_seconds(recipe: Recipe, constants: Any = KNOWN, fixed: float = 0.004) -> Any:
    """A timer by which micro-batches cost what the constants say."""
    return lambda model, batch, precision: float(cost_terms(batch, recipe.model) @ constants) + fixed


def constants(cost: CostConfig) -> list[float]:
    return [getattr(cost, name) for name in CONSTANTS]


def test_known_constants_are_found(tmp_path: Path) -> None:
    small = recipe(tmp_path)
    found = calibrate(small, "videos", known_seconds(small))
    assert constants(found.measured.cost) == pytest.approx(KNOWN.tolist(), rel=1e-6)
    assert found.measured.relative_error < 1e-9


def test_noise_is_averaged_out(tmp_path: Path) -> None:
    small = recipe(tmp_path)
    generator = np.random.default_rng(0)
    terms = np.stack([cost_terms(batch, small.model) for batch in timed_batches(small, small.stages["videos"])] * 20)
    seconds = (terms @ KNOWN + 0.004) * generator.normal(1.0, 0.02, len(terms))
    fit = fit_cost(terms, seconds)
    assert constants(fit.cost) == pytest.approx(KNOWN.tolist(), rel=0.06)
    assert fit.relative_error == pytest.approx(0.02, rel=0.2)

    def error(found: list[float]) -> float:
        """Relative, where the micro-batch whatever its size costs what is best with these constants."""
        rest = seconds - terms @ found
        fixed = np.sum(rest / seconds**2) / np.sum(1 / seconds**2)
        return float(np.sqrt(np.mean(((rest - fixed) / seconds) ** 2)))

    assert error(constants(fit.cost)) == pytest.approx(fit.relative_error)
    for number, factor in product(range(4), (0.99, 1.01)):
        other = constants(fit.cost)
        other[number] *= factor
        assert error(other) > fit.relative_error  # relative errors are what is made small


def test_no_constant_is_negative(tmp_path: Path) -> None:
    small = recipe(tmp_path)
    negative = KNOWN * [-1, 1, 1, 1]
    found = calibrate(small, "videos", known_seconds(small, negative, fixed=1.0)).measured
    assert found.cost.vision_square == 0
    assert found.relative_error > 1e-4  # what cannot be fitted is said


def test_clips_are_all_of_one_size(tmp_path: Path) -> None:
    apollo = load_recipe("apollo-tiny", [f"output={tmp_path}"])
    found = calibrate(apollo, "instruction_tuning", known_seconds(apollo)).measured
    per_frame = (apollo.model.clip.image_size // apollo.model.patch_size) ** 2 if apollo.model.clip else 0
    cost = found.cost
    per_patch = cost.vision_square * per_frame + cost.vision_patch  # either constant may stand for both
    assert per_patch == pytest.approx(KNOWN[0] * per_frame + KNOWN[1], rel=1e-6)
    assert [cost.llm_square, cost.llm_token] == pytest.approx(KNOWN[2:].tolist(), rel=1e-6)


def test_terms_by_hand(tmp_path: Path) -> None:
    """Images of 2×2 tokens of 2×2 patches, each with 8 tokens of text, in samples of their own."""
    small = recipe(tmp_path, "data.budget.max_length=64", "data.budget.token_budget=4")
    batches = timed_batches(small, small.stages["videos"])
    terms = {tuple(cost_terms(batch, small.model).astype(int).tolist()) for batch in batches}
    assert (0, 0, 64 * 64, 64) in terms
    assert (16 * 16 * 16, 16 * 16, 16 * 12 * 12, 16 * 12) in terms
    assert (64 * 4 * 4, 64 * 4, 64 * 9 * 9, 64 * 9) in terms


def test_a_real_model_is_timed_and_counted(tmp_path: Path) -> None:
    small = recipe(tmp_path, "data.budget.max_length=80")
    rounds: list[tuple[int, int]] = []
    found = calibrate(small, "videos", progress=lambda done, total: rounds.append((done, total)))
    assert rounds == [(number, 6) for number in range(6)]
    measured = astuple(found.measured.cost)
    assert min(measured) >= 0.0 < max(measured)  # which of them a busy machine makes 0, nobody can say
    llm, analytic = small.model.llm, found.analytic
    assert analytic.relative_error < 0.01
    kv_width = llm.hidden_size // llm.num_heads * llm.num_kv_heads
    weights = 2 * llm.hidden_size * (llm.hidden_size + kv_width) + 3 * llm.hidden_size * llm.intermediate_size
    labelled = 0.25 * llm.vocab_size * llm.hidden_size  # the head sees every fourth token of a text
    assert analytic.cost.llm_token == pytest.approx(6 * (llm.num_layers * weights + labelled), rel=0.1)
    assert analytic.cost.llm_square == pytest.approx(6 * llm.num_layers * llm.hidden_size, rel=0.25)


def test_a_model_that_has_no_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrate_module, "_free_memory", lambda: 10_000)
    with pytest.raises(RecipeError, match=r"0\.0 GiB.*0\.0 GiB"):
        calibrate(recipe(tmp_path), "videos")


def test_the_command_prints_what_a_recipe_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = recipe(tmp_path)

    timed = known_seconds(small)
    monkeypatch.setattr(
        calibrate_module, "calibrate", lambda opened, stage, progress: calibrate(opened, stage, timed, progress)
    )
    result = CliRunner().invoke(app, ["data", "calibrate", str(tmp_path / "test.yaml"), "--stage", "videos"])
    assert result.exit_code == 0, result.output
    written = yaml.safe_load(result.stdout[result.stdout.index("data:") :])
    cost = CostConfig(**written["data"]["cost"])
    assert asdict(cost) == pytest.approx(dict(zip(CONSTANTS, KNOWN.tolist(), strict=True)), rel=1e-3)
    words = [f"data.cost.{name}={value}" for name, value in written["data"]["cost"].items()]
    assert recipe(tmp_path, *words).data.cost == replace(small.data.cost, **written["data"]["cost"])


def test_a_stage_that_is_not_there(tmp_path: Path) -> None:
    recipe(tmp_path)
    result = CliRunner().invoke(app, ["data", "calibrate", str(tmp_path / "test.yaml"), "--stage", "video"])
    assert result.exit_code == 2
    assert "stage video" in result.stderr
