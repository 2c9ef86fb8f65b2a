"""Own held-out rows as questions: every answer that a row teaches is asked for, given the true turns before it.

manifest ─> row ─> one question for each learnt turn of the assistant, and the conversation up to that turn
                └> or the reason why it cannot be used
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lightning_apollo.data.annotations.keys import REFUSE
from lightning_apollo.data.annotations.manifest import Manifest, ManifestError
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.conversation import Conversation, TextPart
from lightning_apollo.data.source import open_source
from lightning_apollo.data.storage.roots import MediaRoot
from lightning_apollo.evaluation.own.form import TITLES, form_of, short_texts_exact
from lightning_apollo.evaluation.question import BenchmarkError, Question

KIND_KEYS = ("kind", "category", "question_type", "task_type", "task_name", "task", "type")  # the first that a row has
SOURCE_KEYS = ("data_source", "source", "dataset", "dataset_name")
METRIC = "scored by"  # the axis of the metrics in tables


@dataclass(frozen=True)
class OwnRowsConfig:
    """Paths and metrics of own rows."""

    manifests: tuple[str, ...]
    root: str  # what media paths start from
    metric: str | None = None  # one of form.METRICS; None: by the form of the expected answers
    unknown_keys: str = REFUSE
    outside_root: tuple[str, ...] = ()
    protocols: tuple[str, ...] = ()  # of stores that are allowed besides the usual


@dataclass(frozen=True)
class UnusableRow:
    """A row that cannot be used."""

    row_id: str
    reason: str


class OwnQuestion(Question):
    """A question of a row. Its choices are part of its words, read or not."""

    @property
    def fingerprint(self) -> str:
        """A hash of what is shown and asked, so that another `--metric` scores the answers that are there."""
        return hashlib.sha256(repr(self.parts).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class OwnRows:
    """The questions of manifests, with what it takes to show each of them."""

    title: str  # the manifests' names
    questions: tuple[Question, ...]
    conversations: Mapping[str, Conversation]  # by question id: the turns up to the answer, which alone is learnt
    root: MediaRoot
    broken: tuple[UnusableRow, ...]
    num_rows: int
    digest: str  # of the manifests' content

    def expected(self, question: Question) -> str:
        """The answer as the row words it."""
        answer = self.conversations[question.question_id].messages[-1]
        return "".join(part.text for part in answer.parts if isinstance(part, TextPart))


def read_own_rows(config: OwnRowsConfig) -> OwnRows:
    """The questions of all rows; no media file is opened.

    ManifestError for a file that is no manifest; BenchmarkError where no row can be used, or where an answer has not the form
    that the metric scores.
    """
    source = open_source(
        "own",
        SourceConfig(list(config.manifests), config.root),
        config.outside_root,
        config.unknown_keys,
        config.protocols,
    )
    counts = Counter(manifest.name for manifest in source.manifests)
    titles = [m.name if counts[m.name] == 1 else m.address for m in source.manifests]
    broken: list[UnusableRow] = []
    asked: list[tuple[Question, Conversation]] = []
    for manifest, title in zip(source.manifests, titles, strict=True):
        asked += _read(manifest, title, config.metric, broken)
    if not asked:
        raise BenchmarkError(_nothing(titles, broken))
    questions = (
        short_texts_exact([question for question, _ in asked]) if config.metric is None else [q for q, _ in asked]
    )
    return OwnRows(
        title=", ".join(titles),
        questions=tuple(_without_single_groups(_named_metrics(questions))),
        conversations={question.question_id: conversation for question, conversation in asked},
        root=source.root,
        broken=tuple(broken),
        num_rows=len(source),
        digest=hashlib.sha256("\n".join(m.digest() for m in source.manifests).encode()).hexdigest(),
    )


def _read(
    manifest: Manifest, title: str, metric: str | None, broken: list[UnusableRow]
) -> Iterator[tuple[Question, Conversation]]:
    """The questions of a manifest with their conversations; its bad rows are appended to `broken`."""
    for row in range(len(manifest)):
        row_id = f"{title}:{row + 1}"
        try:
            conversation = replace(manifest[row], sample_id=row_id)
        except ManifestError as error:
            broken.append(UnusableRow(row_id, str(error)))
            continue
        groups = _groups(manifest.fields(row), title, conversation)
        answers = [
            number for number, turn in enumerate(conversation.messages) if turn.role == "assistant" and turn.is_learnt
        ]
        for count, number in enumerate(answers, start=1):
            name = row_id if len(answers) == 1 else f"{row_id}/{count}"
            upto = _up_to(conversation, number, name)
            yield _question(upto, groups, metric), upto


def _up_to(conversation: Conversation, number: int, name: str) -> Conversation:
    """The turns up to an answer, the only one that is learnt."""
    before = tuple(
        replace(turn, is_learnt=False) if turn.role == "assistant" else turn for turn in conversation.messages[:number]
    )
    return replace(conversation, sample_id=name, messages=(*before, conversation.messages[number]))


def _question(conversation: Conversation, groups: tuple[tuple[str, str], ...], metric: str | None) -> Question:
    *before, last = conversation.messages
    expected = "".join(part.text for part in last.parts if isinstance(part, TextPart))
    asked = [part.text for turn in before if turn.role == "user" for part in turn.parts if isinstance(part, TextPart)]
    shows_video = any(part.modality == "video" for part in conversation.media)
    form = form_of("\n".join(asked[-1:]), expected, shows_video, metric)
    if form is None:
        raise BenchmarkError(
            f"{conversation.sample_id}: --metric {metric} cannot score the expected answer {expected!r:.60}: "
            "leave the option out, or take exact or f1"
        )
    return OwnQuestion(
        question_id=conversation.sample_id,
        parts=tuple(part for turn in before for part in turn.parts),
        answers=form.answers,
        metric=form.metric,
        choices=form.choices,
        groups=groups,
    )


def _groups(fields: Mapping[str, object], title: str, conversation: Conversation) -> tuple[tuple[str, str], ...]:
    """Kind, source and modality of a row, in the order of the table."""
    kinds = [str(fields[key]) for key in KIND_KEYS if isinstance(fields.get(key), str | int) and fields[key] != ""]
    sources = [str(fields[key]) for key in SOURCE_KEYS if isinstance(fields.get(key), str) and fields[key] != ""]
    modalities = [part.modality for part in conversation.media]
    modality = "video" if "video" in modalities else ("text", "image", "multi_image")[min(len(modalities), 2)]
    return ("kind", (kinds or [""])[0]), ("source", (sources or [title])[0]), ("modality", modality)


def _named_metrics(questions: Sequence[Question]) -> list[Question]:
    return [replace(q, groups=(*q.groups, (METRIC, TITLES[q.metric]))) for q in questions]


def _without_single_groups(questions: Sequence[Question]) -> list[Question]:
    """The questions without axes on which all of them are alike, which are in the row of all questions."""
    kinds = Counter(axis for axis, _ in {group for question in questions for group in question.groups})
    return [
        replace(q, groups=tuple((axis, kind or "(none)") for axis, kind in q.groups if kinds[axis] > 1))
        for q in questions
    ]


def _nothing(titles: Sequence[str], broken: Sequence[UnusableRow]) -> str:
    reason = f"the first of {len(broken):,} broken rows: {broken[0].reason}" if broken else "it has no row"
    return f"{', '.join(titles)}: nothing to ask: {reason}"
