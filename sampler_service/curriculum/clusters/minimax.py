"""Minimax weights of clusters by how far each lags (DoReMi, arXiv 2305.10429)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.clusters.base import ClusterGroups, ClusterShares, Memory, grown, with_floor
from sampler_service.curriculum.views import Moment

__all__ = ["MinimaxClusters", "minimax_step"]

Floats = NDArray[np.float64]


def minimax_step(weights_K: Floats, excess_K: Floats, rate: float, smoothing: float) -> Floats:
    """w ← softmax(log w + η·λ), then (1 − c)·w + c/k. Never below c/k."""
    logits = np.log(np.maximum(weights_K, 1e-300)) + rate * excess_K
    weights = np.exp(logits - logits.max())
    stepped: Floats = (1.0 - smoothing) * weights / weights.sum() + smoothing / len(weights_K)
    return stepped


class MinimaxClusters(ClusterShares):
    """λ = moving average of clip(base − current, 0, 1) per cluster; serves the running average of w.

    A cluster absent from a step keeps its λ. `base` is the cluster's best pass rate so far, or its headroom
    at k tries. Optionally the weights are multiplied by the cluster's mean p(1−p), so that an impossible
    cluster does not absorb the batch.
    """

    floor: float = Field(default=0.0, ge=0, lt=1)
    """Share of the batch spread evenly; the method has its own, `smoothing`."""
    base: Literal["best", "headroom"] = "best"
    """`best`: best − current pass rate; `headroom`: pass@k − pass@1 of the step's mean pass rates."""
    tries: int = Field(default=8, ge=2)
    """k of `headroom`."""
    rate: float = Field(default=1.0, gt=0)
    """η."""
    smoothing: float = Field(default=1e-3, gt=0, lt=1)
    """c."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the old λ kept at a step (ours)."""
    times_variance: bool = False
    """Multiply by the cluster's mean p(1−p)."""

    def observe(self, groups: ClusterGroups, clusters: int, memory: Memory, moment: Moment) -> None:
        """Adds to the step's sums."""
        rates = groups.rates
        for name, values in (
            ("step_groups", np.ones_like(rates)),
            ("step_rates", rates),
            ("step_variances", rates * (1.0 - rates)),
            ("step_solved", 1.0 - (1.0 - rates) ** self.tries),
        ):
            memory[name] = grown(memory, name, clusters) + groups.sums(values, clusters)

    def advance(self, clusters: int, memory: Memory, moment: Moment) -> None:
        """Updates λ of the clusters that were present, then the weights."""
        if clusters == 0:
            return
        groups = grown(memory, "step_groups", clusters)
        present, safe = groups > 0, np.maximum(groups, 1.0)
        current = grown(memory, "step_rates", clusters) / safe
        best = np.where(
            present, np.maximum(grown(memory, "best", clusters), current), grown(memory, "best", clusters)
        )
        base = best if self.base == "best" else grown(memory, "step_solved", clusters) / safe
        excess = np.clip(base - current, 0.0, 1.0)
        old = grown(memory, "excess", clusters, np.nan)
        moved = np.where(np.isnan(old), excess, self.momentum * old + (1.0 - self.momentum) * excess)
        kept = np.where(present, moved, old)
        variances = grown(memory, "variances", clusters, np.nan)
        memory["variances"] = np.where(present, grown(memory, "step_variances", clusters) / safe, variances)
        memory["best"], memory["excess"] = best, kept
        weights = grown(memory, "weights", clusters, 1.0 / clusters)
        weights = minimax_step(weights / weights.sum(), np.nan_to_num(kept), self.rate, self.smoothing)
        steps = float(memory["steps"][0]) if "steps" in memory else 0.0
        average = grown(memory, "average", clusters, 1.0 / clusters)
        memory["average"] = (average / average.sum() * steps + weights) / (steps + 1.0)
        memory["weights"], memory["steps"] = weights, np.array([steps + 1.0])
        for name in ("step_groups", "step_rates", "step_variances", "step_solved"):
            memory[name] = np.zeros(clusters)

    def shares(
        self, sizes_K: NDArray[Any], memory: Memory, moment: Moment, rng: np.random.Generator
    ) -> Floats:
        """The running average."""
        count = len(sizes_K)
        weights = grown(memory, "average", count, 1.0 / max(count, 1))
        if self.times_variance:
            variances = grown(memory, "variances", count, np.nan)
            weights = weights * np.where(np.isnan(variances), 0.25, variances)
            smooth = self.smoothing / max(count, 1)
            total = weights.sum()
            weights = (1.0 - self.smoothing) * weights / total + smooth if total > 0 else weights
        return with_floor(weights, sizes_K, self.floor)
