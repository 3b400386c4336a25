"""Columns as blocks: content-addressed, so that a digest is address and checksum at once."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sampler_service.log.errors import SnapshotCorruptError, SnapshotFormatError

BLOCK_BYTES = 64 * 1024
"""Bytes of a column in one block, before compression; the last block of a column is shorter."""

_RAW, _ZLIB = b"\x00", b"\x01"
_PROBE_BYTES = 4096
_WORTH_IT = 0.8

Column = npt.NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class ColumnLayout:
    """A column's dtype, shape and raw bytes, ready to be cut."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    raw: memoryview

    def blocks(self) -> Iterator[memoryview]:
        """The raw blocks, in order."""
        for start in range(0, len(self.raw), BLOCK_BYTES):
            yield self.raw[start : start + BLOCK_BYTES]


def lay_out(columns: Mapping[str, Column]) -> list[ColumnLayout]:
    """Columns in the order of their names; nothing is copied that is contiguous and little-endian already.

    `ValueError` for dtypes that are not plain numbers, booleans or fixed-width text and bytes.
    """
    layouts = []
    for name in sorted(columns):
        column = np.asarray(columns[name])
        if not _is_plain(column.dtype):
            raise ValueError(f"column {name!r} has dtype {column.dtype}, which snapshots cannot hold")
        shape = column.shape
        little = np.ascontiguousarray(column.astype(column.dtype.newbyteorder("<"), copy=False))
        # Text and booleans have no buffer of bytes themselves; their bytes do.
        raw = little.reshape(-1).view(np.uint8).data if little.size else memoryview(b"")
        layouts.append(ColumnLayout(name, little.dtype.str, shape, raw))
    return layouts


def digest(raw: bytes | memoryview) -> bytes:
    """Address of a block: BLAKE2b, 128 bits."""
    return hashlib.blake2b(raw, digest_size=16).digest()


def encode(raw: memoryview) -> bytes:
    """One codec byte and the block; compressed where that saves more than a fifth."""
    # Most columns compress well or not at all: a probe spares the work on the second kind.
    probe = raw[:_PROBE_BYTES]
    if len(zlib.compress(probe, 1)) < _WORTH_IT * len(probe):
        packed = zlib.compress(raw, 1)
        if len(packed) < _WORTH_IT * len(raw):
            return _ZLIB + packed
    return b"".join((_RAW, raw))


def decode(stored: bytes, address: bytes, into: memoryview, column: str, block: int) -> None:
    """Check a stored block against its address and write it to its place."""
    codec, body = stored[:1], memoryview(stored)[1:]
    if codec == _ZLIB:
        try:
            body = memoryview(zlib.decompress(body, bufsize=len(into) or 1))
        except zlib.error as error:
            raise _corrupt(column, block, f"does not decompress ({error})") from error
    elif codec != _RAW:
        raise SnapshotFormatError(
            f"block {block} of column {column!r} has codec {codec.hex() or 'none'}, unknown to this release"
        )
    if len(body) != len(into):
        raise _corrupt(column, block, f"has {len(body)} bytes instead of {len(into)}")
    if digest(body) != address:
        raise _corrupt(column, block, "does not match its digest")
    into[:] = body


def allocate(name: str, dtype: str, shape: Sequence[int]) -> Column:
    """An empty array for a stored column; `SnapshotFormatError` if its dtype or shape make no sense."""
    try:
        parsed = np.dtype(dtype)
        if not _is_plain(parsed) or any(length < 0 for length in shape):
            raise ValueError(f"dtype {dtype!r}, shape {tuple(shape)}")
        return np.empty(tuple(shape), parsed)
    except (TypeError, ValueError) as error:
        raise SnapshotFormatError(f"column {name!r} cannot be read: {error}") from error


def block_places(column: Column) -> list[memoryview]:
    """Where the blocks of a freshly allocated column go."""
    if not column.size:
        return []
    raw = column.reshape(-1).view(np.uint8).data
    return [raw[start : start + BLOCK_BYTES] for start in range(0, len(raw), BLOCK_BYTES)]


def _is_plain(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind in "biufcSU" and dtype.itemsize > 0


def _corrupt(column: str, block: int, what: str) -> SnapshotCorruptError:
    return SnapshotCorruptError(f"block {block} of column {column!r} {what}", column, block)
