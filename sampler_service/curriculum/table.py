"""The prompt table: ids and per-prompt statistics as growable columns (a struct of arrays)."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1.log_pb2 import SnapshotColumn
from sampler_service.curriculum.embeddings import EmbeddingColumn
from sampler_service.curriculum.errors import Exhausted
from sampler_service.curriculum.id_index import IdIndex

__all__ = ["MAX_ID_BYTES", "PromptTable", "column_dtype"]

MAX_ID_BYTES: Final = 1024
_MAX_BLOB_BYTES: Final = 2**32 - 1
# Room that no prompt has used yet has not been touched either, and so takes no memory.
_GROWTH: Final = 2

# Every column, its type, and what a new prompt starts with. A record per prompt instead was tried: hardly faster
# for batches, as the processor fetches many rows at once, and slower for whoever reads one column of all.
_COLUMNS: Final[dict[str, tuple[Any, float]]] = {
    "successes": (np.float32, 0),  # evidence, decayed, without any prior
    "failures": (np.float32, 0),
    "ema_means": (np.float32, np.nan),
    "ema_variances": (np.float32, np.nan),
    "visits": (np.uint32, 0),
    "rollouts": (np.uint32, 0),
    "last_policy_versions": (np.int32, -1),
    "last_steps": (np.uint32, 0),  # policy step of the last visit
    "last_visits": (np.uint32, 0),  # number of the last visit, 0 = never
    "clusters": (np.int32, -1),
    "leases": (np.int32, -1),  # key of the live lease that holds the prompt, -1 = free
}
# Made when first given a value.
_OPTIONAL: Final[dict[str, tuple[Any, float]]] = {
    "reference_pass_rates": (np.float32, np.nan),
    "weak_pass_rates": (np.float32, np.nan),
    "strong_pass_rates": (np.float32, np.nan),
    # Gradient norms of log pi per rollout, split by outcome: counts, sums and sums of squares.
    "norm_counts_right": (np.float32, 0),
    "norm_sums_right": (np.float32, 0),
    "norm_squares_right": (np.float32, 0),
    "norm_counts_wrong": (np.float32, 0),
    "norm_sums_wrong": (np.float32, 0),
    "norm_squares_wrong": (np.float32, 0),
}
# Ids in memory as objects while many are hashed.
_HASHED_TOGETHER: Final = 16_384
_BYTES_PER_PROMPT: Final = sum(np.dtype(dtype).itemsize for dtype, _ in _COLUMNS.values())


def column_dtype(name: str) -> np.dtype[Any]:
    """Type of a column.

    Raises:
        ValueError: there is none of this name.
    """
    spec = _COLUMNS.get(name) or _OPTIONAL.get(name)
    if spec is None:
        raise ValueError(f"column {name!r} is not one that this release knows")
    dtype: np.dtype[Any] = np.dtype(spec[0])
    return dtype


class PromptTable:
    """Prompts by row. Rows are given in log order and never change.

    A column is an array of at least `size` entries: index it with rows, or read all of it with
    `column(name)`. Growing is amortised O(1) per prompt; an id look-up O(1).
    """

    successes: NDArray[np.float32]
    failures: NDArray[np.float32]
    ema_means: NDArray[np.float32]
    ema_variances: NDArray[np.float32]
    visits: NDArray[np.uint32]
    rollouts: NDArray[np.uint32]
    last_policy_versions: NDArray[np.int32]
    last_steps: NDArray[np.uint32]
    last_visits: NDArray[np.uint32]
    clusters: NDArray[np.int32]
    leases: NDArray[np.int32]

    def __init__(self) -> None:
        self.size = 0
        self._capacity = 0
        self._blob = np.zeros(0, dtype=np.uint8)
        self._blob_bytes = 0
        self._offsets = np.zeros(1, dtype=np.uint32)
        self._optional: dict[str, NDArray[Any]] = {}
        self.embeddings: EmbeddingColumn | None = None
        self._index: IdIndex | None = IdIndex(self._id_at, self._ids_between)
        self._hashes = np.zeros(0, dtype=np.uint32), 0
        """With room for more, and how many are there."""
        for name, (dtype, _) in _COLUMNS.items():
            setattr(self, name, np.empty(0, dtype=dtype))

    # -- ids -----------------------------------------------------------------

    def _id_at(self, row: int) -> bytes:
        return self._blob[self._offsets[row] : self._offsets[row + 1]].tobytes()

    def id_bytes(self, start: int, stop: int) -> tuple[bytes, NDArray[np.uint16]]:
        """Ids of the rows from `start` to `stop`, one after the other, and their lengths."""
        offsets = self._offsets[start : stop + 1]
        return self._blob[offsets[0] : offsets[-1]].tobytes(), np.diff(offsets).astype(np.uint16)

    def _ids_between(self, start: int, stop: int) -> list[bytes]:
        offsets = self._offsets[start : stop + 1].tolist()
        blob, first = self._blob[offsets[0] : offsets[-1]].tobytes(), offsets[0]
        return [blob[a - first : b - first] for a, b in pairwise(offsets)]

    def ids(self, rows: NDArray[np.integer[Any]]) -> list[str]:
        """Ids of `rows`, in their order."""
        starts, ends = self._offsets[rows], self._offsets[np.asarray(rows) + 1]
        length = int(ends[0] - starts[0]) if len(starts) else 0
        if len(starts) > 16 and (ends - starts == length).all():
            # Ids of one length, as most pools have: gathered at once, three times as fast.
            places = starts[:, None].astype(np.int64) + np.arange(length)
            together = self._blob[places].tobytes()
            if together.isascii():
                text = together.decode("ascii")
                return [text[i : i + length] for i in range(0, len(text), length)]
        blob = self._blob.data
        return [str(blob[a:b], "utf-8") for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]

    def find(self, ids: Sequence[str]) -> NDArray[np.int32]:
        """Rows of `ids`, -1 where unknown."""
        return self._find_bytes([id_.encode() for id_ in ids])

    def contain(self, rows: NDArray[np.integer[Any]], text: str) -> NDArray[np.bool_]:
        """Which ids of `rows` contain `text`: one search through all ids between the first and the last."""
        found = np.zeros(len(rows), dtype=np.bool_)
        if not len(rows):
            return found
        first, last, needle = int(rows.min()), int(rows.max()) + 1, text.encode()
        offsets = self._offsets[first : last + 1].astype(np.int64)
        blob = self._blob[offsets[0] : offsets[-1]].tobytes()
        ends = (offsets[1:] - offsets[0]).tolist()
        inside = np.zeros(last - first, dtype=np.bool_)
        at = blob.find(needle)
        while at >= 0:
            row = bisect_right(ends, at)
            whole = at + len(needle) <= ends[row]
            if whole:
                inside[row] = True
            # Else it runs over into the next id, and another may begin within it.
            at = blob.find(needle, ends[row] if whole else at + 1)
        found[:] = inside[np.asarray(rows) - first]
        return found

    def id_hashes(self) -> NDArray[np.uint32]:
        """A hash of each id, the same whenever and wherever it is computed. O(prompts not hashed yet)."""
        (hashes, known), size = self._hashes, self.size
        if known < size:
            if len(hashes) < size:
                hashes = _enlarged(hashes, known, max(size, self._capacity))
            self._hash_ids(hashes, known, size)
            # Whoever hashes in a thread at the same time has come to the same.
            self._hashes = hashes, size
        return hashes[: max(known, size)]

    @property
    def unhashed(self) -> int:
        """How many ids the next call of `id_hashes` must hash."""
        return self.size - self._hashes[1]

    def _hash_ids(self, hashes: NDArray[np.uint32], start: int, stop: int) -> None:
        for first in range(start, stop, _HASHED_TOGETHER):
            last = min(first + _HASHED_TOGETHER, stop)
            hashes[first:last] = [zlib.crc32(id_) for id_ in self._ids_between(first, last)]

    def _find_bytes(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        if self._index is None:
            self.adopt_index(self.build_index())
        assert self._index is not None
        return self._index.find(ids)

    @property
    def indexed(self) -> bool:
        """Whether ids are looked up at once; else the first look-up builds the index, O(N)."""
        return self._index is not None

    def build_index(self) -> IdIndex:
        """The index of the ids there are now. Reads only, so it may run in a thread while prompts are added."""
        index = IdIndex(self._id_at, self._ids_between)
        index.build(self.size)
        return index

    def adopt_index(self, index: IdIndex) -> None:
        """Puts an index in force, with what was added since it was built."""
        if self._index is None:
            index.insert(self._ids_between(len(index), self.size))
            self._index = index

    # -- growth --------------------------------------------------------------

    def _grow(self, size: int) -> None:
        """Makes the rows from `self.size` to `size`, but for their ids; amortised O(1) each."""
        start = self.size
        if size > self._capacity:
            # Replaced, never resized: readers in threads keep theirs.
            capacity = self._capacity = max(size, self._capacity * _GROWTH, 64)
            for name in _COLUMNS:
                setattr(self, name, _enlarged(getattr(self, name), start, capacity))
            self._optional = {
                name: _enlarged(array, start, capacity) for name, array in self._optional.items()
            }
            self._offsets = _enlarged(self._offsets, start + 1, capacity + 1)
        for name, (_, fill) in _COLUMNS.items():
            getattr(self, name)[start:size] = fill
        for name, array in self._optional.items():
            array[start:size] = _OPTIONAL[name][1]

    def _append_ids(self, ids: NDArray[np.uint8]) -> None:
        needed = self._blob_bytes + len(ids)
        if needed > len(self._blob):
            room = max(needed, len(self._blob) * _GROWTH, 1024)
            self._blob = _enlarged(self._blob, self._blob_bytes, room)
        self._blob[self._blob_bytes : needed] = ids
        self._blob_bytes = needed

    def add(self, ids: Sequence[bytes]) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """Adds prompts; one that is present, or comes twice, is added once.

        Args:
            ids: UTF-8, 1 to MAX_ID_BYTES bytes each.

        Returns:
            rows of all of them, and which are new.

        Raises:
            Exhausted: the ids of one curriculum would exceed 4 GiB. Nothing has been added.
        """
        rows = self._find_bytes(ids)
        first: dict[bytes, int] = {}
        new: list[bytes] = []
        added = np.zeros(len(ids), dtype=np.bool_)
        for i in np.flatnonzero(rows < 0).tolist():
            row = first.get(ids[i])
            if row is None:
                row = first[ids[i]] = self.size + len(new)
                new.append(ids[i])
                added[i] = True
            rows[i] = row
        if new:
            blob = b"".join(new)
            if self._blob_bytes + len(blob) > _MAX_BLOB_BYTES:
                raise Exhausted(
                    "IDS_TOO_LARGE",
                    "The prompt ids of one curriculum may take 4 GiB together: shorten them, or split it.",
                    "prompt_ids",
                )
            self._grow(self.size + len(new))
            lengths = np.fromiter(map(len, new), dtype=np.uint32, count=len(new))
            self._offsets[self.size + 1 : self.size + 1 + len(new)] = self._blob_bytes + np.cumsum(lengths)
            self._append_ids(np.frombuffer(blob, dtype=np.uint8))
            self.size += len(new)
            if self.embeddings is not None:
                self.embeddings.fit(self.size)
            assert self._index is not None
            self._index.insert(new)
        return rows, added

    # -- columns -------------------------------------------------------------

    def column(self, name: str) -> NDArray[Any]:
        """All rows of a column, a view. An optional column nobody has written reads as its default."""
        if name in _COLUMNS:
            array: NDArray[Any] = getattr(self, name)
        elif name in self._optional:
            array = self._optional[name]
        else:
            dtype, fill = _OPTIONAL[name]
            return np.broadcast_to(np.asarray(fill, dtype=dtype), (self.size,))
        return array[: self.size]

    @property
    def column_names(self) -> list[str]:
        """Every column that has been written, embeddings and ids apart."""
        return [*_COLUMNS, *self._optional]

    def has(self, name: str) -> bool:
        """Whether an optional column has been written."""
        return name in self._optional

    def writable(self, name: str) -> NDArray[Any]:
        """An optional column, made on first use."""
        if name not in self._optional:
            dtype, fill = _OPTIONAL[name]
            self._optional[name] = np.empty(self._capacity, dtype=dtype)
            self._optional[name][: self.size] = fill
        return self._optional[name]

    def set_embeddings(self, rows: NDArray[np.int32], embeddings_BD: NDArray[np.float16]) -> None:
        """Keeps one vector per row; rows without one are zero."""
        if self.embeddings is None:
            self.embeddings = EmbeddingColumn(embeddings_BD.shape[1], self.size)
        self.embeddings.put(rows, embeddings_BD)

    @property
    def embedding_dim(self) -> int:
        """Length of an embedding, 0 while there are none."""
        return 0 if self.embeddings is None else self.embeddings.dim

    @property
    def nbytes(self) -> int:
        """Bytes in use, the index included."""
        per_prompt = _BYTES_PER_PROMPT + self._offsets.itemsize
        per_prompt += sum(array.itemsize for array in self._optional.values())
        index = 0 if self._index is None else self._index.nbytes
        embeddings = 0 if self.embeddings is None else self.embeddings.nbytes
        return int(self.size * per_prompt + self._blob_bytes + self._hashes[0].nbytes + index + embeddings)

    # -- snapshots -----------------------------------------------------------

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything that must be kept, by name: copies of what changes, views of what is written once."""
        arrays: dict[str, NDArray[Any]] = {name: self.column(name).copy() for name in _COLUMNS}
        arrays |= {name: self.column(name).copy() for name in self._optional}
        arrays["ids"] = self._blob[: self._blob_bytes]
        arrays["id_lengths"] = np.diff(self._offsets[: self.size + 1]).astype(np.uint16)
        if self.embeddings is not None:
            arrays |= self.embeddings.export()
        return arrays

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]], away: Sequence[SnapshotColumn] = ()) -> PromptTable:
        """The table whose `export` gave `arrays`, which it takes over. The id index is built when first needed."""
        table = cls()
        table.size = table._capacity = len(arrays["id_lengths"])
        table._blob = _own(arrays["ids"], np.dtype(np.uint8))
        table._blob_bytes = len(table._blob)
        table._offsets = np.zeros(table.size + 1, dtype=np.uint32)
        np.cumsum(arrays["id_lengths"], out=table._offsets[1:], dtype=np.uint32)
        table._index = None
        for name, (dtype, fill) in _COLUMNS.items():
            # A column that an older snapshot did not have starts at its default.
            array = arrays[name] if name in arrays else np.full(table.size, fill, dtype=dtype)
            setattr(table, name, _own(array, np.dtype(dtype)))
        table._optional = {
            name: _own(arrays[name], np.dtype(dtype))
            for name, (dtype, _) in _OPTIONAL.items()
            if name in arrays
        }
        table.embeddings = EmbeddingColumn.restore(arrays, away, table.size)
        return table


def _enlarged(array: NDArray[Any], used: int, capacity: int) -> NDArray[Any]:
    """A copy of the first `used` entries with room for more; what lies behind them is not touched."""
    larger = np.zeros(capacity, dtype=array.dtype)
    larger[:used] = array[:used]
    return larger


def _own(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array itself if it can be written to, else a copy."""
    usable = array.dtype == dtype and array.flags.writeable and array.flags.c_contiguous
    return array if usable else np.array(array, dtype=dtype)
