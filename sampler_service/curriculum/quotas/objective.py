"""Rollouts that minimise the gradient's variance for a non-linear objective f of the pass rate."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.views import PromptView

__all__ = ["ObjectiveQuota"]


class ObjectiveQuota(Quota):
    """Weight f'(p)·√(p(1−p)): the optimal allotment when Σ f(p) is what training maximises."""

    objective: Literal["linear", "log", "log_raft", "power", "arcsin"] = "linear"
    """f: `linear` p; `log` ln p; `log_raft` ln p without a baseline (weight 1/√p); `power` p^a/a;
    `arcsin` GRPO's own objective, for which equal quotas are already optimal."""
    exponent: float = Field(default=0.5, gt=0, le=4)
    """a of `power`."""
    floor: float = Field(default=0.01, gt=0, le=0.5)
    """Pass rates below it count as it: p̂ = 0 means unknown, not infinitely valuable (ours)."""

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """f'(p)·√(p(1−p)) at the posterior mean."""
        p = np.maximum(view.pass_rates, self.floor)
        deviation: NDArray[np.float64] = np.sqrt(p * (1.0 - p))
        if self.objective == "arcsin":
            return np.ones(len(view))
        if self.objective == "log":
            logarithmic: NDArray[np.float64] = deviation / p
            return logarithmic
        if self.objective == "log_raft":
            raft: NDArray[np.float64] = 1.0 / np.sqrt(p)
            return raft
        if self.objective == "power":
            powered: NDArray[np.float64] = p ** (self.exponent - 1.0) * deviation
            return powered
        return deviation
