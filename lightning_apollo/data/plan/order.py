"""The order of samples: pure functions of (source sizes, mixture, seed, epoch), the same on every rank.

A position in an epoch is one number, the index of a micro-batch over all ranks. Eight micro-batches on two ranks that
accumulate two, so that an optimizer step takes four of them:

    position  0  1  2  3 | 4  5  6  7
    rank      0  1  0  1 | 0  1  0  1

What a step learns from does therefore not depend on the number of ranks. Packed micro-batches have the draw of draw.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from lightning_apollo.data.plan.draw import seed_bytes
from lightning_apollo.errors import UserError


class TooFewSamples(UserError, ValueError):
    """An epoch that does not fill one optimizer step."""


def epoch_order(source_sizes: Mapping[str, int], mixture: Mapping[str, float], seed: int, epoch: int) -> Tensor:
    """(E, 2) int64: index of the source and row in it, for all samples of an epoch in order.

    source_sizes: rows of each source; mixture: passes over a source in an epoch. A fraction of a pass is drawn without
    replacement, anew in each epoch.
    """
    parts = []
    for index, (name, (whole, drawn)) in enumerate(_passes(source_sizes, mixture).items()):
        rows = torch.arange(source_sizes[name], dtype=torch.int64)
        remainder = torch.randperm(len(rows), generator=_generator(seed, epoch, name))[:drawn]
        rows = torch.cat([rows.repeat(whole), remainder])
        parts.append(torch.stack([torch.full_like(rows, index), rows], dim=1))
    order = torch.cat(parts)
    return order[torch.randperm(len(order), generator=_generator(seed, epoch, "order"))]


def epoch_size(source_sizes: Mapping[str, int], mixture: Mapping[str, float]) -> int:
    """The number of samples of every epoch, without making its order."""
    return sum(whole * source_sizes[name] + drawn for name, (whole, drawn) in _passes(source_sizes, mixture).items())


def num_micro_batches(num_samples: int, micro_batch_size: int, global_batch_size: int) -> int:
    """Micro-batches of an epoch over all ranks: those of its full global batches.

    The samples behind the last of them are dropped; the shuffle of every epoch drops others.
    """
    if num_samples < global_batch_size:
        raise TooFewSamples(
            f"an epoch has {num_samples} samples, fewer than one global batch of {global_batch_size}: "
            "lower global_batch_size or raise the passes in the mixture"
        )
    return num_samples // global_batch_size * (global_batch_size // micro_batch_size)


def micro_batches(order: Tensor, micro_batch_size: int, global_batch_size: int) -> Tensor:
    """(K, micro_batch_size, 2) int64: an epoch's order cut into its micro-batches."""
    kept = num_micro_batches(len(order), micro_batch_size, global_batch_size) * micro_batch_size
    return order[:kept].reshape(-1, micro_batch_size, 2)


def rank_positions(end: int, position: int, rank: int, world_size: int) -> range:
    """The positions that a rank takes when all ranks together go from `position` to `end`, not included."""
    return range(position + rank, end, world_size)


def refill_rows(num_rows: int, seed: int, epoch: int, sample_position: int) -> Iterator[int]:
    """The rows of a source that may take the place of a bad sample, each row once.

    sample_position: number of the sample in the epoch's order. The walk starts at a hashed row and takes a hashed step
    that has no factor in common with `num_rows`, so it needs no memory and no knowledge of other failures.
    """
    generator = _generator(seed, epoch, f"refill {sample_position}")
    row, step = (int(value) for value in torch.randint(num_rows, (2,), generator=generator))
    while math.gcd(step, num_rows) != 1:
        step += 1
    for _ in range(num_rows):
        yield row
        row = (row + step) % num_rows


def _passes(source_sizes: Mapping[str, int], mixture: Mapping[str, float]) -> dict[str, tuple[int, int]]:
    """For each source, its whole passes in an epoch and the number of rows drawn beside them."""
    unknown = [name for name in mixture if name not in source_sizes]
    if unknown:
        raise ValueError(f"mixture names {', '.join(unknown)}; data.sources has {', '.join(source_sizes) or 'none'}")
    shares = {name: divmod(mixture.get(name, 0.0), 1.0) for name in source_sizes}
    return {name: (int(whole), round(fraction * source_sizes[name])) for name, (whole, fraction) in shares.items()}


def _generator(seed: int, epoch: int, purpose: str) -> torch.Generator:
    return torch.Generator().manual_seed(int.from_bytes(seed_bytes(seed, epoch, purpose)[:4], "big"))
