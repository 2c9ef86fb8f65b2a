"""Target sizes against the released code, transformers' port and the budget itself."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers.models.video_llama_3.video_processing_video_llama_3 import smart_resize

from lightning_apollo.data.sampling.budget import BudgetConfig, max_frames_in_budget, target_sizes

PATCH = 14
exhaustive = settings(derandomize=True, deadline=None, max_examples=300)
sides = st.integers(min_value=1, max_value=4000)
items = st.lists(st.tuples(st.integers(1, 60), sides, sides, st.sampled_from([1, 2])), min_size=1, max_size=5)


def test_video_of_the_paper():
    """720p, merge 2, as the released code sizes it."""
    cases = {(180, 10240): (140, 280), (60, 10240): (252, 476), (180, 16384): (196, 336)}
    for (num_frames, token_budget), expected in cases.items():
        budget = BudgetConfig(token_budget=token_budget, max_length=2 * token_budget)
        assert target_sizes([(num_frames, 720, 1280)], [2], PATCH, budget) == [expected]


@pytest.mark.parametrize(("merge_size", "tokens"), [(1, 10_050), (2, 2_691)])
def test_image_of_the_paper(merge_size, tokens):
    [(height, width)] = target_sizes([(1, 1080, 1920)], [merge_size], PATCH, BudgetConfig())
    assert height * width // (PATCH * merge_size) ** 2 == tokens


def test_python_rounds_half_to_even():
    """70 / 28 is 2.5 and goes to 2, 98 / 28 is 3.5 and goes to 4."""
    assert target_sizes([(1, 70, 98)], [2], PATCH, BudgetConfig(min_tokens=1)) == [(56, 112)]


def test_share_is_per_frame_over_all_items():
    """Two images beside 58 frames leave each of them the share of one among 60 frames."""
    together = target_sizes([(58, 720, 1280), (1, 720, 1280), (1, 720, 1280)], [2, 2, 2], PATCH, BudgetConfig())
    assert together == [(252, 476)] * 3


def test_mixed_merge_sizes_count_tokens():
    """The same picture gets the same tokens in an image (merge 1) and in a video (merge 2) of one sample."""
    (image_height, image_width), video = target_sizes([(1, 2000, 3000), (9, 2000, 3000)], [1, 2], PATCH, BudgetConfig())
    assert video == (2 * image_height, 2 * image_width)


def test_extreme_sides():
    """A strip keeps at least one token a side, where its own share and where the minimum decide."""
    assert target_sizes([(1, 20000, 30)], [1], PATCH, BudgetConfig()) == [(1429 * 14, 2 * 14)]
    assert target_sizes([(1, 100_000, 10)], [2], PATCH, BudgetConfig(token_budget=100)) == [(100 * 28, 28)]
    assert target_sizes([(1, 1, 1)], [2], PATCH, BudgetConfig()) == [(4 * 28, 4 * 28)]


def test_small_frames_are_not_enlarged_past_their_share():
    """The release shows 600 frames of 30×200 pixels at 2×12 tokens each: 14,400 where 10,240 are allowed."""
    [(height, width)] = target_sizes([(600, 30, 200)], [2], PATCH, BudgetConfig())
    assert 16 <= height * width // 28**2 <= 10240 // 600


@exhaustive
@given(frames=st.integers(1, 180), height=sides, width=sides, merge_size=st.sampled_from([1, 2]))
def test_equals_the_port_where_its_rule_keeps_both_bounds(frames, height, width, merge_size):
    assume(max(height, width) <= 8 * min(height, width))
    side, budget = PATCH * merge_size, BudgetConfig()
    limits = {"min_pixels": budget.min_tokens * side**2, "max_pixels": budget.token_budget * side**2 // frames}
    rows, columns = (pixels // side for pixels in smart_resize(height, width, side, **limits))
    assume(budget.min_tokens <= rows * columns <= budget.token_budget // frames)
    assert target_sizes([(frames, height, width)], [merge_size], PATCH, budget) == [(rows * side, columns * side)]


@exhaustive
@given(items=items, token_budget=st.integers(1, 12_000), min_tokens=st.integers(1, 32))
def test_never_over_budget_never_under_the_minimum(items, token_budget, min_tokens):
    assume(token_budget >= min_tokens)
    budget = BudgetConfig(token_budget=token_budget, min_tokens=min_tokens, max_length=token_budget + 1)
    sizes = [item[:3] for item in items]
    num_frames = sum(frames for frames, _, _ in sizes)
    merge_sizes = [item[3] for item in items]
    if num_frames > max_frames_in_budget(budget):
        with pytest.raises(ValueError, match=rf"\b{max_frames_in_budget(budget)} frames"):
            target_sizes(sizes, merge_sizes, PATCH, budget)
        return
    targets = target_sizes(sizes, merge_sizes, PATCH, budget)
    tokens = [height * width // (PATCH * m) ** 2 for (height, width), m in zip(targets, merge_sizes, strict=True)]
    assert all(
        height % (PATCH * m) == width % (PATCH * m) == 0
        for (height, width), m in zip(targets, merge_sizes, strict=True)
    )
    assert min(tokens) >= min_tokens
    assert sum(frames * count for (frames, _, _), count in zip(sizes, tokens, strict=True)) <= token_budget


def test_no_item_needs_no_budget():
    assert target_sizes([], [], PATCH, BudgetConfig()) == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_tokens": 0}, r"min_tokens .*\b0\b"),
        ({"token_budget": 8}, r"token_budget .*\b8\b"),
        ({"max_length": 10240}, r"max_length .*\b10240\b"),
    ],
)
def test_wrong_budgets_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        BudgetConfig(**values)
