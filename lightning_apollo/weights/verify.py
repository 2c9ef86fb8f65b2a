"""Verify that an exported folder answers as the model that it was exported from."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from lightning_apollo.inference.exported import load_exported
from lightning_apollo.structures import WeightsError
from lightning_apollo.weights.fixture import CHECK, FOLDER, TOLERANCE, read_fixture, run_cases


@dataclass(frozen=True)
class Verified:
    """Outputs that were compared and found equal."""

    loader: str  # whose code ran the folder
    num_cases: int
    max_logit_difference: float


def verify(folder: Path) -> Verified:
    """Run the fixture of an export, in plain transformers where it is for that: in a process of its own that has none of
    our code. WeightsError with every difference in pixels, grid, token ids, logits or answers."""
    fixture = folder / FOLDER
    if not fixture.is_dir():
        raise WeightsError(f"{folder}: no {FOLDER}/ in it: name a folder that `lightning-apollo export` wrote")
    return _in_transformers(fixture) if (fixture / CHECK).is_file() else _in_our_loader(folder)


def _in_transformers(fixture: Path) -> Verified:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, str((fixture / CHECK).resolve())]
    done = subprocess.run(command, cwd=fixture, env=environment, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode not in (0, 1) or not lines or not lines[-1].startswith("{"):
        reason = (done.stderr.strip().splitlines() or ["no word"])[-1]
        raise WeightsError(f"{fixture.parent}: transformers does not run it: {reason}")
    found = json.loads(lines[-1])
    if found["problems"]:
        raise WeightsError(f"{fixture.parent}: {'; '.join(found['problems'])}")
    cases, _ = read_fixture(fixture)
    return Verified(f"transformers {found['transformers']}", len(cases), found["max_logit_difference"])


def _in_our_loader(folder: Path) -> Verified:
    expected, expected_logits = read_fixture(folder / FOLDER)
    found, logits = run_cases(load_exported(folder), folder / FOLDER, placeholders=None)
    largest = 0.0
    for one, other in zip(expected, found, strict=True):
        if one != other:
            raise WeightsError(f"{folder}: {one.modality}: expected {one}, found {other}")
        difference = (logits[one.modality] - expected_logits[one.modality]).abs()
        largest = max(largest, difference.max().item())
        if (difference > TOLERANCE * (1 + expected_logits[one.modality].abs())).any():
            raise WeightsError(f"{folder}: {one.modality}: logits differ by up to {difference.max().item():.2e}")
    return Verified("lightning_apollo", len(expected), largest)
