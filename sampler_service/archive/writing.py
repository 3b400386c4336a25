"""State to file, row group by row group."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sampler_service import __version__
from sampler_service.archive.layout import (
    CHECKSUM_KEY,
    FORMAT_KEY,
    FORMAT_VERSION,
    MANIFEST_KEY,
    ArchiveManifest,
    Section,
    checksum,
    new_digest,
    seal,
)
from sampler_service.curriculum.state import CurriculumState

__all__ = ["archive_chunks"]

_GROUP_BYTES: Final = 8 * 2**20
_CHUNK_BYTES: Final = 2**20
ReadEmbeddings = Callable[[int, int], NDArray[np.float16]]


class _Sink:
    """A file that is carried away piece by piece while it is written."""

    closed = False

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._position = 0

    def write(self, data: Any) -> int:
        self._buffer += data
        self._position += len(data)
        return len(data)

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def take(self) -> Iterator[bytes]:
        """What was written since the last call, in pieces of at most 1 MiB."""
        taken, self._buffer = self._buffer, bytearray()
        for start in range(0, len(taken), _CHUNK_BYTES):
            yield bytes(taken[start : start + _CHUNK_BYTES])


def archive_chunks(state: CurriculumState, embeddings: ReadEmbeddings | None = None) -> Iterator[bytes]:
    """The file, in pieces of at most 1 MiB. Memory beside the state: one row group, about 8 MiB.

    Args:
        state: must not change meanwhile.
        embeddings: gives those of the rows from a start to a stop; None if the state has them in memory.
    """
    if embeddings is None and state.table.embeddings is not None:
        embeddings = state.table.embeddings.held
    table = state.table
    manifest = ArchiveManifest(
        curriculum_id=state.curriculum_id,
        revision=state.revision,
        written_by=__version__,
        policy_version=state.policy_version,
        prompts=table.size,
        strategy={"preset": state.preset, **json.loads(state.strategy_json)},
        cluster_names=state.cluster_names,
        embedding_dim=table.embedding_dim,
    )
    schema = _schema(state)
    digests = {name: new_digest() for name in _kept_columns(state)}
    sink = _Sink()
    writer = pq.ParquetWriter(
        pa.PythonFile(sink, mode="w"),
        schema,
        compression="zstd",
        use_dictionary=["clusters", "last_policy_versions", "last_steps", "visits", "rollouts", "leases"],
        # The halves of a vector that was float16 are mostly zero bytes, once the bytes are sorted by place.
        column_encoding={"embeddings.list.element": "BYTE_STREAM_SPLIT"} if table.embedding_dim else None,
        write_page_checksum=True,
    )
    rows = _group_rows(schema, table.embedding_dim)
    for start in range(0, table.size, rows):
        writer.write_table(
            _row_group(state, schema, digests, embeddings, start, min(start + rows, table.size))
        )
        yield from sink.take()
    manifest.columns = {name: digest.hexdigest() for name, digest in digests.items()}
    for name, array in state.export(table=False).items():
        manifest.sections.append(_write_section(sink, name, array))
        yield from sink.take()
    text = manifest.to_json().encode()
    writer.add_key_value_metadata(
        {FORMAT_KEY: str(FORMAT_VERSION).encode(), MANIFEST_KEY: text, CHECKSUM_KEY: checksum(text)}
    )
    writer.close()
    footer = b"".join(sink.take())
    # Found from the file's end, so it does not mind that the seal moves it.
    yield seal(footer) + footer


def _kept_columns(state: CurriculumState) -> list[str]:
    """Columns that an import reads back, ids first."""
    embeddings = ["embeddings"] if state.table.embedding_dim else []
    return ["prompt_ids", *state.table.column_names, *embeddings]


def _schema(state: CurriculumState) -> pa.Schema:
    table = state.table
    fields = {
        "prompt_ids": pa.string(),
        "pass_rates": pa.float32(),
        "pass_rate_stddevs": pa.float32(),
        "alphas": pa.float64(),
        "betas": pa.float64(),
        "ema_means": pa.float32(),
        "ema_variances": pa.float32(),
        "visits": pa.uint32(),
        "rollouts": pa.uint32(),
        "last_policy_versions": pa.int32(),
        "clusters": pa.string(),
        "in_flight": pa.bool_(),
    }
    for name in table.column_names:
        fields.setdefault(name, pa.from_numpy_dtype(table.column(name).dtype))
    if table.embedding_dim:
        # Not float16, which few readers of Parquet know.
        fields["embeddings"] = pa.list_(pa.float32(), table.embedding_dim)
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields.items()])


def _group_rows(schema: pa.Schema, embedding_dim: int) -> int:
    row_bytes = 8 * len(schema) + 32 + 4 * embedding_dim
    return max(256, min(_GROUP_BYTES // row_bytes, 65_536))


def _row_group(
    state: CurriculumState,
    schema: pa.Schema,
    digests: dict[str, Any],
    embeddings: ReadEmbeddings | None,
    start: int,
    stop: int,
) -> pa.Table:
    table, rows = state.table, slice(start, stop)
    values: dict[str, Any] = {}
    blob, lengths = table.id_bytes(start, stop)
    offsets = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, out=offsets[1:])
    values["prompt_ids"] = pa.StringArray.from_buffers(
        len(lengths), pa.py_buffer(offsets), pa.py_buffer(blob)
    )
    digests["prompt_ids"].update(_little(lengths))
    digests["prompt_ids"].update(blob)
    for name in table.column_names:
        column = np.ascontiguousarray(table.column(name)[rows])
        digests[name].update(_little(column))
        values[name] = column
    labels = pa.array([*state.cluster_names, ""], pa.string())  # −1, the last: none
    indices = np.where(values["clusters"] < 0, len(state.cluster_names), values["clusters"])
    values["clusters"] = labels.take(pa.array(indices, pa.int32()))
    values["in_flight"] = values["leases"] >= 0
    view = state.view(rows)
    for name in ("pass_rates", "pass_rate_stddevs", "alphas", "betas"):
        values[name] = getattr(view, name)
    if table.embedding_dim and embeddings is not None:
        vectors = np.ascontiguousarray(embeddings(start, stop))
        digests["embeddings"].update(_little(vectors))
        flat = pa.array(vectors.astype(np.float32).ravel(), pa.float32())
        values["embeddings"] = pa.FixedSizeListArray.from_arrays(flat, table.embedding_dim)
    columns = [
        value if isinstance(value, pa.Array) else pa.array(value).cast(kind.type)
        for kind in schema
        for value in (values[kind.name],)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _little(array: NDArray[Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _write_section(sink: _Sink, name: str, array: NDArray[Any]) -> Section:
    raw = _little(np.ascontiguousarray(array))
    digest = new_digest()
    digest.update(raw)
    offset = sink.tell()
    packer = zlib.compressobj(1)
    for start in range(0, len(raw), _CHUNK_BYTES):
        sink.write(packer.compress(raw[start : start + _CHUNK_BYTES]))
    sink.write(packer.flush())
    return Section(
        name=name,
        dtype=array.dtype.newbyteorder("<").str,
        shape=list(array.shape),
        offset=offset,
        stored_bytes=sink.tell() - offset,
        digest=digest.hexdigest(),
    )
