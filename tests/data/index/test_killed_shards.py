"""Shards and merges in real processes that are killed at random moments, again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import ROOT

FILES = ("media.arrow", "media.parquet", "samples.arrow", "samples.parquet")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
def test_kills_lose_nothing_and_leave_no_half_index(seed: int, tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.data.index.killing", str(tmp_path), str(seed)]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    num_kills, num_files, num_probes = map(int, done.stdout.split())
    assert num_kills >= 12
    assert num_files <= num_probes <= num_files + num_kills  # a kill costs the file in hand at most
    for name in FILES:
        assert (tmp_path / "index" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert not (tmp_path / "index" / "shards").exists()
