"""Build the metadata index: read every row, probe every media file once. Resumable after a kill.

INDEX/probes.jsonl holds the facts of the files probed so far, one line each, until the tables are written. A later
call probes the files that neither it nor the tables know, or whose size or time of change is another now.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_apollo.data.annotations.manifest import Manifest, ManifestError
from lightning_apollo.data.conversation import Conversation, MediaPart, TextPart
from lightning_apollo.data.index.tables import (
    FORMAT_VERSION,
    MEDIA,
    MEDIA_SCHEMA,
    MODALITIES,
    SAMPLE_SCHEMA,
    SAMPLES,
    Index,
    IndexFileError,
    dictionary,
    nan_if_none,
    none_if_nan,
    write_tables,
)
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.probe_pool import MediaKey, Probe, ProbeResult, probe_all
from lightning_apollo.data.sampling.config import SamplingConfig
from lightning_apollo.data.sampling.timestamps import sample_timestamps
from lightning_apollo.data.source import Source
from lightning_apollo.data.storage.address import file_state
from lightning_apollo.data.storage.roots import MediaRoot, part_address
from lightning_apollo.files import lock
from lightning_apollo.progress import CheckProgress
from lightning_apollo.structures import SAMPLE_MODALITIES, MediaError, MediaInfo, SampleModality

_JOURNAL = "probes.jsonl"
_ROWS_AT_A_TIME = 16_384  # become Arrow's compact columns together
_STAT_THREADS = 16


def build_index(
    sources: Sequence[Source],
    folder: Path,
    jobs: int = 1,
    deadline: float = 30.0,
    text: TextCounter | None = None,
    probe: Probe = media.probe,
    progress: CheckProgress | None = None,
) -> Index:
    """The index of all rows of the sources, written to `folder`.

    `jobs` processes probe, each file at most `deadline` seconds; a file that hangs or crashes one is a broken file. With
    0, this process probes, without a deadline.
    With `text`, tokens are counted too. Broken rows and files are part of the index, never an error here. Calls for the
    same folder wait for each other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"):
        made = _made_before(folder)
        if made is not None and _is_index_of(made, sources, text):
            return made
        rows = _Rows(text)
        samples = rows.read(sources, progress or _no_progress)
        facts = _probe_missing(folder, list(rows.media), jobs, deadline, probe, progress or _no_progress)
        metadata = _metadata(sources, facts, text)
        tables = {MEDIA: _media_table(facts), SAMPLES: _with_errors(samples, facts)}
        write_tables(folder, {name: table.replace_schema_metadata(metadata) for name, table in tables.items()})
        (folder / _JOURNAL).unlink(missing_ok=True)
    return Index(folder)


def is_current(index: Index, sources: Sequence[Source], text: TextCounter | None) -> bool:
    """True if the index holds these sources with their manifests as they are, its media are the files that were probed, and
    text was counted in this way. No file is opened but the manifests.
    """
    digests = _manifest_digests(sources)
    return digests.items() <= index.manifest_digests.items() and _are_media_and_text_current(index, text)


def fingerprint_of_manifests(sources: Sequence[Source]) -> str:
    """A hash of the content of all manifests, whatever they are called; media are not looked at."""
    contents = [[source.name, *(manifest.content_digest() for manifest in source.manifests)] for source in sources]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def _made_before(folder: Path) -> Index | None:
    try:
        return Index(folder)
    except IndexFileError:  # none, cut short, or of another version
        return None


def _is_index_of(index: Index, sources: Sequence[Source], text: TextCounter | None) -> bool:
    """True if making the index again would change nothing."""
    is_whole = list(index.manifest_digests.items()) == list(_manifest_digests(sources).items())
    return is_whole and bool(index.text_identity) == (text is not None) and _are_media_and_text_current(index, text)


def _are_media_and_text_current(index: Index, text: TextCounter | None) -> bool:
    if text is not None and index.text_identity != text.identity:
        return False
    addresses = index.media.column("path").to_pylist()
    sizes, times = index.media_column("file_bytes").tolist(), index.media_column("mtime_ns").tolist()
    with ThreadPoolExecutor(_STAT_THREADS) as pool:  # a disk on the network answers many at a time
        return all(map(operator.eq, pool.map(file_state, addresses), zip(sizes, times, strict=True)))


class _Rows:
    """Read rows into the samples table and give every file that they use a number."""

    def __init__(self, text: TextCounter | None) -> None:
        self.media: dict[MediaKey, int] = {}  # number of each file, in the order of first use
        self._text = text

    def read(self, sources: Sequence[Source], progress: CheckProgress) -> pa.Table:
        names = tuple(source.name for source in sources)
        manifests = _manifest_names(sources)
        total, done, num_errors = sum(map(len, sources)), 0, 0
        batches = []
        for chunk in _chunks((source, manifest, row) for source in sources for manifest in source.manifests
                             for row in range(len(manifest))):  # fmt: skip
            rows = [self._row(*place) for place in chunk]
            done, num_errors = done + len(rows), num_errors + sum(row["error"] is not None for row in rows)
            columns = {field.name: [row[field.name] for row in rows] for field in SAMPLE_SCHEMA}
            for name, values in (("source", names), ("manifest", manifests), ("kind", SAMPLE_MODALITIES)):
                columns[name] = dictionary(pa.array(columns[name], pa.string()), values)
            batches.append(pa.record_batch([pa.array(columns[f.name], f.type) for f in SAMPLE_SCHEMA], SAMPLE_SCHEMA))
            progress("rows", done, total, num_errors)
        return pa.Table.from_batches(batches, SAMPLE_SCHEMA)

    def _row(self, source: Source, manifest: Manifest, position: int) -> dict[str, Any]:
        facts: dict[str, Any] = {"source": source.name, "manifest": manifest.address, "row": position}
        try:
            conversation = manifest[position]
        except ManifestError as error:
            num_tokens = None if self._text is None else 0
            nothing = {
                "media": [],
                "ignored_keys": [],
                "num_turns": 0,
                "text_bytes": 0,
                "num_text_tokens": num_tokens,
                "is_stream": False,
            }
            wrong = {"error": error.reason, "error_media": -1}
            return {**facts, **nothing, **wrong, "kind": "text", "sample_id": manifest.sample_id(position)}
        texts = [part.text for turn in conversation.messages for part in turn.parts if isinstance(part, TextPart)]
        return facts | {
            "sample_id": conversation.sample_id,
            "media": [self._use(part, source.root) for part in conversation.media],
            "ignored_keys": conversation.ignored_keys,
            "num_turns": len(conversation.messages),
            "text_bytes": sum(len(text.encode()) for text in texts),
            "num_text_tokens": None if self._text is None else self._text.count(conversation),
            "kind": _kind(conversation),
            "is_stream": any(turn.role == "stream" for turn in conversation.messages),
            "error": None,
            "error_media": -1,
        }

    def _use(self, part: MediaPart, root: MediaRoot) -> dict[str, float]:
        number = self.media.setdefault(MediaKey(part_address(root, part), part.modality), len(self.media))
        settings = {"begin_seconds": part.begin_seconds, "end_seconds": part.end_seconds, "fps": part.fps}
        numbers = {name: nan_if_none(value) for name, value in settings.items()}
        return {"media": number, **numbers, "max_frames": part.max_frames or 0}


def _probe_missing(
    folder: Path, keys: Sequence[MediaKey], jobs: int, deadline: float, probe: Probe, progress: CheckProgress
) -> dict[MediaKey, ProbeResult]:
    """The facts of every file, in the order of `keys`; those that come in are written down at once."""
    known = _known(folder)
    facts: dict[MediaKey, ProbeResult | None] = {}
    for key in keys:
        before = known.get(key)
        facts[key] = before if before and file_state(key.path) == (before.file_bytes, before.mtime_ns) else None
    missing = [key for key, found in facts.items() if found is None]
    done, num_errors = len(keys) - len(missing), sum(one is not None and one.info is None for one in facts.values())
    progress("files", done, len(keys), num_errors)
    with (folder / _JOURNAL).open("a") as journal:
        for key, found in probe_all(missing, jobs, deadline, probe):
            facts[key] = found
            journal.write(f"{json.dumps([*key, *found[1:], found.info and asdict(found.info)])}\n")
            journal.flush()
            done, num_errors = done + 1, num_errors + (found.info is None)
            progress("files", done, len(keys), num_errors)
    return {key: found for key, found in facts.items() if found is not None}


def _known(folder: Path) -> dict[MediaKey, ProbeResult]:
    """The facts that earlier calls have left: those of the table, then those of a call that was killed."""
    known: dict[MediaKey, ProbeResult] = {}
    table = folder / f"{MEDIA}.parquet"
    if table.is_file() and (pq.read_metadata(table).metadata or {}).get(b"format_version") == FORMAT_VERSION.encode():
        for batch in pq.ParquetFile(table).iter_batches():
            for row in batch.to_pylist():
                state = row.pop("file_bytes"), row.pop("mtime_ns"), row.pop("error")
                row["fps"] = none_if_nan(row["fps"])
                known[MediaKey(row["path"], row["modality"])] = ProbeResult(
                    MediaInfo(**row) if state[2] is None else None, *state
                )
    if (folder / _JOURNAL).is_file():
        for line in (folder / _JOURNAL).read_text(errors="replace").splitlines(keepends=True):
            if line.endswith("\n"):  # the last line may have been cut short
                path, modality, *state, info = json.loads(line)
                known[MediaKey(path, modality)] = ProbeResult(info and MediaInfo(**info), *state)
    return known


def _media_table(facts: Mapping[MediaKey, ProbeResult]) -> pa.Table:
    broken = {"duration_seconds": 0.0, "begin_seconds": 0.0, "clock_start_seconds": 0.0, "codec": ""}
    broken |= dict.fromkeys(("width", "height", "num_frames", "rotation_degrees"), 0)
    broken |= dict.fromkeys(("is_mirrored", "is_read_in_order"), False)
    rows = []
    for key, found in facts.items():
        info: dict[str, Any] = {"fps": None, **broken} if found.info is None else asdict(found.info)
        info |= {**key._asdict(), "file_bytes": found.file_bytes, "mtime_ns": found.mtime_ns, "error": found.error}
        info["fps"] = nan_if_none(info["fps"])
        rows.append(info)
    columns: dict[str, Any] = {field.name: [row[field.name] for row in rows] for field in MEDIA_SCHEMA}
    columns["modality"] = dictionary(pa.array(columns["modality"], pa.string()), MODALITIES)
    return pa.table([pa.array(columns[field.name], field.type) for field in MEDIA_SCHEMA], schema=MEDIA_SCHEMA)


def _with_errors(samples: pa.Table, facts: Mapping[MediaKey, ProbeResult]) -> pa.Table:
    """The samples with the error of their first broken part; a row that is broken itself has no parts."""
    found = list(facts.values())
    column = samples.column("media").combine_chunks()
    numbers, begins, ends = (
        column.values.field(name).to_pylist() for name in ("media", "begin_seconds", "end_seconds")
    )
    errors = samples.column("error").to_pylist()
    error_media = [-1] * len(errors)
    for place, (first, last) in enumerate(pairwise(column.offsets.to_pylist())):
        for n in range(first, last):
            error = _part_error(found[numbers[n]], begins[n], ends[n])
            if error is not None:
                errors[place], error_media[place] = error, numbers[n]
                break
    for name, values in (("error", errors), ("error_media", error_media)):
        place = SAMPLE_SCHEMA.get_field_index(name)
        samples = samples.set_column(
            place, SAMPLE_SCHEMA.field(place), pa.array(values, SAMPLE_SCHEMA.field(place).type)
        )
    return samples


def _part_error(facts: ProbeResult, begin: float, end: float) -> str | None:
    segment = none_if_nan(begin), none_if_nan(end)
    if facts.info is None or facts.info.modality == "image" or segment == (None, None):
        return facts.error
    try:
        sample_timestamps(facts.info, SamplingConfig(max_frames=1), *segment)
    except MediaError as error:
        return error.reason
    return None


def _metadata(
    sources: Sequence[Source], facts: Mapping[MediaKey, ProbeResult], text: TextCounter | None
) -> dict[str, str]:
    """Common metadata of both tables. The fingerprint leaves out where files lie and when they were written."""
    manifests = _manifest_digests(sources)
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, manifests]).encode())
    for key, found in facts.items():
        seen = None if found.info is None else asdict(replace(found.info, path=""))
        digest.update(json.dumps([key.modality, found.file_bytes, seen]).encode())
    return {
        "format_version": FORMAT_VERSION,
        "fingerprint": digest.hexdigest(),
        "text": "" if text is None else text.identity,
        "sources": json.dumps([source.name for source in sources]),
        "manifests": json.dumps(_manifest_names(sources)),
        "manifest_digests": json.dumps(manifests),
    }


def _manifest_digests(sources: Sequence[Source]) -> dict[str, str]:
    """Source, number in it and name of every manifest -> hash of its content."""
    digests = {}
    for source in sources:
        for number, manifest in enumerate(source.manifests):
            digests[f"{source.name}/{number}/{manifest.name}"] = manifest.digest()
    return digests


def _manifest_names(sources: Sequence[Source]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(manifest.address for source in sources for manifest in source.manifests))


def _kind(conversation: Conversation) -> SampleModality:
    """As Sample.modality has it: a video counts before images."""
    if any(part.modality == "video" for part in conversation.media):
        return "video"
    return ("text", "image", "multi_image")[min(len(conversation.media), 2)]


def _chunks(places: Iterator[Any]) -> Iterator[list[Any]]:
    chunk = []
    for place in places:
        chunk.append(place)
        if len(chunk) == _ROWS_AT_A_TIME:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _no_progress(what: str, done: int, total: int, num_errors: int) -> None:
    """Show no progress."""
