"""Learnability: the prompts of largest p̂(1 − p̂) (arXiv 2502.12272)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.proposals.base import ScoredProposal, with_random_ties
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Learnability"]


class Learnability(ScoredProposal):
    """Score p̂(1 − p̂), p̂ the posterior mean. An unseen prompt under a flat prior scores highest."""

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """Ties at random."""
        p = view.pass_rates
        return with_random_ties(p * (1.0 - p), rng)
