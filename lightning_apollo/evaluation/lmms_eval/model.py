"""Adapter of trained models to lmms-eval: `lmms-eval --model lightning_apollo --model_args checkpoint=CHECKPOINT --tasks ...`.

What a task calls a message becomes a conversation, which the preparer of the model's training samples, resizes and lays out.
"""

# pyright: reportMissingImports=false
# lmms-eval has an environment of its own: see docs/evaluation.md

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from PIL import Image
from rich.console import Console

from lightning_apollo.data.conversation import Conversation, MediaPart, Message, Role, TextPart
from lightning_apollo.evaluation.ask import answer_prompts, ask
from lightning_apollo.inference.generate import DrawConfig
from lightning_apollo.inference.trained import load_checkpoint, say_nothing, warn
from lightning_apollo.progress import progress_bar
from lightning_apollo.structures import Sample

_ROLES: dict[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}


class TrainedForLmmsEval(lmms):
    """A chat model of lmms-eval: generation only, several documents at a time, on every rank of `accelerate launch`.

    checkpoint: folder of a finished stage, an exported folder, or a recipe for its last stage. overrides: `key=value` words for
    the recipe with `;` between them, since lmms-eval takes the comma for itself. batch_size: prompts answered together.
    """

    is_simple = False

    def __init__(
        self, checkpoint: str, overrides: str = "", batch_size: int | str = 1, device: str | None = None
    ) -> None:
        super().__init__()
        accelerator = Accelerator()
        self._rank, self._world_size = accelerator.process_index, accelerator.num_processes
        place = accelerator.device if self._world_size > 1 or device is None else device
        words = [word for word in overrides.split(";") if word]
        say = warn if self._rank == 0 else say_nothing
        self._trained = load_checkpoint(checkpoint, words, place, say)
        self._batch_size = int(batch_size)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Return the answer to each request, in their order; each is cut where the first of the task's `until` begins."""
        answers, num_asked = [""] * len(requests), 0
        order = sorted(range(len(requests)), key=lambda number: repr(requests[number].args[2]))
        with progress_bar("ask", Console(stderr=True), is_shown=self.rank == 0) as report:
            for _, group in groupby(order, key=lambda number: repr(requests[number].args[2])):
                alike = list(group)  # one batch is drawn one way
                said = partial(self._answer, requests[alike[0]].args[2])
                for replies in ask(alike, lambda number: self._prompt(requests[number]), said, self._batch_size):
                    for reply in replies:
                        answers[reply.item] = reply.result()
                    num_asked += len(replies)
                    report(num_asked, len(requests))
        return answers

    def generate_until_multi_round(self, requests: list[Instance]) -> NoReturn:
        raise NotImplementedError(
            "lightning_apollo answers tasks of one round: choose tasks of the type generate_until"
        )

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        raise NotImplementedError("lightning_apollo answers in words: choose tasks of the type generate_until")

    def _answer(self, settings: Mapping[str, Any], prompts: Sequence[Sample]) -> list[str]:
        texts = answer_prompts(self._trained, prompts, int(settings.get("max_new_tokens", 1024)), _draw(settings))
        return [_cut(text, settings.get("until") or ()) for text in texts]

    def _prompt(self, request: Instance) -> Sample:
        _, messages_of, _, number, task, split = request.args
        messages = messages_of(self.task_dict[task][split][number])
        with _conversation(f"{task}/{split}/{number}", messages) as conversation:
            return self._trained.preparer.prompt(conversation, Path())


def _draw(settings: Mapping[str, Any]) -> DrawConfig:
    """Sampling of tokens for a task: the likeliest, unless it asks for a temperature and does not switch sampling off."""
    temperature = float(settings.get("temperature") or 0.0)
    if settings.get("do_sample") is False:
        temperature = 0.0
    return DrawConfig(temperature, float(settings.get("top_p") or 1.0))


def _cut(text: str, until: str | Sequence[str]) -> str:
    stops = [until] if isinstance(until, str) else until
    return text[: min((text.find(stop) for stop in stops if stop in text), default=len(text))].rstrip()


@contextmanager
def _conversation(name: str, messages: Sequence[Mapping[str, Any]]) -> Iterator[Conversation]:
    """The messages of a task as a conversation; images that come decoded lie in files for as long."""
    with TemporaryDirectory() as folder:
        turns = tuple(
            Message(_ROLES[message["role"]], tuple(_parts(message["content"], Path(folder) / str(turn))))
            for turn, message in enumerate(messages)
        )
        yield Conversation(name, "lmms-eval", turns)


def _parts(content: str | Sequence[Mapping[str, Any]], file: Path) -> Iterator[TextPart | MediaPart]:
    """The parts of one message; `file` begins the names of images that have none."""
    if isinstance(content, str):
        yield TextPart(content)
        return
    for number, part in enumerate(content):
        match part["type"]:
            case "text":
                yield TextPart(part["text"])
            case "image" if isinstance(part["url"], Image.Image):
                path = f"{file}-{number}.png"
                part["url"].convert("RGB").save(path)
                yield MediaPart("image", path)
            case "image":
                yield MediaPart("image", str(part["url"]))
            case "video":
                yield MediaPart("video", str(part["url"]), part.get("start_time"), part.get("end_time"))
            case other:
                raise ValueError(f"lightning_apollo takes text, images and videos, not {other}: leave this task out")
