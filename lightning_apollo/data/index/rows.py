"""Rows of manifests, and the samples table that they become."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lightning_apollo.data.annotations.manifest import Manifest, ManifestError
from lightning_apollo.data.conversation import Conversation, MediaPart, TextPart
from lightning_apollo.data.index.tables import SAMPLE_SCHEMA, dictionary
from lightning_apollo.data.media.media_facts import MediaKey
from lightning_apollo.data.source import Source
from lightning_apollo.data.storage.roots import MediaRoot, part_address
from lightning_apollo.structures import SAMPLE_MODALITIES, Modality, SampleModality

if TYPE_CHECKING:
    from lightning_apollo.data.index.token_counts import TextCounter

ROWS_AT_A_TIME = 16_384  # become Arrow's compact columns together
_NAN = float("nan")


class RowPlace(NamedTuple):
    """Place of a row."""

    source: Source
    manifest: Manifest
    row: int  # in its manifest, from 0


class FileOfRow(NamedTuple):
    """A file of a row, as a MediaPart shows it."""

    path: str  # its address
    modality: Modality
    begin_seconds: float | None
    end_seconds: float | None
    fps: float | None
    max_frames: int | None

    @property
    def key(self) -> MediaKey:
        return MediaKey(self.path, self.modality)


class RowFacts(NamedTuple):
    """All that the samples table holds of a row before its media are probed. JSON writes it as a list."""

    sample_id: str
    kind: SampleModality
    media: Sequence[FileOfRow]
    ignored_keys: Sequence[str]
    num_turns: int
    text_bytes: int
    num_text_tokens: int | None
    is_stream: bool
    error: str | None

    @classmethod
    def of_json(cls, fields: list) -> RowFacts:
        """The facts that JSON wrote so."""
        row = cls(*fields)
        return row._replace(media=[FileOfRow(*one) for one in row.media])


def row_places(sources: Sequence[Source]) -> Iterator[RowPlace]:
    """Every row in the order of the samples table."""
    for source in sources:
        for manifest in source.manifests:
            for row in range(len(manifest)):
                yield RowPlace(source, manifest, row)


def blocks_of_rows(sources: Sequence[Source], size: int) -> Iterator[list[RowPlace]]:
    """The same, `size` at a time and the rest at the end."""
    places = row_places(sources)
    while block := list(islice(places, size)):
        yield block


def read_row_facts(place: RowPlace, text: TextCounter | None) -> RowFacts:
    """The facts of a row; with `text`, its tokens are counted. A row that cannot be used has an error."""
    try:
        conversation = place.manifest[place.row]
    except ManifestError as error:
        sample_id = place.manifest.sample_id(place.row)
        return RowFacts(sample_id, "text", [], [], 0, 0, None if text is None else 0, False, error.reason)
    texts = [part.text for turn in conversation.messages for part in turn.parts if isinstance(part, TextPart)]
    return RowFacts(
        sample_id=conversation.sample_id,
        kind=_kind(conversation),
        media=[_use(part, place.source.root) for part in conversation.media],
        ignored_keys=conversation.ignored_keys,
        num_turns=len(conversation.messages),
        text_bytes=sum(len(text.encode()) for text in texts),
        num_text_tokens=None if text is None else text.count(conversation),
        is_stream=any(turn.role == "stream" for turn in conversation.messages),
        error=None,
    )


class SampleRows:
    """Rows on their way into the samples table, kept as Arrow's compact columns."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self.num_rows = 0
        self.num_errors = 0
        self._names = {
            "source": tuple(source.name for source in sources),
            "manifest": names_of_manifests(sources),
            "kind": SAMPLE_MODALITIES,
        }
        self._batches: list[pa.RecordBatch] = []
        self._media: list[pa.DictionaryArray] = []  # key of every use of a file, batch by batch

    def add(self, places: Sequence[RowPlace], rows: Sequence[RowFacts]) -> None:
        """The next rows, in the order of `row_places`."""
        self.num_rows += len(rows)
        self.num_errors += sum(row.error is not None for row in rows)
        columns = {name: [getattr(row, name) for row in rows] for name in RowFacts._fields}
        columns |= {
            "source": [place.source.name for place in places],
            "manifest": [place.manifest.address for place in places],
            "row": [place.row for place in places],
            "media": [[_numbers(use) for use in row.media] for row in rows],
            "error_media": [-1] * len(rows),
        }
        for name, values in self._names.items():
            columns[name] = dictionary(pa.array(columns[name], pa.string()), values)
        arrays = [pa.array(columns[field.name], field.type) for field in SAMPLE_SCHEMA]
        self._batches.append(pa.record_batch(arrays, SAMPLE_SCHEMA))
        keys = pa.array([key_text(use.key) for row in rows for use in row.media], pa.string())
        self._media.append(keys.dictionary_encode())

    def finish(self) -> tuple[pa.Table, pa.StringArray]:
        """The table, and (M,) the key of every file in the order of first use, which is its number in the table."""
        kind = pa.dictionary(pa.int32(), pa.string())
        media = pa.chunked_array(self._media, kind).unify_dictionaries()
        place = SAMPLE_SCHEMA.get_field_index("media")
        batches = [
            batch.set_column(place, SAMPLE_SCHEMA.field(place), _with_numbers(batch.column(place), chunk.indices))
            for batch, chunk in zip(self._batches, media.chunks, strict=True)
        ]
        keys = media.chunk(0).dictionary if batches else pa.array([], pa.string())
        return pa.Table.from_batches(batches, SAMPLE_SCHEMA), keys


def key_text(key: MediaKey) -> str:
    """The key as one string."""
    return f"{key.modality}:{key.path}"


def key_of_text(text: str) -> MediaKey:
    modality, _, path = text.partition(":")
    return MediaKey(path, "video" if modality == "video" else "image")


def paths_of_keys(keys: pa.StringArray) -> pa.StringArray:
    return pc.call_function("utf8_slice_codeunits", [keys], pc.SliceOptions(start=len("video:")))


def names_of_manifests(sources: Sequence[Source]) -> tuple[str, ...]:
    """The manifests of all sources, each once."""
    return tuple(dict.fromkeys(manifest.address for source in sources for manifest in source.manifests))


def _use(part: MediaPart, root: MediaRoot) -> FileOfRow:
    address = part_address(root, part)
    return FileOfRow(address, part.modality, part.begin_seconds, part.end_seconds, part.fps, part.max_frames)


def _numbers(use: FileOfRow) -> dict[str, float]:
    """A use in the table, but for the number of its file."""
    settings = {"begin_seconds": use.begin_seconds, "end_seconds": use.end_seconds, "fps": use.fps}
    numbers = {name: _NAN if value is None else value for name, value in settings.items()}
    return {"media": -1, **numbers, "max_frames": use.max_frames or 0}


def _with_numbers(uses: pa.ListArray, numbers: pa.Array) -> pa.ListArray:
    """The uses with the numbers of their files."""
    values = uses.values
    columns = [numbers, *(values.field(field.name) for field in list(values.type)[1:])]
    return pa.ListArray.from_arrays(uses.offsets, pa.StructArray.from_arrays(columns, fields=list(values.type)))


def _kind(conversation: Conversation) -> SampleModality:
    """As Sample.modality has it: a video counts before images."""
    if any(part.modality == "video" for part in conversation.media):
        return "video"
    return ("text", "image", "multi_image")[min(len(conversation.media), 2)]
