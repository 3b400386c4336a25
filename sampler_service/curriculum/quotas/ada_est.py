"""Reinforce-Ada-Est: rollouts in inverse proportion to the pass rate (arXiv 2510.04996)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.rounding import apportion
from sampler_service.curriculum.views import PromptView

__all__ = ["AdaEstPaperQuota", "AdaEstQuota"]


class AdaEstQuota(Quota):
    """The least for everyone, and of the rest a share of 1/p̂ with p̂ = (1 + pos)/(17 + n), as released.

    pos of n are the prompt's own decayed rollouts: shared evidence and the estimator's prior do not enter.
    """

    min: int = Field(default=1, ge=1, le=4096)
    """Least rollouts per prompt, 1 in the authors' code."""
    prior_right: float = Field(default=1.0, gt=0)
    """Pseudo-successes in p̂."""
    prior_wrong: float = Field(default=16.0, ge=0)
    """Pseudo-failures in p̂."""

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """1/p̂."""
        right = np.asarray(view.successes, dtype=np.float64)
        total = right + np.asarray(view.failures, dtype=np.float64)
        weights: NDArray[np.float64] = (self.prior_right + self.prior_wrong + total) / (
            self.prior_right + right
        )
        return weights

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """Least + largest-remainder share of what is left."""
        extra = budget - len(view) * self.least
        return apportion(self.weights(view), extra, 0, self.most - self.least) + np.int32(self.least)


class AdaEstPaperQuota(Quota):
    """Weight 1/√(p̂ + ε) within bounds: the paper's third version, p̂ the posterior mean."""

    epsilon: float = Field(default=0.01, gt=0, le=1)
    """ε: bounds the weight of prompts never solved (its value is ours)."""

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """1/√(p̂ + ε)."""
        weights: NDArray[np.float64] = 1.0 / np.sqrt(view.pass_rates + self.epsilon)
        return weights
