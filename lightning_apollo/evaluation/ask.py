"""Ask loop of all evaluations: items to prompts to answers, with the next batch prepared ahead.

Benchmarks, own rows, the demo, studies and lmms-eval differ in their items, and in what becomes of an item that cannot be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from lightning_apollo.evaluation.predictions import Prediction
from lightning_apollo.evaluation.prompting import build_prompt
from lightning_apollo.evaluation.question import Question
from lightning_apollo.inference.generate import GREEDY, DrawConfig, generate
from lightning_apollo.inference.trained_model import TrainedModel
from lightning_apollo.structures import MediaError, Sample

Item = TypeVar("Item")
Said = TypeVar("Said")


@dataclass(frozen=True)
class Reply(Generic[Item, Said]):
    """Answer to an item, or the error for which it could not be shown."""

    item: Item
    said: Said | None = None
    error: MediaError | ValueError | None = None

    def result(self) -> Said:
        """Answer to the item; raises the error where there is one."""
        if self.error is not None:
            raise self.error
        assert self.said is not None  # a reply has one of the two
        return self.said


def ask(
    items: Sequence[Item],
    prepare: Callable[[Item], Sample],
    answer: Callable[[Sequence[Sample]], Sequence[Said]],
    batch_size: int,
) -> Iterator[list[Reply[Item, Said]]]:
    """Yield the replies to the items in their order, batch by batch; the next batch is prepared while one is answered.

    `answer` gets the samples of a batch that could be prepared, and is not called where there is none.
    """
    batches = [items[start : start + batch_size] for start in range(0, len(items), batch_size)]
    for batch in _prepared_ahead(batches, prepare):
        samples = [prepared for _, prepared in batch if isinstance(prepared, Sample)]
        said = iter(answer(samples) if samples else ())
        yield [
            Reply(item, said=next(said)) if isinstance(prepared, Sample) else Reply(item, error=prepared)
            for item, prepared in batch
        ]


def ask_trained(
    trained: TrainedModel,
    questions: Sequence[Question],
    root: Path,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 16,
    advance: Callable[[int], None] = lambda count: None,
) -> Iterator[Prediction]:
    """Yield the greedy answer to each question, in order, shown as the model was trained; raise what cannot be shown.

    `advance` is told after every batch how many questions it had.
    """

    def prepare(question: Question) -> Sample:
        return build_prompt(question, trained.preparer, root)

    answer = partial(answer_prompts, trained, max_new_tokens=max_new_tokens)
    for replies in ask(questions, prepare, answer, batch_size):
        for reply in replies:
            yield Prediction(reply.item, reply.result())
        advance(len(replies))


def answer_prompts(
    trained: TrainedModel, prompts: Sequence[Sample], max_new_tokens: int, draw: DrawConfig = GREEDY
) -> list[str]:
    """The answer to each prompt, without special tokens and outer white space."""
    answers = generate(trained.model, prompts, trained.end_id, max_new_tokens, draw)
    return [str(trained.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in answers]


def _prepared_ahead(
    batches: Sequence[Sequence[Item]], prepare: Callable[[Item], Sample]
) -> Iterator[list[tuple[Item, Sample | MediaError | ValueError]]]:
    """The items of each batch with their samples, or the reasons why there is none."""

    def prepare_batch(batch: Sequence[Item]) -> list[tuple[Item, Sample | MediaError | ValueError]]:
        return [(item, _prepared(item, prepare)) for item in batch]

    with ThreadPoolExecutor(max_workers=1) as beside:
        following = beside.submit(prepare_batch, batches[0]) if batches else None
        for number in range(len(batches)):
            assert following is not None
            batch = following.result()
            following = beside.submit(prepare_batch, batches[number + 1]) if number + 1 < len(batches) else None
            yield batch


def _prepared(item: Item, prepare: Callable[[Item], Sample]) -> Sample | MediaError | ValueError:
    try:
        return prepare(item)
    except (MediaError, ValueError) as error:
        return error
