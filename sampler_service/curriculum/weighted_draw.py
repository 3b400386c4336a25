"""Weighted draws: a 16-ary sum tree over the pool, and exact draws without replacement.

The law is Plackett–Luce: one prompt after the other, each with probability proportional to its weight
among those that are left. Independent draws with repeats dropped (first occurrences) follow exactly
that law, so a batch is a few vectorised descents.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.arrays import distinct

__all__ = ["Draw", "SumTree", "draw_without_replacement"]

_ARITY: Final = 16
_BITS: Final = 4
_TOP: Final = 8192
# Rounds of independent draws before the exact O(N) law of exponential keys takes over: with very
# unequal weights first occurrences come slowly.
_MAX_ROUNDS: Final = 6

_PREFIX_SUMS: Final = np.triu(np.ones((_ARITY, _ARITY)))


class SumTree:
    """Non-negative weights with O(log N) updates and draws.

    Parents are recomputed from their children, never adjusted by differences, so nothing drifts
    however many updates there are.

    Args:
        weights_N: finite and non-negative; copied. A number: so many zeros, for `fill`.
    """

    def __init__(self, weights_N: NDArray[Any] | int) -> None:
        self.size = weights_N if isinstance(weights_N, int) else len(weights_N)
        lengths = [max(_ARITY, -(-self.size // _ARITY) * _ARITY)]
        while lengths[-1] > _ARITY:
            lengths.append(-(-lengths[-1] // _ARITY**2) * _ARITY)
        self._levels = [np.zeros(length) for length in lengths]
        if not isinstance(weights_N, int):
            self._levels[0][: self.size] = weights_N
            self.sum_up()

    def fill(self, start: int, weights: NDArray[np.float64]) -> None:
        """Sets the weights of consecutive rows; `sum_up` when all are set."""
        self._levels[0][start : start + len(weights)] = weights

    def sum_up(self) -> None:
        """Makes the sums of all that was filled in. O(N)."""
        for level, parents in zip(self._levels, self._levels[1:], strict=False):
            np.sum(level.reshape(-1, _ARITY), axis=1, out=parents[: len(level) // _ARITY])

    @property
    def total(self) -> float:
        """Sum of all weights."""
        return float(self._levels[-1].sum())

    @property
    def weights(self) -> NDArray[np.float64]:
        """The weights, a view: read only."""
        return self._levels[0][: self.size]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(level.nbytes for level in self._levels)

    def update(self, rows: NDArray[np.integer[Any]], weights: NDArray[Any] | float) -> None:
        """Sets the weights of `rows`. O(len(rows) log N)."""
        self._levels[0][rows] = weights
        nodes = np.asarray(rows, dtype=np.int64)
        for level, parents in zip(self._levels, self._levels[1:], strict=False):
            nodes = nodes >> _BITS
            if len(level) <= _ARITY * _ARITY * _ARITY and len(nodes) > 64:
                # So small that all of it is summed sooner than the nodes that changed are found.
                whole = level.reshape(-1, _ARITY).sum(axis=1)
                parents[: len(whole)] = whole
                continue
            if len(nodes) > 64:
                nodes = distinct(nodes)
            parents[nodes] = level.reshape(-1, _ARITY).take(nodes, axis=0).sum(axis=1)

    def draw(self, uniforms_B: NDArray[np.float64]) -> NDArray[np.int64]:
        """Independent draws with replacement, one per uniform in [0, 1). O(B log N).

        A row of zero weight is never drawn. The total must be positive.
        """
        # The first level small enough is searched as a whole; below it one of 16 children at a time.
        top = next(
            k for k, level in enumerate(self._levels) if len(level) <= _TOP or k == len(self._levels) - 1
        )
        sums = np.cumsum(self._levels[top])
        left = uniforms_B * sums[-1]
        nodes: NDArray[np.int64] = np.searchsorted(sums, left, side="right").astype(np.int64)
        if (overshot := nodes >= len(sums)).any():
            nodes[overshot] = int(np.flatnonzero(self._levels[top] > 0)[-1])
        left = np.maximum(left - np.where(nodes > 0, sums[nodes - 1], 0.0), 0.0)
        each = np.arange(len(left))
        for level in reversed(self._levels[:top]):
            children = level.reshape(-1, _ARITY).take(nodes, axis=0)
            sums = children @ _PREFIX_SUMS  # A third of cumsum's time for rows this short.
            child = (sums <= left[:, None]).sum(axis=1)
            # Rounding can push the remainder to the very end, or on to a child without weight: then the last
            # child with weight before it is meant.
            chosen = children[each, np.minimum(child, _ARITY - 1)]
            if (astray := (child >= _ARITY) | (chosen <= 0)).any():
                child[astray] = _last_with_weight(children[astray], child[astray])
            left = np.maximum(left - np.where(child > 0, sums[each, child - 1], 0.0), 0.0)
            nodes = nodes * _ARITY + child
        return nodes


def _last_with_weight(children_BA: NDArray[np.float64], before_B: NDArray[np.int64]) -> NDArray[np.int64]:
    """The last child of positive weight up to `before`; the first one with weight if there is none."""
    positive = children_BA > 0
    usable = positive & (np.arange(_ARITY) <= before_B[:, None])
    last: NDArray[np.int64] = _ARITY - 1 - usable[:, ::-1].argmax(axis=1)
    return np.where(usable.any(axis=1), last, positive.argmax(axis=1))


@dataclass(frozen=True, slots=True)
class Draw:
    """Rows in the order drawn, and each row's probability in a single draw from the whole pool."""

    rows_B: NDArray[np.int64]
    probabilities_B: NDArray[np.float64]


def draw_without_replacement(
    tree: SumTree,
    count: int,
    rng: np.random.Generator,
    excluded: NDArray[np.integer[Any]] | None = None,
) -> Draw:
    """Draws up to `count` distinct rows by the Plackett–Luce law; fewer if fewer have weight.

    Args:
        tree: weights; unchanged on return.
        excluded: rows that must not be drawn.

    O(count log N) unless a few rows hold nearly all the weight, then O(N) once.
    """
    total = tree.total
    taken: dict[int, None] = {}
    barred = set() if excluded is None else set(np.asarray(excluded).tolist())
    removed: list[int] = []
    kept_weights: list[float] = []
    remaining = total
    for _ in range(_MAX_ROUNDS):
        missing = count - len(taken)
        if missing <= 0 or not remaining > 0:
            break
        drawn = tree.draw(rng.random(missing + missing // 8 + 8))
        taken.update(dict.fromkeys(drawn.tolist()))
        for row in barred:
            taken.pop(row, None)
        if len(taken) < count:
            # Conditional on what is taken, the rest follows the same law without it.
            gone = np.array([row for row in (*taken, *barred) if tree.weights[row] > 0], dtype=np.int64)
            if len(gone):
                kept_weights.extend(tree.weights[gone].tolist())
                removed.extend(gone.tolist())
                tree.update(gone, 0.0)
            remaining = tree.total
    if removed:
        tree.update(np.array(removed), np.array(kept_weights))
    if len(taken) < count and remaining > 0:
        _complete_by_keys(tree.weights, count, rng, taken, barred)
    rows = np.fromiter(taken, dtype=np.int64, count=min(count, len(taken)))
    probabilities = tree.weights[rows] / total if total > 0 else np.zeros(len(rows))
    return Draw(rows, probabilities)


def _complete_by_keys(
    weights_N: NDArray[np.float64],
    count: int,
    rng: np.random.Generator,
    taken: dict[int, None],
    barred: set[int],
) -> None:
    """Adds the rows with the least of Exponential(weight) keys, which is the same law. O(N)."""
    candidates = np.flatnonzero(weights_N > 0)
    out = np.fromiter((*taken, *barred), dtype=np.int64, count=len(taken) + len(barred))
    candidates = candidates[~np.isin(candidates, out)]
    missing = min(count - len(taken), len(candidates))
    if missing <= 0:
        return
    # In logarithms: weights may differ by hundreds of orders of magnitude.
    keys = np.log(rng.standard_exponential(len(candidates))) - np.log(weights_N[candidates])
    best = np.argpartition(keys, missing - 1)[:missing] if missing < len(keys) else np.arange(len(keys))
    for row in candidates[best[np.argsort(keys[best], kind="stable")]].tolist():
        taken[row] = None
