"""DOTS: prompts of medium predicted difficulty (arXiv 2506.05316)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Dots"]


class Dots(WeightedProposal):
    """Weight exp(−|p̃ − target|/τ) without replacement, p̃ the posterior mean.

    The posterior carries the prediction when `shared_evidence` is `attention`. The authors train on half
    fresh and half replayed rollouts: replaying rollouts is the trainer's part.
    """

    temperature: float = Field(default=1e-3, ge=1e-3)
    """τ."""
    target: float = Field(default=0.5, ge=0, le=1)
    """The pass rate looked for."""

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """The softmax's numerator, never quite zero."""
        distance = np.abs(view.pass_rates - self.target)
        weights: NDArray[np.float64] = np.exp(np.maximum(-distance / self.temperature, -690.0))
        return weights
