"""Small tables of scores."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from lightning_apollo.study.table import RunScore, StudyTable
from tests.places import ROOT

PUBLISHED = ROOT / "benchmarks" / "data" / "apollo_scaling_tables.csv"


def score_table(
    columns: Mapping[str, list[float | None]], factors: Mapping[str, list[str]] | None = None
) -> StudyTable:
    """One score for each variant v0, v1 ... and size; sizes ascend as they are given."""
    variants = tuple(f"v{number}" for number in range(len(next(iter(columns.values())))))
    return StudyTable(
        scores=tuple(
            RunScore(variant, size, "all", 0, score)
            for size, scores in columns.items()
            for variant, score in zip(variants, scores, strict=True)
            if score is not None
        ),
        variants=variants,
        sizes={size: 1e6 * (place + 1) for place, size in enumerate(columns)},
        data={"all": 1000.0},
        factors={name: dict(zip(variants, levels, strict=True)) for name, levels in (factors or {}).items()},
    )


def correlated(num_rows: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two columns that agree in part, with ties in both."""
    generator = np.random.default_rng(seed)
    x = generator.normal(size=num_rows)
    return np.round(x, 1), np.round(x + generator.normal(size=num_rows), 1)
