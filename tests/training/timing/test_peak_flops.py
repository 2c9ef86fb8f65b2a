"""Peaks of devices that are known, and none of any other."""

from collections.abc import Iterator

import pytest
import torch

from lightning_apollo.training.timing.peak_flops import known_peak, peak_flops


@pytest.fixture(autouse=True)
def _plain_float32() -> Iterator[None]:
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("name", "half", "single"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12, 19.5e12),
        ("NVIDIA A100-PCIE-40GB", 312e12, 19.5e12),
        ("NVIDIA H100 80GB HBM3", 989.4e12, 66.9e12),
        ("NVIDIA H100 PCIe", 756e12, 51e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12, 82.6e12),
    ],
)
def test_known_devices(name: str, half: float, single: float) -> None:
    assert known_peak(name, torch.bfloat16) == known_peak(name, torch.float16) == pytest.approx(half)
    assert known_peak(name, torch.float32) == pytest.approx(single)


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H100 NVL", "NVIDIA H2000", "cpu", ""])
def test_nothing_is_guessed(name: str) -> None:
    assert known_peak(name, torch.bfloat16) is None


def test_what_a_dtype_does_not_say() -> None:
    assert known_peak("NVIDIA H200", torch.float64) is None
    torch.set_float32_matmul_precision("high")  # TF32 may stand in
    assert known_peak("NVIDIA H200", torch.float32) is None


def test_a_cpu_has_no_peak() -> None:
    assert peak_flops(torch.device("cpu"), torch.bfloat16) is None
