"""Work of one shard on its share of rows and media. Resumable after a kill."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import pyarrow as pa

from lightning_apollo.data.index.build import probe_missing
from lightning_apollo.data.index.journal import media_of_record, open_journal, records, write_record
from lightning_apollo.data.index.media_columns import MediaColumns, facts_of_journal, facts_of_table
from lightning_apollo.data.index.rows import blocks_of_rows, key_text, read_row_facts
from lightning_apollo.data.index.shards import BLOCK, BLOCK_ROWS, Header, Shard, read_header, shard_settings
from lightning_apollo.data.index.tables import FORMAT_VERSION
from lightning_apollo.data.index.token_counts import TextCounter
from lightning_apollo.data.index.write import manifest_digests
from lightning_apollo.data.media import video as media
from lightning_apollo.data.media.probe_pool import Probe
from lightning_apollo.data.source import Source
from lightning_apollo.files import write_atomically
from lightning_apollo.progress import CheckProgress, no_check_progress


@dataclass(frozen=True)
class ShardSummary:
    """Contents of a finished shard."""

    num_rows: int  # that it has written down
    num_files: int
    num_broken: int  # of these files


def index_shard(
    sources: Sequence[Source],
    folder: Path,
    shard: Shard,
    jobs: int = 1,
    deadline: float = 30.0,
    text: TextCounter | None = None,
    probe: Probe = media.probe,
    progress: CheckProgress | None = None,
) -> ShardSummary:
    """Finish the journal of a shard of the index in `folder`; arguments as of `build_index`.

    What the journal or the index knows already is kept where it still holds. ShardError where another process works
    on the shard.
    """
    report = progress or no_check_progress
    with shard.hold(folder):
        settings = shard_settings(sources, manifest_digests(sources), "" if text is None else text.identity)
        journal = shard.journal(folder)
        _begin(journal, Header(settings, deadline if jobs else None))
        num_rows, keys = _write_rows(sources, shard, journal, text, report)
        columns = MediaColumns(pa.array(keys, pa.string()))
        columns.update(chain(facts_of_table(folder), facts_of_journal(journal)))
        probe_missing(columns, journal, jobs, deadline, probe, report)
        return ShardSummary(num_rows, len(columns), int(columns.is_broken.sum()))


def _begin(path: Path, header: Header) -> None:
    """A journal with this header. Of one with another, facts of files stay, but of broken ones under another deadline."""
    before = read_header(path)
    if before == header:
        return
    is_kept = before is not None and before.settings["index format"] == FORMAT_VERSION
    has_deadline = before is not None and before.deadline == header.deadline
    with write_atomically(path) as partial, partial.open("w") as journal:
        write_record(journal, asdict(header))
        for record in records(path, begins="[") if is_kept else ():
            if has_deadline or media_of_record(record)[1].info is not None:
                write_record(journal, record)


def _write_rows(
    sources: Sequence[Source], shard: Shard, path: Path, text: TextCounter | None, report: CheckProgress
) -> tuple[int, list[str]]:
    """Write down the shard's rows that are not there; how many it has, and the keys of its files."""
    there = {record["block"] for record in records(path, BLOCK)}
    keys: dict[str, None] = {}
    total, done, num_own, num_errors = sum(map(len, sources)), 0, 0, 0
    with open_journal(path) as journal:
        for number, block in enumerate(blocks_of_rows(sources, BLOCK_ROWS)):
            is_own = shard.has_block(number)
            is_missing = is_own and number not in there
            rows = [read_row_facts(place, text if is_missing else None) for place in block]
            if is_missing:
                write_record(journal, {"block": number, "rows": rows})
            uses = (use.key for row in rows for use in row.media)
            keys.update(dict.fromkeys(key_text(key) for key in uses if shard.has_media(key)))
            done, num_own = done + len(rows), num_own + is_own * len(rows)
            num_errors += sum(row.error is not None for row in rows)
            report("rows", done, total, num_errors)
    return num_own, list(keys)
