"""Tables, pages of prompts and visits as Parquet. Importing this needs pyarrow: `require_parquet` asks for it."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
from google.protobuf.descriptor import FieldDescriptor

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard import tables
from sampler_service.dashboard.reader import CurriculumReader

__all__ = ["ROW_GROUP", "prompts_parquet", "visits_parquet", "write_parquet"]

ROW_GROUP = 10_000
"""Prompts of one row group, and of one page: what is in memory at a time."""

_PROMPT_TYPES = {
    "prompt_id": pa.string(),
    "cluster": pa.string(),
    "visits": pa.int64(),
    "rollouts": pa.int64(),
    "last_policy_version": pa.int64(),
    "in_flight": pa.bool_(),
    "alpha": pa.float64(),
    "beta": pa.float64(),
}
_PROMPTS = pa.schema([(name, _PROMPT_TYPES.get(name, pa.float32())) for name in tables.PROMPT_COLUMNS])

_TYPES = {
    FieldDescriptor.CPPTYPE_STRING: pa.string(),
    FieldDescriptor.CPPTYPE_FLOAT: pa.float32(),
    FieldDescriptor.CPPTYPE_DOUBLE: pa.float64(),
    FieldDescriptor.CPPTYPE_INT32: pa.int32(),
    FieldDescriptor.CPPTYPE_INT64: pa.int64(),
}


def visits_parquet(history: pb.GetPromptHistoryResponse) -> bytes:
    """A file of one prompt's visits, with the types of the API whatever is in it."""
    fields = history.DESCRIPTOR.fields_by_name
    types = {name: _TYPES[fields[column].cpp_type] for name, column in tables.VISIT_COLUMNS.items()}
    names, *rows = tables.visits(history)
    schema = pa.schema([(str(name), types.get(str(name), pa.string())) for name in names])
    columns = [list(values) for values in zip(*rows, strict=True)] or [[]] * len(schema)
    return _written(pa.table(columns, schema=schema))


def write_parquet(rows: Iterable[Sequence[object]]) -> bytes:
    """A file of rows, the first of which names the columns. Words in a column of numbers are null."""
    names, *body = rows
    columns = [_column(list(values)) for values in zip(*body, strict=True)] or [pa.nulls(0)] * len(names)
    return _written(pa.table(dict(zip(map(str, names), columns, strict=True))))


def _written(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _column(values: list[object]) -> pa.Array:
    if any(isinstance(value, int | float) for value in values):
        return pa.array([value if isinstance(value, int | float) else None for value in values])
    return pa.array([str(value) for value in values], pa.string())


async def prompts_parquet(
    reader: CurriculumReader, request: pb.ListPromptStatesRequest, first: pb.ListPromptStatesResponse
) -> AsyncIterator[bytes]:
    """All pages from `first` on, a row group each: memory does not grow with the number of prompts."""
    sink = _Drain()
    writer = pq.ParquetWriter(sink, _PROMPTS)
    page = first
    while True:
        await asyncio.to_thread(writer.write_table, _table(page))
        yield sink.take()
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
        page = await reader.prompt_states(request)
    writer.close()
    yield sink.take()


def _table(page: pb.ListPromptStatesResponse) -> pa.Table:
    columns = [list(getattr(page, column)) for column in tables.PROMPT_COLUMNS.values()]
    return pa.table(columns, schema=_PROMPTS)


class _Drain(io.RawIOBase):
    """A file that is written to on one side and taken away on the other; it only goes forward."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: object) -> int:
        piece = bytes(memoryview(data))  # type: ignore[arg-type]
        self._pieces.append(piece)
        self._written += len(piece)
        return len(piece)

    def take(self) -> bytes:
        """What was written since the last time."""
        data = b"".join(self._pieces)
        self._pieces = []
        return data
