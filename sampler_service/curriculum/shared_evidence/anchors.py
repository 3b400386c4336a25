"""BOTS: pass rates of a weak and a strong model as anchors (arXiv 2510.26374)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["Anchors", "capability"]


def capability(observed: float, weak: float, strong: float) -> float:
    """(mean observed − mean a0)/(mean a1 − mean a0 + 1e-6): 0 at the weak model, 1 at the strong one."""
    return (observed - weak) / (strong - weak + 1e-6)


class Anchors(SharedEvidence):
    """`strength` pseudo-rollouts at p̃ = clip(a0 + cap·(a1 − a0), 0, 1).

    The capability is measured over all groups of a policy step and averaged over steps. Prompts without
    both anchors, and all prompts before the first step has ended, share none.
    """

    needs: ClassVar[tuple[str, ...]] = ("anchor_pass_rates",)

    strength: float = Field(default=16.0, gt=0)
    """Pseudo-rollouts of a prediction."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Share of the old capability kept at each step; the first measurement is taken as it is."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """At the interpolated pass rate."""
        weak = table.column("weak_pass_rates")[rows].astype(np.float64)
        strong = table.column("strong_pass_rates")[rows].astype(np.float64)
        if "capability" not in memory:
            return np.zeros(len(weak)), np.zeros(len(weak))
        predicted = np.clip(weak + memory["capability"][0] * (strong - weak), 0.0, 1.0)
        known = ~np.isnan(predicted)
        right = np.where(known, self.strength * np.nan_to_num(predicted), 0.0)
        return right, np.where(known, self.strength - right, 0.0)

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Adds the groups to the step's sums."""
        weak = table.column("weak_pass_rates")[rows].astype(np.float64)
        strong = table.column("strong_pass_rates")[rows].astype(np.float64)
        known = ~np.isnan(weak) & ~np.isnan(strong) & (counts.rollouts > 0)
        if not known.any():
            return
        rates = counts.successes[known] / counts.rollouts[known]
        sums = np.array([known.sum(), rates.sum(), weak[known].sum(), strong[known].sum()], dtype=np.float64)
        memory["step_sums"] = memory.get("step_sums", np.zeros(4)) + sums

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """Measures the step's capability."""
        if "step_sums" not in memory:
            return
        groups, observed, weak, strong = memory.pop("step_sums").tolist()
        measured = capability(observed / groups, weak / groups, strong / groups)
        if "capability" in memory:
            old = float(memory["capability"][0])
            measured = self.momentum * old + (1.0 - self.momentum) * measured
        memory["capability"] = np.array([measured])
