"""The cluster's pass rate as a prior for its prompts (ours)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["ClusterPrior"]


class ClusterPrior(SharedEvidence):
    """Pseudo-counts of the cluster's discounted pass rate.

    With n discounted rollouts of the cluster at pass rate p, a prompt starts from s·n/(n + s)
    pseudo-rollouts at p: nothing while nothing is known, at most s. Prompts without a cluster share none.
    """

    needs: ClassVar[tuple[str, ...]] = ("clusters",)

    strength: float = Field(default=4.0, gt=0)
    """s: the most pseudo-rollouts a prompt gets from its cluster."""
    factor: float = Field(default=0.9, gt=0, le=1)
    """Discount of the cluster's counts at each policy step."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of the prompts' clusters."""
        successes, failures = memory.get("successes"), memory.get("failures")
        clusters = table.column("clusters")[rows]
        if successes is None or failures is None:
            nothing = np.zeros(len(clusters))
            return nothing, nothing
        n = successes + failures
        weight = self.strength / (n + self.strength)
        # One more entry, zero, for prompts without a cluster (-1) or in one never visited.
        limit = len(n)
        index = np.where((clusters >= 0) & (clusters < limit), clusters, limit)
        return np.append(successes * weight, 0.0)[index], np.append(failures * weight, 0.0)[index]

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Adds the groups' outcomes to their clusters."""
        clusters = table.clusters[rows]
        inside = clusters >= 0
        if not inside.any():
            return
        size = max(int(clusters.max()) + 1, len(memory.get("successes", ())))
        for name, values in (
            ("successes", counts.successes),
            ("failures", counts.rollouts - counts.successes),
        ):
            sums = np.bincount(clusters[inside], weights=values[inside], minlength=size)
            old = memory.get(name)
            if old is not None:
                sums[: len(old)] += old
            memory[name] = sums

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """Discounts all clusters."""
        for name in ("successes", "failures"):
            if name in memory:
                memory[name] = memory[name] * self.factor
