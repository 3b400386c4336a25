"""Thompson sampling of clusters by how often their groups come out mixed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sampler_service.curriculum.clusters.base import ClusterGroups, ClusterShares, Memory, grown, with_floor
from sampler_service.curriculum.views import Moment

__all__ = ["ThompsonClusters"]


class ThompsonClusters(ClusterShares):
    """Draws from each cluster's Beta over "the group was mixed"; shares in proportion to the draws.

    An unseen cluster draws from the prior, a proper Beta like all others: noise of another scale in its
    place is what makes the original collapse to 2 of 14 clusters.
    """

    prior: tuple[float, float] = (1.0, 1.0)
    """α0, β0 of each cluster."""

    @field_validator("prior")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not min(value) > 0:
            raise ValueError("both entries must be positive")
        return value

    factor: float = Field(default=0.9, gt=0, le=1)
    """Discount of a cluster's counts at each policy step (ours)."""

    def observe(self, groups: ClusterGroups, clusters: int, memory: Memory, moment: Moment) -> None:
        """Counts mixed and unmixed groups."""
        for name, values in (("mixed", groups.mixed), ("unmixed", ~groups.mixed)):
            memory[name] = grown(memory, name, clusters) + groups.sums(values, clusters)

    def advance(self, clusters: int, memory: Memory, moment: Moment) -> None:
        """Discounts."""
        for name in ("mixed", "unmixed"):
            memory[name] = grown(memory, name, clusters) * self.factor

    def shares(
        self, sizes_K: NDArray[Any], memory: Memory, moment: Moment, rng: np.random.Generator
    ) -> NDArray[np.float64]:
        """One draw per cluster."""
        count = len(sizes_K)
        alphas = self.prior[0] + grown(memory, "mixed", count)
        betas = self.prior[1] + grown(memory, "unmixed", count)
        return with_floor(rng.beta(alphas, betas), sizes_K, self.floor)
