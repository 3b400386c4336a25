"""Embeddings of prompts: written once, large, and in memory only where a method asks for them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1.log_pb2 import SnapshotColumn

__all__ = ["EmbeddingColumn", "is_away_candidate"]

Vectors = NDArray[np.float16]

_BLOCK_BYTES: Final = 4 * 2**20
# Pieces in which snapshots digest a column.
_PIECE_BYTES: Final = 64 * 1024
_GROWTH: Final = 1.25
_PREFIX: Final = "embeddings."


def _block_rows(dim: int) -> int:
    """Rows of one block, which is one column of a snapshot."""
    return max(1, _BLOCK_BYTES // (2 * dim))


def is_away_candidate(column: SnapshotColumn) -> bool:
    """Whether a column of a snapshot is a full block of embeddings, which need not be loaded."""
    return (
        column.name.startswith(f"table.{_PREFIX}")
        and len(column.shape) == 2
        and column.shape[0] == _block_rows(column.shape[1])
    )


class EmbeddingColumn:
    """float16 vectors by row; a prompt without one has a zero vector.

    The first rows may be *away*: a snapshot holds them, and only their names are here. Rows are given once
    and never change, so what was exported needs no copy, and a full block in a snapshot stays true.
    """

    def __init__(self, dim: int, size: int) -> None:
        self.dim = dim
        self.block_rows = _block_rows(dim)
        self.away: list[SnapshotColumn] = []
        """Full blocks that are not in memory, in order of their rows, from row 0."""
        self._size = size
        self._held: Vectors = np.zeros((size, dim), dtype=np.float16)
        """From row `away_rows` on, with room to grow."""

    @property
    def away_rows(self) -> int:
        """How many of the first rows are not in memory."""
        return len(self.away) * self.block_rows

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return (self._size - self.away_rows) * self.dim * self._held.itemsize

    def __getitem__(self, rows: NDArray[Any] | slice) -> Vectors:
        """Vectors of `rows`.

        Raises:
            LookupError: some are away; the strategy in force has said that it does not use them.
        """
        if self.away:
            raise LookupError(
                "the embeddings are not in memory: a method that reads them sets `uses_embeddings`"
            )
        return self._held[: self._size][rows] if isinstance(rows, slice) else self._held[rows]

    def held(self, start: int, stop: int) -> Vectors:
        """Vectors of the rows from `start` to `stop`, all in memory."""
        return self._held[start - self.away_rows : stop - self.away_rows]

    # -- writing -------------------------------------------------------------

    def fit(self, size: int) -> None:
        """Makes room for `size` rows. Amortised O(1) per row."""
        needed = size - self.away_rows
        if needed > len(self._held):
            grown = np.zeros((max(needed, int(len(self._held) * _GROWTH)), self.dim), dtype=np.float16)
            used = self._size - self.away_rows
            grown[:used] = self._held[:used]  # What lies behind is not touched, and takes no memory.
            self._held = grown
        self._size = max(size, self._size)

    def put(self, rows: NDArray[Any], vectors: Vectors) -> None:
        """Keeps the vectors of rows that have none yet."""
        self._held[rows - self.away_rows] = vectors

    # -- coming and going ------------------------------------------------------

    def release(self, columns: Iterable[SnapshotColumn]) -> None:
        """Lets go of the full blocks that these columns of a snapshot hold."""
        kept = {column.name: column for column in columns}
        going: list[SnapshotColumn] = []
        while (
            column := kept.get(f"table.{_PREFIX}{len(self.away) + len(going):06d}")
        ) is not None and is_away_candidate(column):
            going.append(column)
        if going:
            stays = self._size - self.away_rows
            self._held = self._held[len(going) * self.block_rows : stays].copy()
            self.away += going

    def bring(self, blocks: Sequence[NDArray[Any]]) -> None:
        """Takes all that was away back into memory, in the order of `away`."""
        self._held = np.concatenate([*blocks, self._held[: self._size - self.away_rows]])
        self.away = []

    # -- snapshots -------------------------------------------------------------

    def export(self) -> dict[str, Vectors]:
        """The rows in memory, by block; views, since they never change."""
        exported = {}
        for start in range(self.away_rows, self._size, self.block_rows):
            here = start - self.away_rows
            block = self._held[here : here + min(self.block_rows, self._size - start)]
            exported[f"{_PREFIX}{start // self.block_rows:06d}"] = block
        return exported

    @classmethod
    def restore(
        cls, arrays: Mapping[str, NDArray[Any]], away: Sequence[SnapshotColumn], size: int
    ) -> EmbeddingColumn | None:
        """The inverse of `export`; `away` are the columns that were not loaded. None: no embeddings."""
        away = sorted(
            (column for column in away if is_away_candidate(column)), key=lambda column: column.name
        )
        blocks = [arrays[name] for name in sorted(arrays) if name.startswith(_PREFIX)]
        if "embeddings" in arrays:  # Before they came in blocks.
            blocks = [arrays["embeddings"]]
        if not blocks and not away:
            return None
        column = cls(away[0].shape[1] if away else blocks[0].shape[1], 0)
        column.away = list(away)
        held = blocks[0] if len(blocks) == 1 else np.concatenate([column._held, *blocks])
        column._held = held if held.dtype == np.float16 else held.astype(np.float16)
        column._size = size
        column.fit(size)
        return column

    def digest(self) -> bytes:
        """Equal exactly when the vectors are, wherever they are."""
        digest = hashlib.blake2b(f"{self._size} {self.dim}".encode(), digest_size=16)
        for column in self.away:
            digest.update(b"".join(column.blocks))
        for block in self.export().values():
            raw = block.astype("<f2", copy=False).tobytes()
            for start in range(0, len(raw), _PIECE_BYTES):
                digest.update(hashlib.blake2b(raw[start : start + _PIECE_BYTES], digest_size=16).digest())
        return digest.digest()
