"""Knapsack RL: the budget as a knapsack, rollouts as items (arXiv 2509.25849)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.frontier import largest_marginals
from sampler_service.curriculum.views import PromptView

__all__ = ["KnapsackQuota"]


class KnapsackQuota(Quota):
    """Maximises Σ [1 − p^n − (1−p)^n]·p(1−p)² at the posterior mean, Σ n = budget.

    The n-th rollout's gain p^n(1−p) + (1−p)^n p falls with n, so greedy is exactly optimal (the proof is
    ours; the paper uses a dynamic programme).
    """

    max: int = Field(default=128, ge=1, le=4096)
    """Most rollouts per prompt."""

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """Greedy on marginal gains. O(B·(max − min))."""
        p = view.pass_rates[:, None]
        q = 1.0 - p
        n = np.arange(self.least, self.most, dtype=np.float64)
        gains = (p**n * q + q**n * p) * (p * q * q)
        return largest_marginals(gains, self.least, budget - len(view) * self.least)
