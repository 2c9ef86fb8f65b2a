"""Last step of every way to make an index: errors of samples, common metadata and the files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightning_apollo.data.index.media_columns import MediaColumns
from lightning_apollo.data.index.rows import names_of_manifests
from lightning_apollo.data.index.tables import FORMAT_VERSION, MEDIA, SAMPLE_SCHEMA, SAMPLES, none_if_nan, write_tables
from lightning_apollo.data.sampling.segment import segment_of
from lightning_apollo.data.source import Source
from lightning_apollo.structures import MediaError, MediaInfo


def write_index(
    folder: Path,
    sources: Sequence[Source],
    digests: Mapping[str, str],
    text_identity: str,
    samples: pa.Table,
    media: MediaColumns,
) -> None:
    """Write the samples and their media, all known, for a caller that holds the folder's lock.

    `digests` are those of `manifest_digests`, taken before the rows were read; `text_identity` that of the TextCounter,
    empty without one.
    """
    metadata = {
        "format_version": FORMAT_VERSION,
        "fingerprint": _fingerprint(digests, media),
        "text": text_identity,
        "sources": json.dumps([source.name for source in sources]),
        "manifests": json.dumps(names_of_manifests(sources)),
        "manifest_digests": json.dumps(digests),
    }
    tables = {MEDIA: media.table(), SAMPLES: _with_errors(samples, media)}
    write_tables(folder, {name: table.replace_schema_metadata(metadata) for name, table in tables.items()})


def manifest_digests(sources: Sequence[Source]) -> dict[str, str]:
    """Source, number in it and name of every manifest -> hash of its content."""
    digests = {}
    for source in sources:
        for number, manifest in enumerate(source.manifests):
            digests[f"{source.name}/{number}/{manifest.name}"] = manifest.digest()
    return digests


def _fingerprint(digests: Mapping[str, str], media: MediaColumns) -> str:
    """A hash of the manifests' content and the facts of the media, not of where they lie or when they were written."""
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, digests]).encode())
    for line in media.digest_lines():
        digest.update(line.encode())
    return digest.hexdigest()


def _with_errors(samples: pa.Table, media: MediaColumns) -> pa.Table:
    """The samples with the error of their first broken part; a row that is broken itself has no parts."""
    column = samples.column("media").combine_chunks()
    numbers, begins, ends = (column.values.field(name).to_numpy() for name in ("media", "begin_seconds", "end_seconds"))
    is_cut = ~(np.isnan(begins) & np.isnan(ends))
    uses = np.flatnonzero(media.is_broken[numbers] | is_cut)  # no other part can be broken
    rows = np.searchsorted(column.offsets.to_numpy(), uses, side="right") - 1
    errors = samples.column("error").to_pylist()
    error_media = np.full(len(errors), -1, np.int32)
    for row, use in zip(rows.tolist(), uses.tolist(), strict=True):
        if error_media[row] < 0:
            error = _part_error(media, int(numbers[use]), float(begins[use]), float(ends[use]))
            if error is not None:
                errors[row], error_media[row] = error, numbers[use]
    for name, values in (("error", errors), ("error_media", error_media)):
        place = SAMPLE_SCHEMA.get_field_index(name)
        field = SAMPLE_SCHEMA.field(place)
        samples = samples.set_column(place, field, pa.array(values, field.type))
    return samples


def _part_error(media: MediaColumns, number: int, begin: float, end: float) -> str | None:
    facts = media.facts(number)
    if not isinstance(facts, MediaInfo):
        return facts
    if facts.modality == "image" or (begin != begin and end != end):  # NaN: not cut
        return None
    try:
        segment_of(facts, none_if_nan(begin), none_if_nan(end))
    except MediaError as error:
        return error.reason
    return None
