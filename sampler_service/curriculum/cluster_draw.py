"""Drawing a batch cluster by cluster, each by its share."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.weighted_draw import Draw
from sampler_service.curriculum.weighted_pool import WeightedPool

__all__ = ["best_by_cluster", "cluster_counts", "draw_by_cluster"]

Floats = NDArray[np.float64]


def cluster_counts(
    state: CurriculumState, free: NDArray[Any], count: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """How the strategy's arm shares `count` prompts among the clusters of the `free` rows.

    Prompts without a cluster are one more, the last, whose share is its share of the free prompts.

    Returns:
        the cluster of each free row; prompts and share of each cluster.
    """
    clusters = state.strategy.clusters
    assert clusters is not None
    labels = state.table.column("clusters")[free]
    groups = np.where(labels >= 0, labels, len(state.cluster_names)).astype(np.int64)
    sizes = np.bincount(groups, minlength=len(state.cluster_names) + 1)
    shares = clusters.shares(sizes[:-1], state.cluster_memory, state.moment(), rng)
    if sizes[-1]:
        apart = sizes[-1] / sizes.sum()
        shares = np.append(shares * (1.0 - apart), apart)
    else:
        shares = np.append(shares, 0.0)
    return groups, _within(sizes, shares * count, count), shares


def draw_by_cluster(
    state: CurriculumState,
    pool: WeightedPool,
    count: int,
    excluded: NDArray[Any],
    rng: np.random.Generator,
) -> Draw:
    """So many prompts from each cluster as its share says, by their weights within it. O(N)."""
    free = pool.positive_rows()
    free = free[~np.isin(free, excluded)]
    groups, counts, shares = cluster_counts(state, free, count, rng)
    rows, odds = [], []
    for group in np.flatnonzero(counts).tolist():
        members = free[groups == group]
        draw = WeightedPool(pool.weights_of(members)).draw(int(counts[group]), rng)
        rows.append(members[draw.rows_B])
        odds.append(draw.probabilities_B * shares[group])
    if not rows:
        return Draw(np.zeros(0, dtype=np.int64), np.zeros(0))
    return Draw(np.concatenate(rows), np.concatenate(odds))


def best_by_cluster(
    state: CurriculumState,
    candidates: NDArray[Any],
    scores: Floats,
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Places of the best `count` candidates, so many of each cluster as its share says; best first."""
    groups, counts, _ = cluster_counts(state, candidates, count, rng)
    order = np.argsort(-scores, kind="stable")
    ranked = groups[order]
    chosen = np.concatenate(
        [np.flatnonzero(ranked == group)[: counts[group]] for group in np.flatnonzero(counts).tolist()]
        or [np.zeros(0, dtype=np.int64)]
    )
    best: NDArray[np.int64] = order[np.sort(chosen)]
    return best


def _within(sizes_K: NDArray[Any], shares_K: Floats, count: int) -> NDArray[np.int64]:
    """Whole numbers near `shares_K`, at most `sizes_K` each, summing to `count` or to all there is."""
    count = min(count, int(sizes_K.sum()))
    counts: NDArray[np.int64] = np.minimum(np.floor(shares_K).astype(np.int64), sizes_K)
    while (missing := count - int(counts.sum())) > 0:
        room = counts < sizes_K
        order = np.argsort(-(shares_K - counts)[room], kind="stable")
        counts[np.flatnonzero(room)[order[:missing]]] += 1
    return counts
