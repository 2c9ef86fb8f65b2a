"""Samples for the tests of a plan: a few with costs that can be added up by hand, or many drawn by hypothesis."""

from collections.abc import Mapping, Sequence

import numpy as np
from hypothesis import strategies as st

from lightning_apollo.data.plan.costs import SampleCosts

MAX_TOKENS, MAX_PATCHES = 40, 60


def samples(sources: Mapping[str, Sequence[int]], patches: Sequence[int] | None = None) -> SampleCosts:
    """Sources with the LLM tokens of their samples; a sample's patches are one frame, and as many as its tokens if not given."""
    tokens = np.array([number for numbers in sources.values() for number in numbers], dtype=np.int32)
    rows = np.array(tokens if patches is None else patches, dtype=np.int32)
    numbers = np.arange(len(sources), dtype=np.int16)
    return SampleCosts(
        source_names=tuple(sources),
        source=np.repeat(numbers, [len(numbers) for numbers in sources.values()]),
        llm_tokens=tokens,
        patches=rows,
        vision_squares=rows.astype(np.int64) ** 2,
    )


@st.composite
def some_samples(draw: st.DrawFn) -> SampleCosts:
    """One to three sources of up to 40 samples within the limits."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    total = sum(sizes)
    tokens = draw(st.lists(st.integers(1, MAX_TOKENS), min_size=total, max_size=total))
    patches = draw(st.lists(st.integers(0, MAX_PATCHES), min_size=total, max_size=total))
    ends = np.cumsum([0, *sizes])
    return samples({f"s{n}": tokens[ends[n] : ends[n + 1]] for n in range(len(sizes))}, patches)
