"""The ask loop: order, batches and unshowable items. Nothing is prepared beyond the next batch."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from lightning_apollo.evaluation.ask import ask
from lightning_apollo.structures import MediaError, Sample

TEXT = Sample(
    "q", "test", torch.tensor([1, 2]), torch.tensor([-100, -100]), torch.zeros(2, dtype=torch.bool), (), patch_size=14
)


def prepare(number: int) -> Sample:
    if number % 3 == 0:
        raise MediaError(f"{number}.mp4", "not a video")
    if number % 5 == 0:
        raise ValueError(f"{number} cannot be shown")
    return replace(TEXT, sample_id=str(number))


def echo(samples: Sequence[Sample]) -> list[str]:
    return [f"said {sample.sample_id}" for sample in samples]


def test_replies_come_in_order_and_what_cannot_be_shown_keeps_its_place() -> None:
    batches = list(ask(list(range(1, 8)), prepare, echo, batch_size=3))
    assert [[reply.item for reply in batch] for batch in batches] == [[1, 2, 3], [4, 5, 6], [7]]
    replies = [reply for batch in batches for reply in batch]
    assert [reply.said for reply in replies] == ["said 1", "said 2", None, "said 4", None, None, "said 7"]
    assert [str(reply.error) for reply in replies if reply.error] == [
        "3.mp4: not a video",
        "5 cannot be shown",
        "6.mp4: not a video",
    ]
    with pytest.raises(MediaError, match=r"3\.mp4"):
        replies[2].result()


def test_a_batch_without_any_sample_is_not_answered() -> None:
    def never(samples: Sequence[Sample]) -> list[str]:
        raise AssertionError(samples)

    (batch,) = ask([3, 5, 6], prepare, never, batch_size=8)
    assert all(reply.error for reply in batch)
    assert list(ask([], prepare, never, batch_size=8)) == []


def test_no_more_than_the_next_batch_is_prepared() -> None:
    prepared: list[int] = []

    def watched(number: int) -> Sample:
        prepared.append(number)
        return replace(TEXT, sample_id=str(number))

    ahead = [max(prepared) for _ in ask(list(range(8)), watched, echo, batch_size=2)]
    assert all(latest <= 2 * number + 3 for number, latest in enumerate(ahead))


def test_other_errors_end_the_run() -> None:
    def broken(number: int) -> Sample:
        raise ZeroDivisionError(number)

    with pytest.raises(ZeroDivisionError):
        list(ask([1], broken, echo, batch_size=2))
