"""Hash index from prompt ids to table rows, in one flat integer array."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_EMPTY = -1
# Above this load linear probing gets long; below a quarter of it the table is mostly air.
_MAX_LOAD = 0.7


class IdIndex:
    """Open addressing with linear probing; about 6 to 12 bytes per id, no object per id.

    The hash is Python's own (keyed per process), so the index is never stored: it is rebuilt
    from the ids when first needed, O(N).

    Args:
        id_at: gives the id of a row, to tell equal hashes apart.
    """

    def __init__(self, id_at: Callable[[int], bytes]) -> None:
        self._id_at = id_at
        self._slots = np.full(16, _EMPTY, dtype=np.int32)
        self._count = 0

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._slots.nbytes

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

    def insert(
        self, ids: Sequence[bytes], rows: NDArray[np.int32], all_ids: Callable[[], list[bytes]]
    ) -> None:
        """Adds ids that are not in the index yet.

        Args:
            ids: new and distinct.
            rows: their rows.
            all_ids: every id by row, the new ones included; asked for only when the index must grow.
        """
        needed = self._count + len(ids)
        if needed > _MAX_LOAD * len(self._slots):
            capacity = 1 << int(np.ceil(np.log2(needed / _MAX_LOAD)))
            everything = all_ids()
            self._slots = np.full(capacity, _EMPTY, dtype=np.int32)
            self._place(self._hashes(everything), np.arange(len(everything), dtype=np.int32))
        else:
            self._place(self._hashes(ids), rows)
        self._count = needed

    def _place(self, hashes: NDArray[np.int64], rows: NDArray[np.int32]) -> None:
        """Puts distinct ids into the first free place after their hash, all at once in rounds."""
        slots, mask = self._slots, len(self._slots) - 1
        positions = hashes & mask
        while len(rows):
            free = slots[positions] == _EMPTY
            # Of several that want one place, the last written stays; the others go on.
            slots[positions[free]] = rows[free]
            lost = slots[positions] != rows
            positions = (positions[lost] + 1) & mask
            rows = rows[lost]
