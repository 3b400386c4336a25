"""Hash index from prompt ids to table rows, in one flat integer array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_EMPTY = -1
# Above this load linear probing gets long; below a quarter of it the table is mostly air.
_MAX_LOAD = 0.7
# From this load on the ids move into an array twice as large, some with every insertion, so that none of
# them takes long: 4 per new id are enough to be done before the old array is full.
_MOVING_LOAD = 0.5
_MOVED_PER_NEW = 4
# Ids in memory as objects while an index is built of all there are; and for so long no other thread runs.
_BUILT_TOGETHER = 16_384

IdsBetween = Callable[[int, int], list[bytes]]


class IdIndex:
    """Open addressing with linear probing; about 8 to 12 bytes per id (twice that while they move), no object per id.

    The hash is Python's own (keyed per process), so the index is never stored: it is rebuilt
    from the ids when first needed, O(N). Ids are inserted in the order of their rows, from row 0.

    Args:
        id_at: gives the id of a row, to tell equal hashes apart.
        ids_between: gives the ids from one row to another, for moving them.
    """

    def __init__(self, id_at: Callable[[int], bytes], ids_between: IdsBetween) -> None:
        self._id_at = id_at
        self._ids_between = ids_between
        self._slots = np.full(16, _EMPTY, dtype=np.int32)
        self._count = 0
        self._larger: NDArray[np.int32] | None = None
        self._moved = 0

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._slots.nbytes + (0 if self._larger is None else self._larger.nbytes)

    def _hashes(self, ids: Sequence[bytes]) -> NDArray[np.int64]:
        return np.fromiter(map(hash, ids), dtype=np.int64, count=len(ids))

    def find(self, ids: Sequence[bytes]) -> NDArray[np.int32]:
        """Rows of `ids`, -1 where unknown. O(len(ids))."""
        slots, mask, id_at = self._slots, len(self._slots) - 1, self._id_at
        rows = np.full(len(ids), _EMPTY, dtype=np.int32)
        for i, (id_, position) in enumerate(zip(ids, (self._hashes(ids) & mask).tolist(), strict=True)):
            row = int(slots[position])
            while row != _EMPTY and id_at(row) != id_:
                position = (position + 1) & mask
                row = int(slots[position])
            rows[i] = row
        return rows

    def insert(self, ids: Sequence[bytes]) -> None:
        """Adds ids that are not in the index yet, as the next rows. O(len(ids)).

        Args:
            ids: new and distinct; `ids_between` knows them already.
        """
        start, self._count = self._count, self._count + len(ids)
        if self._count > _MAX_LOAD * len(self._slots):
            # More at once than there was room for.
            self.build(self._count)
            return
        _place(self._slots, self._hashes(ids), start)
        if self._larger is None and self._count > _MOVING_LOAD * len(self._slots):
            self._larger, self._moved = np.full(2 * len(self._slots), _EMPTY, dtype=np.int32), 0
        if self._larger is not None:
            stop = min(self._count, self._moved + _MOVED_PER_NEW * len(ids) + 1)
            _place(self._larger, self._hashes(self._ids_between(self._moved, stop)), self._moved)
            self._moved = stop
            if stop == self._count:
                self._slots, self._larger = self._larger, None

    def build(self, count: int) -> None:
        """Makes the index anew, of the rows before `count`. O(count) time; beside itself it takes little memory."""
        capacity = 1 << max(4, int(np.ceil(np.log2(max(count, 1) / _MAX_LOAD))))
        self._slots, self._larger = np.full(capacity, _EMPTY, dtype=np.int32), None
        for start in range(0, count, _BUILT_TOGETHER):
            ids = self._ids_between(start, min(start + _BUILT_TOGETHER, count))
            _place(self._slots, self._hashes(ids), start)
        self._count = count


def _place(slots: NDArray[np.int32], hashes: NDArray[np.int64], first_row: int) -> None:
    """Puts distinct ids into the first free place after their hash, all at once in rounds."""
    mask = len(slots) - 1
    rows = np.arange(first_row, first_row + len(hashes), dtype=np.int32)
    positions = hashes & mask
    while len(rows):
        free = slots[positions] == _EMPTY
        # Of several that want one place, the last written stays; the others go on.
        slots[positions[free]] = rows[free]
        lost = slots[positions] != rows
        positions = (positions[lost] + 1) & mask
        rows = rows[lost]
