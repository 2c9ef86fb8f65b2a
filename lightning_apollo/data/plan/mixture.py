"""Modality shares of an epoch (text, image, multi-image, video) as passes over each source."""

from __future__ import annotations

import math
from collections.abc import Mapping

from lightning_apollo.structures import SAMPLE_MODALITIES


def check_shares(shares: Mapping[str, float]) -> None:
    """Raise ValueError unless the shares name modalities of samples, none is negative, and they add up to 1."""
    unknown = [name for name in shares if name not in SAMPLE_MODALITIES]
    if unknown:
        raise ValueError(f"shares names {', '.join(unknown)}; it takes {', '.join(SAMPLE_MODALITIES)}")
    if any(share < 0.0 for share in shares.values()) or not math.isclose(sum(shares.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"shares are not negative and add up to 1, not {sum(shares.values()):g}")


def passes_for_shares(
    mixture: Mapping[str, float],
    source_sizes: Mapping[str, int],
    modalities: Mapping[str, str | None],
    shares: Mapping[str, float],
) -> dict[str, float]:
    """Passes over each source with which every modality has its share of the samples of an epoch.

    The epoch stays as long as `mixture` (source -> passes) makes it; within a modality, sources keep their ratio. Without
    shares, `mixture` itself. A share that no source of the mixture can fill is a ValueError.
    """
    if not shares:
        return dict(mixture)
    samples = {name: passes * source_sizes[name] for name, passes in mixture.items()}
    total = sum(samples.values())
    by_modality: dict[str, float] = dict.fromkeys(SAMPLE_MODALITIES, 0.0)
    for name, number in samples.items():
        by_modality[_modality(name, modalities)] += number
    empty = [modality for modality, share in shares.items() if share > 0.0 and not by_modality[modality]]
    if empty:
        raise ValueError(f"shares wants {', '.join(empty)}, but no source of the mixture is of that modality")
    factors = {
        modality: shares.get(modality, 0.0) * total / number for modality, number in by_modality.items() if number
    }
    return {name: passes * factors.get(_modality(name, modalities), 0.0) for name, passes in mixture.items()}


def _modality(source: str, modalities: Mapping[str, str | None]) -> str:
    modality = modalities[source]
    if modality is None:
        raise ValueError(f"data.sources.{source}.modality is not given, which shares needs: text, image ...")
    return modality
