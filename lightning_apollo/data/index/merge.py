"""One index from the journals of its shards, byte for byte that of one process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa

from lightning_apollo.data.index.current import index_of
from lightning_apollo.data.index.journal import lines, record_of
from lightning_apollo.data.index.media_columns import MediaColumns, facts_of_journal, facts_of_table
from lightning_apollo.data.index.rows import ROWS_AT_A_TIME, RowFacts, SampleRows, blocks_of_rows
from lightning_apollo.data.index.shards import (
    BLOCK,
    BLOCK_ROWS,
    Shard,
    ShardError,
    found_shards,
    hold_all,
    read_header,
    remove_shards,
    shard_settings,
)
from lightning_apollo.data.index.tables import Index, settle_files
from lightning_apollo.data.index.write import manifest_digests, write_index
from lightning_apollo.data.source import Source
from lightning_apollo.data.storage.address import title_of
from lightning_apollo.files import lock
from lightning_apollo.progress import CheckProgress, no_check_progress


def merge_shards(
    sources: Sequence[Source], folder: Path, text_identity: str = "", progress: CheckProgress | None = None
) -> Index:
    """The index of all rows of the sources, written to `folder` from the shards that lie there, which are removed.

    `text_identity` is that of the TextCounter, empty without one. ShardError where a shard is missing, unfinished or
    stale. A kill leaves the old index or the new one; then this is called again.
    """
    if not folder.is_dir():
        raise ShardError(f"{folder}: no shards here: make them with `lightning-apollo data index --shard i/n`")
    with hold_all(folder), lock(folder / "lock"):
        settle_files(folder)
        digests = manifest_digests(sources)
        settings = shard_settings(sources, digests, text_identity)
        if index_of(folder, digests, text_identity) is None:
            journals = _fresh_journals(folder, settings)
            _merge(sources, folder, digests, text_identity, journals, progress or no_check_progress)
        headers = map(read_header, found_shards(folder).values())
        if all(header is not None and header.difference(settings) is None for header in headers):
            remove_shards(folder)  # of a merge that was killed too; others wait for theirs
    return Index(folder)


def _merge(
    sources: Sequence[Source],
    folder: Path,
    digests: Mapping[str, str],
    text_identity: str,
    journals: Mapping[Shard, Path],
    report: CheckProgress,
) -> None:
    samples, keys = _samples(sources, journals, report)
    columns = MediaColumns(keys)
    del keys
    columns.update(chain(facts_of_table(folder), *map(facts_of_journal, journals.values())))
    unknown = np.flatnonzero(~columns.is_known).tolist()
    _require_finished({shard for shard in journals for number in unknown if shard.has_media(columns.key(number))})
    changed = columns.changed(lambda done: report("files", done, len(columns), int(columns.is_broken[:done].sum())))
    if changed:
        raise ShardError(_what_changed(changed, samples, columns, journals))
    write_index(folder, sources, digests, text_identity, samples, columns)


def _fresh_journals(folder: Path, now: Mapping[str, str]) -> dict[Shard, Path]:
    """The journals of all shards in their order; ShardError where one is missing or was made from something else."""
    found = found_shards(folder)
    if not found:
        raise ShardError(f"{folder}: no shards here: make them with `lightning-apollo data index --shard i/n`")
    counts = sorted({shard.count for shard in found})
    if len(counts) > 1:
        several = " and of ".join(map(str, counts))
        raise ShardError(f"{folder / 'shards'}: journals of {several} shards: remove those that are not to be merged")
    shards = [Shard(number, counts[0]) for number in range(counts[0])]
    missing = [shard for shard in shards if shard not in found]
    if missing:
        raise ShardError(f"{folder}: {_named(missing)} missing: {_run(missing)}")
    headers = {shard: read_header(found[shard]) for shard in shards}
    for shard, header in headers.items():
        if header is None:
            raise ShardError(f"{found[shard]}: no journal of a shard: remove it, and {_run([shard])}")
        difference = header.difference(now)
        if difference is not None:
            raise ShardError(f"{folder}: shard {shard} was made {difference}: {_run([shard])} with what is merged now")
        first = headers[shards[0]]
        if first is not None and header.deadline != first.deadline:
            limits = f"--deadline {header.deadline}, shard {shards[0]} with {first.deadline}"
            raise ShardError(f"{folder}: shard {shard} was made with {limits}: {_run([shard])} with the same")
    return {shard: found[shard] for shard in shards}


def _samples(
    sources: Sequence[Source], journals: Mapping[Shard, Path], report: CheckProgress
) -> tuple[pa.Table, pa.StringArray]:
    """The samples table and the keys of its media, as `SampleRows` gives them, from blocks of rows in the journals."""
    places = {
        int(line[len(BLOCK) : line.index(b",")]): (path, begin)
        for path in journals.values()
        for begin, line in lines(path, BLOCK)
    }
    rows, total = SampleRows(sources), sum(map(len, sources))
    unfinished = set[Shard]()
    for number, block in enumerate(blocks_of_rows(sources, ROWS_AT_A_TIME)):
        first = number * (ROWS_AT_A_TIME // BLOCK_ROWS)
        numbers = range(first, first - (-len(block) // BLOCK_ROWS))
        read = {one: _block(*places[one]) if one in places else None for one in numbers}
        unfinished |= {shard for shard in journals for one in numbers if read[one] is None and shard.has_block(one)}
        if not unfinished:
            rows.add(block, [row for found in read.values() for row in found or ()])
            report("rows", rows.num_rows, total, rows.num_errors)
    _require_finished(unfinished)
    return rows.finish()


def _block(path: Path, begin: int) -> list[RowFacts] | None:
    """The rows of a block whose line begins at this byte; None where it is damaged."""
    with path.open("rb") as file:
        file.seek(begin)
        record = record_of(file.readline())
    return None if record is None else [RowFacts.of_json(fields) for fields in record["rows"]]


def _require_finished(unfinished: Iterable[Shard]) -> None:
    shards = sorted(unfinished, key=lambda shard: shard.number)
    if shards:
        raise ShardError(f"{_named(shards)} not finished: {_run(shards)}")


def _what_changed(
    changed: Sequence[int], samples: pa.Table, columns: MediaColumns, journals: Mapping[Shard, Path]
) -> str:
    """The message about files whose size or time of change is another than when they were probed."""
    keys = {number: columns.key(number) for number in changed}
    shards = [shard for shard in journals if any(map(shard.has_media, keys.values()))]
    uses = samples.column("media").combine_chunks()
    first = int(np.argmax(uses.values.field("media").to_numpy() == changed[0]))
    row = int(np.searchsorted(uses.offsets.to_numpy(), first, side="right")) - 1
    source, sample_id = (samples.column(name)[row].as_py() for name in ("source", "sample_id"))
    others = f" and {len(changed) - 1:,} others have" if len(changed) > 1 else " has"
    name = f"{title_of(keys[changed[0]].path)} (source {source}, {sample_id})"
    return f"{name}{others} changed since being probed: {_run(shards)}"


def _named(shards: Sequence[Shard]) -> str:
    """The shards and their verb."""
    *rest, last = map(str, shards)
    return f"shards {', '.join(rest)} and {last} are" if rest else f"shard {last} is"


def _run(shards: Sequence[Shard]) -> str:
    which = " and ".join(map(str, shards)) if len(shards) < 3 else f"{shards[0]} and the others"
    return f"run `lightning-apollo data index` with --shard {which}"
