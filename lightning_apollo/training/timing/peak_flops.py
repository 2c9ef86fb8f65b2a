"""Peak FLOPs of devices from vendors' data sheets, for model FLOPs utilisation (MFU)."""

from __future__ import annotations

import re

import torch


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The most FLOPs a second of dense matrix products in `dtype`; None for a CPU and for what is not known."""
    return known_peak(torch.cuda.get_device_name(device), dtype) if device.type == "cuda" else None


def known_peak(device_name: str, dtype: torch.dtype) -> float | None:
    """The same for the device that torch calls `device_name`.

    None where there is no figure: a wrong one is worse. float32 stands for plain float32, so there is none where torch
    is allowed to use TF32 in its place.
    """
    is_float32 = dtype == torch.float32 and torch.get_float32_matmul_precision() == "highest"
    if dtype not in (torch.bfloat16, torch.float16) and not is_float32:
        return None
    for pattern, half, single in _PEAKS:
        if re.fullmatch(pattern, device_name):
            return 1e12 * (single if is_float32 else half)
    return None


# Name of torch.cuda.get_device_name, TFLOP/s in bfloat16 and float16 with float32 sums, TFLOP/s in float32 without
# tensor cores. Dense: where a data sheet gives figures "with sparsity", half of them.
_PEAKS = (
    (r"NVIDIA A100-(SXM4|PCIE|SXM)-\d+GB", 312.0, 19.5),  # A100 data sheet
    (r"NVIDIA A100 80GB PCIe", 312.0, 19.5),
    (r"NVIDIA H100 80GB HBM3", 989.4, 66.9),  # H100 data sheet, SXM5
    (r"NVIDIA H100 PCIe", 756.0, 51.0),
    (r"NVIDIA H200", 989.4, 66.9),  # H200 data sheet, SXM
    (r"NVIDIA B200", 2250.0, 75.0),  # Blackwell data sheet, HGX B200 per GPU
    (r"NVIDIA L40S", 362.0, 91.6),  # L40S data sheet
    (r"NVIDIA L4", 121.0, 30.3),  # L4 data sheet
    (r"NVIDIA GeForce RTX 4090", 165.2, 82.6),  # Ada architecture white paper
    (r"AMD Instinct MI300X", 1307.4, 163.4),  # MI300X data sheet
    (r"AMD Instinct MI250X", 191.5, 47.9),  # MI250X data sheet, 383 and 95.7: torch sees each of its two dies by itself
)
