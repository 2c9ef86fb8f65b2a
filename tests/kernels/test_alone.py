"""The package without the rest of this repository: nothing but torch and triton is imported, and the wheel holds all of it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import apollo_kernels
from tests.places import ROOT

KERNELS = ROOT / "kernels"

PROGRAM = """
import sys
from pathlib import Path

class Refused:
    def find_spec(self, name, *_):
        if name.split(".")[0] in ("lightning_apollo", "lightning", "transformers", "torchvision", "torchcodec", "omegaconf"):
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Refused())
sys.path.insert(0, sys.argv[1])
import torch
import apollo_kernels
assert Path(apollo_kernels.__file__).is_relative_to(sys.argv[1]), apollo_kernels.__file__
from apollo_kernels import *

layout = Layout.of(torch.tensor([[2, 4, 4], [1, 4, 2]]), torch.tensor([2, 1]), 2)
pixels = torch.zeros(layout.num_bytes, dtype=torch.uint8)
patches, positions, segments = pack_patches(pixels, layout)
cos, sin = rope_2d_tables(positions, 12)
q, k = rope_2d(patches.view(10, 1, 12), patches.view(10, 1, 12), cos, sin)
keep_mask, frame_counts = similarity_keep(pixels, layout, threshold_grey_levels=0.05)
tokens = merge_compact(q.flatten(1), layout, keep_mask)
merged, weights, runs = merge_similar(merge_compact(k.flatten(1), layout), layout, threshold=0.9)
print(segments.tolist(), frame_counts.tolist(), weights.tolist(), len(tokens))
"""
# Two frames of 2×2 patches, then an image of 2×1; the second frame repeats the first, so min_tokens keeps its one token.
EXPECTED = "[0, 0, 0, 0, 1, 1, 1, 1, 2, 2] [1, 1, 2] [2.0, 1.0, 1.0] 4"


def test_the_readmes_example_runs() -> None:
    """On a video of two equal frames of 2×2 patches, merged 2×2."""
    (example,) = re.findall(r"```python\n(.*?)```", (KERNELS / "README.md").read_text(), re.DOTALL)
    names = {
        **vars(apollo_kernels),
        "sizes": torch.tensor([[2, 28, 28]]),
        "merge_sizes": torch.tensor([2]),
        "pixels": torch.full((2 * 3 * 28 * 28,), 255, dtype=torch.uint8),
        "q": torch.ones(8, 1, 72),
        "k": torch.ones(8, 1, 72),
        "features": torch.ones(8, 4),
    }
    exec(example, names)
    assert (names["patches"] == 1).all()
    assert names["segments"].tolist() == [0] * 4 + [1] * 4
    assert names["keep_mask"].tolist() == [True, True]  # the second frame keeps its only token
    assert names["tokens"].shape == (2, 4)
    assert (names["merged"].tolist(), names["weights"].tolist()) == ([[1.0] * 4], [2.0])


def run_from(folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def test_torch_and_triton_are_enough() -> None:
    assert run_from(KERNELS) == EXPECTED


@pytest.mark.slow
def test_the_wheel_is_complete(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    source = shutil.copytree(KERNELS, tmp_path / "source")  # a build leaves files beside what it builds
    subprocess.run([*pip, "--target", str(tmp_path / "installed"), str(source)], check=True)
    assert run_from(tmp_path / "installed") == EXPECTED
