"""Upper confidence bound on the reward variance (ours, after a literature review's DifficultyTracker)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import ScoredProposal, with_random_ties
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Ucb"]


class Ucb(ScoredProposal):
    """Score v + c·√(ln(1 + T)/(1 + visits)): v the moving average of the group's reward variance.

    T counts all groups so far. A prompt never seen has v = 0.25, the most a 0/1 reward can have. No public
    definition exists: the reading is ours.
    """

    bonus: float = Field(default=1.0, ge=0)
    """c: weight of the exploration bonus."""
    unseen_variance: float = Field(default=0.25, ge=0)
    """v before the first visit."""

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """Ties at random."""
        variance = np.asarray(view.ema_variances, dtype=np.float64)
        variance = np.where(np.isnan(variance), self.unseen_variance, variance)
        visits = np.asarray(view.visits, dtype=np.float64)
        return with_random_ties(
            variance + self.bonus * np.sqrt(np.log1p(moment.visits) / (1.0 + visits)), rng
        )
