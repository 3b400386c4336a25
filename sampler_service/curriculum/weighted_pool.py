"""The pool's weights, split in two: a few heavy rows in a flat head, all others in a sum tree.

A ranking-like proposal gives a few hundred rows nearly all the weight, and independent draws from a tree
would hit those again and again. Split, a batch costs O(head + batch log N) whatever the weights look like.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.arrays import distinct
from sampler_service.curriculum.weighted_draw import Draw, SumTree, draw_without_replacement

__all__ = ["WeightedPool"]

_HEAD_ROWS: Final = 4096
_NOT_IN_HEAD: Final = -1
# Rows looked at together when the heaviest are sought.
_BLOCK: Final = 65_536
# Share of all weight that the heaviest rows must hold for a head to pay.
_WORTHWHILE: Final = 0.25


class WeightedPool:
    """Weights of all rows, with updates and exact Plackett–Luce draws.

    Which rows are in the head matters for speed only; a row joins it when it becomes heavy.

    Args:
        weights_N: finite and non-negative; a tree of them is taken over.
        head_rows: rows the head holds, about, at least 1; it may grow to four times as many.
    """

    def __init__(self, weights_N: NDArray[np.float64] | SumTree, head_rows: int = _HEAD_ROWS) -> None:
        self._tail = tail = weights_N if isinstance(weights_N, SumTree) else SumTree(weights_N)
        self.size = tail.size
        self._head_rows = head_rows
        rows = _heaviest(tail.weights, min(head_rows, self.size))
        weights = tail.weights[rows]
        if weights.sum() < _WORTHWHILE * tail.total:
            # Nearly equal weights need no head: it waits for rows heavier than any is now.
            self._least = float(weights.max(initial=0.0))
            rows, weights = rows[:0], weights[:0]
        else:
            self._least = float(weights.min(initial=np.inf))
        self._rows, self._weights = rows, weights
        # Two bytes a row suffice for a head of the usual length. It is longer for a moment in `_join` only.
        kind = np.int16 if 4 * head_rows <= np.iinfo(np.int16).max else np.int32
        self._places = np.full(self.size, _NOT_IN_HEAD, dtype=kind)
        self._places[rows] = np.arange(len(rows))
        tail.update(rows, 0.0)

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._weights.sum()) + self._tail.total

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._tail.nbytes + self._places.nbytes + self._rows.nbytes + self._weights.nbytes

    def weights_of(self, rows: NDArray[np.integer[Any]]) -> NDArray[np.float64]:
        """Weights of `rows`."""
        places = self._places[rows]
        inside = places >= 0
        weights: NDArray[np.float64] = self._tail.weights[rows]
        weights[inside] = self._weights[places[inside]]
        return weights

    def positive_rows(self) -> NDArray[np.int64]:
        """Every row of positive weight, ascending. O(N)."""
        positive = self._tail.weights > 0
        positive[self._rows] = self._weights > 0
        return np.flatnonzero(positive)

    def candidates(
        self, count: int, rng: np.random.Generator, excluded: NDArray[np.integer[Any]]
    ) -> NDArray[np.int64]:
        """About `count` distinct rows of positive weight, each as likely as any other; all, if there are fewer.

        O(count) while most rows have weight, else O(N).

        Args:
            excluded: rows that must not be among them.
        """
        if 2 * count < self.size:
            rows = distinct(rng.integers(0, self.size, count + count // 8))
            rows = rows[self.weights_of(rows) > 0]
            rows = rows[~np.isin(rows, excluded)]
            if 2 * len(rows) > count:
                return rows
        rows = self.positive_rows()
        rows = rows[~np.isin(rows, excluded)]
        return rng.choice(rows, count, replace=False) if len(rows) > count else rows

    def update(self, rows: NDArray[np.integer[Any]], weights: NDArray[np.float64]) -> None:
        """Sets the weights of distinct `rows`. O(len(rows) log N), amortised."""
        places = self._places[rows]
        inside = places >= 0
        self._weights[places[inside]] = weights[inside]
        rows, weights = rows[~inside], weights[~inside]
        heavy = weights > self._least
        self._tail.update(rows[~heavy], weights[~heavy])
        if heavy.any():
            self._tail.update(rows[heavy], 0.0)
            self._join(rows[heavy], weights[heavy])

    def _join(self, rows: NDArray[Any], weights: NDArray[np.float64]) -> None:
        self._places[rows] = np.arange(len(self._rows), len(self._rows) + len(rows))
        self._rows = np.concatenate([self._rows, rows.astype(np.int64)])
        self._weights = np.concatenate([self._weights, weights])
        if len(self._rows) <= 4 * self._head_rows:
            return
        order = np.argpartition(self._weights, len(self._weights) - self._head_rows)
        out, kept = order[: -self._head_rows], order[-self._head_rows :]
        self._places[self._rows[out]] = _NOT_IN_HEAD
        self._tail.update(self._rows[out], self._weights[out])
        self._rows, self._weights = self._rows[kept], self._weights[kept]
        self._places[self._rows] = np.arange(len(kept))
        self._least = float(self._weights.min())

    def draw(
        self, count: int, rng: np.random.Generator, excluded: NDArray[np.integer[Any]] | None = None
    ) -> Draw:
        """Draws up to `count` distinct rows by the Plackett–Luce law; fewer if fewer have weight.

        An exponential race: row i arrives after Exponential/weight, and the order of arrival is the law.
        Rows of the head race one by one. The tail's next arrival is exponential in the weight left in it
        and falls on its rows in proportion; it is drawn only if it can come before the head's last.

        Args:
            excluded: rows that must not be drawn.
        """
        total = self.total
        weights = self._weights
        if excluded is not None and len(excluded):
            places = self._places[excluded]
            weights = weights.copy()
            weights[places[places >= 0]] = 0.0
        live = np.flatnonzero(weights > 0)
        arrivals = rng.standard_exponential(len(live)) / weights[live]
        if len(live) > count:
            first = np.argpartition(arrivals, count - 1)[:count] if count else live[:0]
            live, arrivals = live[first], arrivals[first]
        rows = self._rows[live]
        outside = self._tail.total
        if outside > 0 and count > 0:
            next_arrival = float(rng.standard_exponential()) / outside
            if len(rows) < count or next_arrival < arrivals.max():
                tail_rows, tail_arrivals = self._tail_arrivals(count, next_arrival, outside, rng, excluded)
                rows = np.concatenate([rows, tail_rows])
                arrivals = np.concatenate([arrivals, tail_arrivals])
        drawn = rows[np.argsort(arrivals, kind="stable")[:count]]
        return Draw(drawn, self.weights_of(drawn) / total if total > 0 else np.zeros(len(drawn)))

    def _tail_arrivals(
        self,
        count: int,
        first_arrival: float,
        outside: float,
        rng: np.random.Generator,
        excluded: NDArray[np.integer[Any]] | None,
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """The tail's first `count` rows in order, and when each arrives."""
        if excluded is not None and len(excluded):
            # Barred rows hold weight that never arrives: what is left arrives more slowly.
            barred = float(self._tail.weights[excluded].sum())
            left = max(outside - barred, 0.0)
            first_arrival = first_arrival * outside / left if left > 0 else np.inf
            outside = left
        rows = draw_without_replacement(self._tail, count, rng, excluded).rows_B
        weights = self._tail.weights[rows]
        # Weight left before each arrival; rounding must not make it less than what is still to come.
        behind = np.cumsum(weights[::-1])[::-1]
        remaining = np.maximum(outside - np.concatenate([[0.0], np.cumsum(weights)[:-1]]), behind)
        gaps = rng.standard_exponential(len(rows)) / remaining
        if len(rows):
            gaps[0] = first_arrival
        return rows, np.cumsum(gaps)


def _heaviest(weights_N: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """The rows of the `count` largest weights, in no order. O(N) time; `argpartition` of all of them would take
    O(N) memory too, and fresh pages for it cost more than the search."""
    rows = np.zeros(0, dtype=np.int64)
    least = -np.inf
    for start in range(0, len(weights_N), _BLOCK):
        heavier = np.flatnonzero(weights_N[start : start + _BLOCK] > least)
        rows = np.concatenate([rows, heavier + start])
        if len(rows) > max(4 * count, _BLOCK):
            rows = _largest(weights_N, rows, count)
            least = float(weights_N[rows].min(initial=np.inf))
    return _largest(weights_N, rows, count)


def _largest(weights_N: NDArray[np.float64], rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    if not count:
        return rows[:0]
    return rows[np.argpartition(weights_N[rows], len(rows) - count)[len(rows) - count :]]
