"""Answer questions about videos and images, whole or as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lightning_apollo.data.annotations.rows import parse_row
from lightning_apollo.data.conversation import Conversation, RowError
from lightning_apollo.data.storage.roots import MediaRoot
from lightning_apollo.inference.generate import GREEDY, DrawConfig, stream_tokens
from lightning_apollo.inference.trained_model import TrainedModel

_UNFINISHED = "\ufffd"  # what a tokenizer writes for the first bytes of a character whose others are to come


def answer(
    trained: TrainedModel,
    prompt: str,
    *,
    videos: Sequence[str | Path] = (),
    images: Sequence[str | Path] = (),
    begin_seconds: float | None = None,
    end_seconds: float | None = None,
    max_new_tokens: int = 256,
    draw: DrawConfig = GREEDY,
) -> str:
    """Return the model's answer, cut after `max_new_tokens`.

    MediaError for a file that cannot be read; see `question` for what may be asked.
    """
    asked = question(prompt, videos, images, begin_seconds, end_seconds)
    return "".join(stream_answer(trained, asked, max_new_tokens, draw)).strip()


def question(
    prompt: str,
    videos: Sequence[str | Path] = (),
    images: Sequence[str | Path] = (),
    begin_seconds: float | None = None,
    end_seconds: float | None = None,
) -> Conversation:
    """A conversation that asks, read by the rules for the rows of a manifest.

    <image> and <video> in the prompt say where the media go, one after the other; those that it does not mention come in front
    of it, images first. With `begin_seconds` or `end_seconds` there is one video, of which the part between them is shown.
    RowError for what does not fit together.
    """
    if (begin_seconds is not None or end_seconds is not None) and not videos:
        raise RowError("a time range without a video: name the video that it is a part of")
    row = {
        "messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": "?"}],  # rows have an answer
        "videos": [str(path) for path in videos],
        "images": [str(path) for path in images],
        "start_time": begin_seconds,
        "end_time": end_seconds,
    }
    return Conversation("the question", "asked", parse_row(row)[:-1])


def stream_answer(
    trained: TrainedModel,
    conversation: Conversation,
    max_new_tokens: int = 256,
    draw: DrawConfig = GREEDY,
    root: Path | MediaRoot = Path(),
    at_limit: Callable[[], None] | None = None,
) -> Iterator[str]:
    """Yield the answer to the last turn of a conversation piece by piece; media paths start at `root`.

    at_limit: called at the end of an answer that `max_new_tokens` cut.

    MediaError for media that cannot be read, ValueError for media that cannot be shown.
    """
    prompt = trained.preparer.prompt(conversation, root)
    steps = stream_tokens(trained.model, [prompt], trained.end_id, max_new_tokens, draw)
    return _texts(trained, (tokens[0] for tokens in steps), max_new_tokens, at_limit)


def _texts(
    trained: TrainedModel, token_ids: Iterable[int], max_new_tokens: int, at_limit: Callable[[], None] | None
) -> Iterator[str]:
    """The text that each token adds; a character of several tokens comes whole, with the last of them."""
    ids: list[int] = []
    written = text = ""
    for token in token_ids:
        ids.append(token)
        text = str(trained.tokenizer.decode(ids, skip_special_tokens=True)).lstrip()
        if text.endswith(_UNFINISHED):
            continue
        if len(text) > len(written):
            yield text[len(written) :]
            written = text
    if len(text) > len(written):
        yield text[len(written) :]
    if len(ids) == max_new_tokens and at_limit is not None:
        at_limit()
