"""Prompts that the fold wants rolled out before any other, and why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["DueBook"]


class DueBook:
    """At most one reason per prompt: the source under which a batch will serve it.

    A prompt stays due until a group of it has come back, whatever its rollouts came to; a lease that is
    released or expires without any leaves it due.
    """

    def __init__(self) -> None:
        self._sources = np.zeros(0, dtype=np.uint8)
        self._total = 0

    def __bool__(self) -> bool:
        return self._total > 0

    def count(self, source: int) -> int:
        """Prompts due for this reason, those in flight included. O(N) unless nothing is due."""
        return int(np.count_nonzero(self._sources == source)) if self._total else 0

    def add(self, rows: NDArray[Any], source: int) -> None:
        """Makes distinct `rows` due; a prompt that was due for another reason is now due for this one."""
        if len(rows) == 0:
            return
        size = int(rows.max()) + 1
        if size > len(self._sources):
            self._sources = np.pad(self._sources, (0, size - len(self._sources)))
        self._total += int(np.count_nonzero(self._sources[rows] == 0))
        self._sources[rows] = source

    def remove(self, rows: NDArray[Any]) -> bool:
        """They have been rolled out. Whether any of them was due."""
        rows = rows[rows < len(self._sources)]
        were = int(np.count_nonzero(self._sources[rows]))
        self._sources[rows] = 0
        self._total -= were
        return were > 0

    def remove_source(self, source: int) -> None:
        """Nothing is due for this reason any more."""
        self._sources[self._sources == source] = 0
        self._total = int(np.count_nonzero(self._sources))

    def free_rows(
        self, source: int, leases_N: NDArray[Any], reserved_N: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Rows due for this reason that are neither in flight nor reserved, ascending. O(N)."""
        rows = np.flatnonzero(self._sources == source)
        return rows[(leases_N[rows] < 0) & ~reserved_N[rows]]

    # -- snapshots -----------------------------------------------------------

    def export(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays, by name."""
        used = np.flatnonzero(self._sources)
        # Without what is not due at the end: how long the array once was is nobody's business.
        return {"sources": self._sources[: used[-1] + 1 if len(used) else 0].copy()}

    @classmethod
    def restore(cls, arrays: Mapping[str, NDArray[Any]]) -> DueBook:
        """The inverse of `export`; snapshots from before there was one restore to nothing due."""
        book = cls()
        if "sources" in arrays:
            book._sources = np.array(arrays["sources"], dtype=np.uint8)
            book._total = int(np.count_nonzero(book._sources))
        return book
