"""Rows of Parquet and Arrow files, their media left where they are: a cell with bytes becomes an address.

Arrow files as `Dataset.save_to_disk` writes them are mapped: a row or a picture is read at its place, and memory holds
neither. Parquet cannot be read at a place (a picture would cost its page, often a whole row group), so its content is copied
once into an Arrow file in the cache folder, in batches of about 16 MiB; meanwhile memory holds twice a page.
"""

from __future__ import annotations

import shutil
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lightning_apollo.data.conversation import RowError
from lightning_apollo.data.storage import address as storage
from lightning_apollo.structures import MediaError

SUFFIXES = (".parquet", ".arrow")

_BATCH_BYTES = 16 * 2**20
_BUFFER_BYTES = 2**20
_MAX_BATCH_ROWS = 4096


def num_rows(address: str) -> int:
    """Rows of the table; RowError where the file is none."""
    return _open(address).num_rows


def read_table_row(address: str, row: int) -> dict[str, object]:
    """A row as JSON would give it; `row` counts from 0. Bytes, and the media of `datasets`, become addresses.

    Media that `datasets` keeps outside the table ({"bytes": null, "path": P}) become the path.
    """
    batch, place = _open(address).find(row)
    return {
        name: _value(column[place], address, row + 1, (name,))
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def open_cell(address: str, table: str, row: int, steps: Sequence[str]) -> bytes:
    """The bytes at `steps` of a row; `address` is what messages call them."""
    try:
        batch, place = _open(table).find(row)
        value: Any = batch.column(steps[0])[place]
        for step in steps[1:]:
            value = value[step if pa.types.is_struct(value.type) else int(step)]
        content = (value["bytes"] if pa.types.is_struct(value.type) else value).as_py()
    except (RowError, LookupError, TypeError, ValueError) as error:
        raise MediaError(address, f"its table has no such cell any more, or cannot be read: {error}") from error
    if not isinstance(content, bytes):
        raise MediaError(address, "its table has no such media any more: the file changed")
    return content


class _Table:
    """Batches of rows, mapped."""

    def __init__(self, batches: Sequence[pa.RecordBatch]) -> None:
        self._batches = batches
        self._starts = [0, *accumulate(batch.num_rows for batch in batches)]  # the first row of each, and the end

    @property
    def num_rows(self) -> int:
        return self._starts[-1]

    def find(self, row: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds the row, and the row's place in it."""
        number = bisect_right(self._starts, row) - 1
        return self._batches[number], row - self._starts[number]


def _open(address: str) -> _Table:
    return _open_state(address, storage.file_state(address))


@lru_cache(maxsize=64)  # a mapped table takes a few kilobytes, and a process may read rows of many files in turn
def _open_state(address: str, state: tuple[int, int]) -> _Table:
    if PurePosixPath(storage.name_of(address)).suffix == ".parquet":
        path = str(storage.derived_file(address, "arrow", partial(_copy_parquet, address)))
    elif storage.is_file(address):
        path = address
    else:  # a member of a shard cannot be mapped
        path = str(storage.derived_file(address, "arrow", partial(_copy_bytes, address)))
    with _errors(address), pa.memory_map(path) as source:
        return _Table(_arrow_batches(source))


def _arrow_batches(source: pa.NativeFile) -> list[pa.RecordBatch]:
    """The batches of an Arrow file, or of a stream as `datasets` writes it."""
    if source.read(6) == b"ARROW1":
        reader = pa.ipc.open_file(source)
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]
    source.seek(0)
    return list(pa.ipc.open_stream(source))


def _copy_parquet(address: str, target: Path) -> None:
    with storage.open_address(address) as source:
        with _errors(address):
            table = pq.ParquetFile(source, buffer_size=_BUFFER_BYTES)
            size = sum(table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups))
        row_bytes = max(1, size // max(1, table.metadata.num_rows))
        num_rows = max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // row_bytes))
        _write(address, target, table.schema_arrow, table.iter_batches(num_rows))
    pa.default_memory_pool().release_unused()


def _copy_bytes(address: str, target: Path) -> None:
    with storage.open_address(address) as source, target.open("wb") as copy:
        shutil.copyfileobj(source, copy, _BATCH_BYTES)


def _write(address: str, target: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
    with pa.OSFile(str(target), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        while True:
            with _errors(address):
                batch = next(batches, None)
            if batch is None:
                return
            writer.write_batch(batch)


@contextmanager
def _errors(address: str) -> Iterator[None]:
    """RowError for what pyarrow raises where a file is cut short, or of another kind than its name."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        suffix = PurePosixPath(storage.name_of(address)).suffix
        raise RowError(f"not a whole {suffix} file ({reason}): write it anew") from error


def _value(scalar: Any, address: str, number: int, steps: tuple[str, ...]) -> object:
    """A cell without its bytes. pyarrow's scalars point into the mapped file: nothing is copied before `as_py`."""
    if not scalar.is_valid or not _holds_bytes(scalar.type):
        return scalar.as_py()
    if pa.types.is_struct(scalar.type):
        if "bytes" in scalar.type.names:
            has_bytes = scalar["bytes"].is_valid
            return storage.embedded_address(address, number, steps) if has_bytes else scalar.as_py().get("path")
        return {name: _value(scalar[name], address, number, (*steps, name)) for name in scalar.type.names}
    if _is_list(scalar.type):
        return [_value(item, address, number, (*steps, str(place))) for place, item in enumerate(scalar)]
    return storage.embedded_address(address, number, steps)


@lru_cache(maxsize=1024)
def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(_holds_bytes(kind.field(place).type) for place in range(kind.num_fields))
    if _is_list(kind):
        return _holds_bytes(kind.value_type)
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
