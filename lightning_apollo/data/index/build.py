"""Build the metadata index: read every row, probe every media file once. Resumable after a kill.

INDEX/probes.jsonl holds the facts of the files probed so far, one line each, until the tables are written. A later
call probes the files that neither it nor the tables know, or whose size or time of change is another now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from lightning_apollo.data.index.current import has_same_media, index_of
from lightning_apollo.data.index.journal import media_record, open_journal, write_record
from lightning_apollo.data.index.media_columns import MediaColumns, facts_of_journal, facts_of_table
from lightning_apollo.data.index.rows import ROWS_AT_A_TIME, SampleRows, blocks_of_rows, read_row_facts
from lightning_apollo.data.index.tables import Index, settle_files
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.index.write import manifest_digests, write_index
from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.probe_pool import Probe, probe_all
from lightning_apollo.data.source import Source
from lightning_apollo.files import lock
from lightning_apollo.progress import CheckProgress, no_check_progress

JOURNAL = "probes.jsonl"


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
    report = progress or no_check_progress
    text_identity = "" if text is None else text.identity
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / "lock"):
        settle_files(folder)
        digests = manifest_digests(sources)
        made = index_of(folder, digests, text_identity)
        if made is not None:
            return made
        rows, total = SampleRows(sources), sum(map(len, sources))
        for block in blocks_of_rows(sources, ROWS_AT_A_TIME):
            rows.add(block, [read_row_facts(place, text) for place in block])
            report("rows", rows.num_rows, total, rows.num_errors)
        samples, keys = rows.finish()
        columns = MediaColumns(keys)
        columns.update(chain(facts_of_table(folder), facts_of_journal(folder / JOURNAL)))
        probe_missing(columns, folder / JOURNAL, jobs, deadline, probe, report)
        write_index(folder, sources, digests, text_identity, samples, columns)
        (folder / JOURNAL).unlink(missing_ok=True)
    return Index(folder)


def is_current(index: Index, sources: Sequence[Source], text: TextCounter | None) -> bool:
    """True if the index holds these sources with their manifests as they are, its media are the files that were probed, and
    text was counted in this way. No file is opened but the manifests.
    """
    is_counted = text is None or index.text_identity == text.identity
    return manifest_digests(sources).items() <= index.manifest_digests.items() and is_counted and has_same_media(index)


def fingerprint_of_manifests(sources: Sequence[Source]) -> str:
    """A hash of the content of all manifests, whatever they are called; media are not looked at."""
    contents = [[source.name, *(manifest.content_digest() for manifest in source.manifests)] for source in sources]
    return hashlib.sha256(json.dumps(contents).encode()).hexdigest()


def probe_missing(
    columns: MediaColumns, journal_path: Path, jobs: int, deadline: float, probe: Probe, progress: CheckProgress
) -> None:
    """Find out what is not known of the files, or not as they are now; facts that come in are written down at once."""
    columns.forget(columns.changed(lambda done: None))
    numbers = {columns.key(number): number for number in np.flatnonzero(~columns.is_known).tolist()}
    done, num_errors = len(columns) - len(numbers), int(columns.is_broken.sum())
    progress("files", done, len(columns), num_errors)
    with open_journal(journal_path) as journal:
        for key, found in probe_all(list(numbers), jobs, deadline, probe):
            columns.set(numbers[key], found)
            write_record(journal, media_record(key, found))
            done, num_errors = done + 1, num_errors + (found.info is None)
            progress("files", done, len(columns), num_errors)
