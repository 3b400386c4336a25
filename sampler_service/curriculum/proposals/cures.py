"""CurES: a softmax over the standard deviation of the reward (arXiv 2510.01037)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Cures"]


class Cures(WeightedProposal):
    """Weight exp(√(p(1−p))/τ), p the posterior mean.

    The paper publishes no temperature; the default is ours.
    """

    temperature: float = Field(default=0.1, ge=0.001)
    """τ."""

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Scaled by exp(−0.5/τ), so that the largest possible weight is 1."""
        p = view.pass_rates
        weights: NDArray[np.float64] = np.exp((np.sqrt(p * (1.0 - p)) - 0.5) / self.temperature)
        return weights
