"""The exploration floor: prompts without evidence first, then those visited longest ago."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.iterations import active
from sampler_service.curriculum.state import CurriculumState

__all__ = ["ExplorationQueue"]

# The cost of filling hardly depends on the length, so one filling serves a thousand batches.
_LEAST_LENGTH: Final = 65_536


class ExplorationQueue:
    """The prompts most in need of a look, best first.

    Filled for many batches at a time, O(N); taking from it is O(taken). An entry whose prompt has been
    visited or leased since is passed over.
    """

    def __init__(self) -> None:
        self._rows: NDArray[Any] = np.zeros(0, dtype=np.int64)
        self._stamps: NDArray[Any] = np.zeros(0, dtype=np.int64)
        self._position = 0

    @property
    def left(self) -> int:
        """Rows that wait in the queue; some may not be usable any more. Filling it anew is O(N)."""
        return len(self._rows) - self._position

    def clear(self) -> None:
        """Forgets the order: prompts were added, or what is known has changed as a whole."""
        self._rows, self._position = self._rows[:0], 0

    def mark(self) -> tuple[NDArray[Any], int]:
        """Where the queue stands, for `rewind`."""
        return self._rows, self._position

    def rewind(self, mark: tuple[NDArray[Any], int]) -> None:
        """Gives back what was taken since `mark`, unless the queue was filled anew."""
        if self._rows is mark[0]:
            self._position = mark[1]

    def take(
        self, state: CurriculumState, count: int, barred: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Up to `count` rows that are neither in flight nor `barred`; those taken leave the queue."""
        taken = self._take_queued(state, count, barred)
        if len(taken) < count:
            self._fill(state, max(_LEAST_LENGTH, 64 * count), rng)
            more = self._take_queued(state, count - len(taken), barred, taken)
            taken = np.concatenate([taken, more])
        return taken

    def _take_queued(
        self,
        state: CurriculumState,
        count: int,
        barred: NDArray[np.bool_],
        already: NDArray[Any] | None = None,
    ) -> NDArray[np.int64]:
        found: list[NDArray[Any]] = []
        missing = count
        while missing > 0 and self._position < len(self._rows):
            window = slice(self._position, self._position + 2 * missing + 16)
            rows = self._rows[window]
            usable = (
                (_stamps(state, rows) == self._stamps[window])
                & (state.table.leases[rows] < 0)
                & ~barred[rows]
            )
            inside = active(state, rows)
            if inside is not None:
                usable &= inside
            if already is not None and len(already):
                usable &= ~np.isin(rows, already)
            places = np.flatnonzero(usable)[:missing]
            found.append(rows[places])
            missing -= len(places)
            left_over = len(places) < int(usable.sum())
            self._position += int(places[-1]) + 1 if left_over else len(rows)
        return np.concatenate(found) if found else np.zeros(0, dtype=np.int64)

    def _fill(self, state: CurriculumState, length: int, rng: np.random.Generator) -> None:
        inside = active(state, slice(0, state.table.size))
        everyone = np.arange(state.table.size) if inside is None else np.flatnonzero(inside)
        size = len(everyone)
        # The stamp orders by last visit; a fraction at random breaks ties without favouring low rows.
        stamps = _stamps(state, slice(None) if inside is None else everyone)
        keys = stamps + rng.random(size)
        length = min(length, size)
        rows = np.argpartition(keys, length - 1)[:length] if length < size else np.arange(size)
        rows = rows[np.argsort(keys[rows])]
        self._rows, self._stamps, self._position = everyone[rows], stamps[rows], 0


def _stamps(state: CurriculumState, rows: NDArray[Any] | slice) -> NDArray[np.int64]:
    """Number of the last visit, 0 for prompts without evidence."""
    table = state.table
    evidence = table.column("successes")[rows] + table.column("failures")[rows] > 0
    return np.where(evidence, table.column("last_visits")[rows].astype(np.int64), 0)
