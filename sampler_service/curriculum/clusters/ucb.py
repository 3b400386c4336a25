"""Upper confidence bound on the size of a cluster's advantages (DUMP, arXiv 2504.09710)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.clusters.base import ClusterGroups, ClusterShares, Memory, grown, with_floor
from sampler_service.curriculum.views import Moment

__all__ = ["UcbClusters", "ucb_shares"]

Floats = NDArray[np.float64]


def ucb_shares(means_K: Floats, counts_K: Floats, temperature: float) -> Floats:
    """softmax((mean|A| + √(2 ln(N + 1)/(n + 1)))/τ), N = Σ n."""
    bounds = means_K + np.sqrt(2.0 * np.log(counts_K.sum() + 1.0) / (counts_K + 1.0))
    weights = np.exp((bounds - bounds.max(initial=-np.inf)) / temperature)
    shares: Floats = weights / weights.sum()
    return shares


class UcbClusters(ClusterShares):
    """mean|A| over a cluster's last `window` groups, plus a bonus that falls with its groups.

    |A| of a group of 0/1 rewards at rate p, normalised as in GRPO, has mean 2√(p(1−p)).
    """

    window: int = Field(default=300, ge=1, le=10_000)
    """Groups a cluster remembers."""
    temperature: float = Field(default=0.1, gt=0)
    """τ."""

    def observe(self, groups: ClusterGroups, clusters: int, memory: Memory, moment: Moment) -> None:
        """Keeps the last groups of every cluster, oldest first."""
        sizes = 2.0 * np.sqrt(groups.rates * (1.0 - groups.rates))
        labels = np.concatenate([memory.get("labels", np.zeros(0, dtype=np.int64)), groups.clusters])
        values = np.concatenate([memory.get("values", np.zeros(0)), sizes])
        counts = np.bincount(labels, minlength=clusters)
        if counts.max(initial=0) > self.window:
            # Age of each entry within its cluster, counted from the newest.
            order = np.argsort(labels, kind="stable")
            starts = np.cumsum(counts) - counts
            rank = np.arange(len(labels)) - starts[labels[order]]
            age = np.empty(len(labels), dtype=np.int64)
            age[order] = counts[labels[order]] - 1 - rank
            labels, values = labels[age < self.window], values[age < self.window]
        memory["labels"], memory["values"] = labels, values
        memory["counts"] = grown(memory, "counts", clusters) + np.bincount(
            groups.clusters, minlength=clusters
        )

    def shares(
        self, sizes_K: NDArray[Any], memory: Memory, moment: Moment, rng: np.random.Generator
    ) -> Floats:
        """The softmax of the bounds."""
        count = len(sizes_K)
        if count == 0:
            return np.zeros(0)
        labels = memory.get("labels", np.zeros(0, dtype=np.int64))
        inside = np.bincount(labels, minlength=count)
        sums = np.bincount(labels, weights=memory.get("values", np.zeros(0)), minlength=count)
        means = sums / np.maximum(inside, 1)
        return with_floor(
            ucb_shares(means, grown(memory, "counts", count), self.temperature), sizes_K, self.floor
        )
