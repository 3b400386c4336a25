"""The protocol of an arm over clusters: how a batch is shared among groups of prompts."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.views import Moment

__all__ = ["ClusterGroups", "ClusterShares", "Memory", "grown", "with_floor"]

Memory = dict[str, NDArray[Any]]
"""An arm's state, by name; one entry per cluster unless said otherwise. Kept in snapshots."""

Floats = NDArray[np.float64]


class ClusterGroups:
    """Trained groups: each group exactly once.

    Args:
        clusters: cluster of each group; groups without one (−1) are left out.
        positives: right rollouts of each group.
        rollouts: outcomes of each group.
    """

    def __init__(self, clusters: NDArray[Any], positives: NDArray[Any], rollouts: NDArray[Any]) -> None:
        usable = (np.asarray(clusters) >= 0) & (np.asarray(rollouts) > 0)
        self.clusters = np.asarray(clusters)[usable].astype(np.int64)
        self.rollouts = np.asarray(rollouts)[usable].astype(np.float64)
        self.positives = np.asarray(positives)[usable].astype(np.float64)

    @property
    def rates(self) -> Floats:
        """Pass rate of each group."""
        rates: Floats = self.positives / self.rollouts
        return rates

    @property
    def mixed(self) -> NDArray[np.bool_]:
        """Whether the group had right and wrong rollouts."""
        mixed: NDArray[np.bool_] = (self.positives > 0) & (self.positives < self.rollouts)
        return mixed

    def sums(self, values: NDArray[Any], clusters: int) -> Floats:
        """Sum per cluster."""
        weights = np.asarray(values, dtype=np.float64)
        return np.bincount(self.clusters, weights=weights, minlength=clusters).astype(np.float64)


class ClusterShares(Part):
    """Says what share of a batch each cluster gets. State is `memory`, which `observe` and `advance` change."""

    needs: ClassVar[tuple[str, ...]] = ("clusters",)

    floor: float = Field(default=0.1, ge=0, lt=1)
    """Share of the batch spread evenly over all clusters that have prompts (ours)."""

    def observe(self, groups: ClusterGroups, clusters: int, memory: Memory, moment: Moment) -> None:
        """Takes in trained groups; `clusters` is how many clusters there are."""

    def advance(self, clusters: int, memory: Memory, moment: Moment) -> None:
        """The policy has moved by one step."""

    def shares(
        self, sizes_K: NDArray[Any], memory: Memory, moment: Moment, rng: np.random.Generator
    ) -> Floats:
        """Share of each cluster, summing to 1; 0 for clusters without prompts.

        Args:
            sizes_K: prompts that can be drawn, per cluster.
        """
        raise TypeError(f"{type(self).__name__} does not say how it shares a batch")


def grown(memory: Memory, name: str, clusters: int, fill: float = 0.0) -> Floats:
    """A copy of an entry with room for `clusters`; new clusters start at `fill`."""
    array = np.full(clusters, fill)
    if name in memory:
        known = min(len(memory[name]), clusters)
        array[:known] = memory[name][:known]
    return array


def with_floor(weights_K: Floats, sizes_K: NDArray[Any], floor: float) -> Floats:
    """Normalised over the clusters that have prompts, with `floor` of it spread evenly."""
    present = np.asarray(sizes_K) > 0
    if not present.any():
        return np.zeros(len(weights_K))
    even = present / present.sum()
    weights = np.where(present & np.isfinite(weights_K) & (weights_K > 0), weights_K, 0.0)
    total = weights.sum()
    mixed: Floats = (1.0 - floor) * (weights / total if total > 0 else even) + floor * even
    return mixed
