"""The one line about what a stage is bound by."""

from __future__ import annotations

import pytest

from lightning_apollo.training.timing.bottleneck import PARTS, Account, DataSeconds, bottleneck


def account(prepare: float = 0.0, decode: float = 0.0, flops: float = 0.0, **seconds: float) -> Account:
    return Account(dict.fromkeys(PARTS, 0.0) | seconds, DataSeconds(prepare, decode), 1000, 20, flops)


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (account(wait=6.3, llm=1.0, backward=2.7, prepare=6, decode=5), "data-bound 63 %: decode"),
        (account(wait=6, llm=4, prepare=6, decode=2), "data-bound 60 %: preprocessing behind decode"),
        (account(wait=6, llm=4, prepare=1, decode=1), "data-bound 60 %: loader processes and their queue"),
        (account(wait=2, transfer=5, llm=3, prepare=9, decode=9), "data-bound 70 %: transfer to the device"),
        (account(wait=2.9, vision=2, backward=5.1), "compute-bound 71 %: backward"),
        (account(wait=1, vision=4, backward=3, connector=2, decode=90), "compute-bound 90 %: vision"),
        (account(communication=8, backward=2), "communication-bound 80 %: other ranks and their gradients"),
        (account(other=8, optimizer=2), "overhead-bound 80 %: logging, checkpoints and callbacks"),
    ],
)
def test_what_it_is_bound_by(own: Account, expected: str) -> None:
    assert bottleneck([own], None) == f"{expected} · 100 tokens/s, 2.0 samples/s"


def test_the_rank_that_the_others_wait_for_is_told_about() -> None:
    fast = account(communication=8, backward=2)
    slow = account(communication=1, wait=7, backward=2, prepare=7, decode=6)
    expected = "data-bound 70 %: decode (rank 1, which the others wait for) · 300 tokens/s, 6.0 samples/s"
    assert bottleneck([fast, slow, fast], None) == expected


def test_utilisation_is_a_share_of_all_devices() -> None:
    assert bottleneck([account(llm=10, flops=3e9), account(llm=10, flops=1e9)], 1e9).endswith("MFU 20.0 %")
