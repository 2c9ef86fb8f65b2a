"""Survey of a user's rows and media, before a recipe is written for them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from lightning_apollo.data.annotations.keys import REFUSE
from lightning_apollo.data.config import SourceConfig
from lightning_apollo.data.conversation import Conversation, MediaPart, TextPart
from lightning_apollo.data.index.build import build_index
from lightning_apollo.data.index.scan import BrokenRow, broken_rows
from lightning_apollo.data.index.tables import Index
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.source import Source, open_source
from lightning_apollo.errors import RecipeError
from lightning_apollo.inference.parsers import find_span
from lightning_apollo.progress import CheckProgress
from lightning_apollo.recipe.schema import CUSTOM_SOURCE
from lightning_apollo.structures import SAMPLE_MODALITIES

MAX_BROKEN_SHOWN = 5

_PROBE_SECONDS = 30.0  # a file whose probe takes longer is broken
_MAX_ANSWERS_READ = 1000  # rows, spread over all, that tell what answers look like
_WITH_SECONDS = re.compile(r"\d\s*(?:s|sec|seconds)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Example:
    """A question of the data with its media, to ask the trained model."""

    prompt: str
    media: tuple[MediaPart, ...]


@dataclass(frozen=True)
class Survey:
    """Findings of a survey. Files that several rows show count once."""

    index: Index
    kinds: dict[str, int]  # text, image, multi_image, video -> rows that can be used
    broken: tuple[BrokenRow, ...]  # the first of them
    num_broken: int  # rows
    num_images: int  # files that can be read
    num_videos: int
    num_broken_files: int
    shown_seconds: np.ndarray  # (U,) of every video of a row that can be used, the part that is shown
    sizes: np.ndarray  # (F, 2) width and height in pixels of every file that can be read
    share_of_spans: float  # of the rows with a video: their last answer is a time span
    example: Example

    @property
    def num_usable(self) -> int:
        return sum(self.kinds.values())


def survey(
    manifests: Sequence[str],
    root: str,
    folder: Path,
    jobs: int,
    text: TextCounter | None,
    progress: CheckProgress,
    unknown_keys: str = REFUSE,
) -> Survey:
    """Read every row and probe every file; the index of both is written to `folder`.

    `jobs` processes probe, as in `build_index`. RecipeError where there is no row, or none that can be used;
    ManifestError where a manifest cannot be read at all.
    """
    source = open_source(CUSTOM_SOURCE, SourceConfig(list(manifests), root), (), unknown_keys)
    named = ", ".join(manifests)
    if not len(source):
        raise RecipeError(f"{named}: no rows: write one conversation on each line, as docs/data.md shows")
    index = build_index([source], folder, jobs, _PROBE_SECONDS, text, progress=progress)
    is_usable = ~index.is_broken()
    broken = tuple(islice(broken_rows(index), MAX_BROKEN_SHOWN))
    if not is_usable.any():
        raise RecipeError(f"{named}: none of the {len(index)} rows can be used; the first: {broken[0]}")
    kinds = np.bincount(index.sample_column("kind")[is_usable], minlength=len(SAMPLE_MODALITIES)).tolist()
    is_readable = index.media.column("error").is_null().to_numpy()
    is_video = index.media_column("modality") == 1
    return Survey(
        index=index,
        kinds=dict(zip(SAMPLE_MODALITIES, kinds, strict=True)),
        broken=broken,
        num_broken=int((~is_usable).sum()),
        num_images=int((is_readable & ~is_video).sum()),
        num_videos=int((is_readable & is_video).sum()),
        num_broken_files=int((~is_readable).sum()),
        shown_seconds=_shown_seconds(index, is_usable),
        sizes=np.stack([index.media_column("width"), index.media_column("height")], axis=1)[is_readable],
        share_of_spans=_share_of_spans(source, is_usable),
        example=_example(next(_usable_rows(source, is_usable))),
    )


def _shown_seconds(index: Index, is_usable: np.ndarray) -> np.ndarray:
    (media, begins, ends, _, _), offsets = index.media_uses()
    is_shown = np.repeat(is_usable, np.diff(offsets)) & (index.media_column("modality")[media] == 1)
    media, begins, ends = media[is_shown], begins[is_shown], ends[is_shown]
    first = index.media_column("begin_seconds")[media] - index.media_column("clock_start_seconds")[media]
    last = first + index.media_column("duration_seconds")[media]
    return np.fmin(ends, last) - np.fmax(begins, first)  # fmin and fmax pass over NaN, which is: not cut


def _share_of_spans(source: Source, is_usable: np.ndarray) -> float:
    """Of evenly spread rows with a video."""
    step = max(1, len(source) // _MAX_ANSWERS_READ)
    rows = _usable_rows(source, is_usable, step)
    answers = [_last_answer(row) for row in rows if any(part.modality == "video" for part in row.media)]
    spans = [answer for answer in answers if find_span(answer) is not None and _WITH_SECONDS.search(answer)]
    return len(spans) / max(1, len(answers))


def _usable_rows(source: Source, is_usable: np.ndarray, step: int = 1) -> Iterator[Conversation]:
    return (source[row] for row in range(0, len(source), step) if is_usable[row])


def _last_answer(row: Conversation) -> str:
    return _text([message.parts for message in row.messages if message.role == "assistant"][-1])


def _example(row: Conversation) -> Example:
    """The first question of a row that shows all its media."""
    asked = next((message for message in row.messages if message.role == "user"), row.messages[0])
    return Example(_text(asked.parts), row.media)


def _text(parts: Sequence[TextPart | MediaPart]) -> str:
    return " ".join(part.text for part in parts if isinstance(part, TextPart)).strip()
