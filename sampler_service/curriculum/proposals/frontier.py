"""Our own: prompts of the highest expected reward variance under the posterior."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Frontier"]


class Frontier(WeightedProposal):
    """Weight (4·E[p(1−p)])^power, or exp(E[p(1−p)]/τ) where no power is given; E[p(1−p)] = αβ/((α+β)(α+β+1)).

    The expectation puts a confirmed frontier prompt (at most 0.25) above an unknown one (1/6 under a
    flat prior), which the plug-in p̂(1−p̂) does not. A power draws in proportion: a batch holds many different
    prompts, and those whose rewards vary for ever without teaching anything stay a bounded share of it. A
    small τ makes the draw a ranking with random ties: more groups are mixed, and the same few prompts return.
    """

    power: float = Field(default=0.0, ge=0, le=64)
    """How sharply the draw prefers a high expectation; 0: the exponential law below."""
    temperature: float = Field(default=0.002, ge=0.0005)
    """τ, where `power` is 0; the range of the expectation is 0.25."""
    rest_steps: int = Field(default=0, ge=0)
    """Policy steps over which a prompt just visited comes back to its full expectation; 0: at once."""

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Scaled so that the largest possible weight is 1."""
        expected = view.expected_variances
        if self.rest_steps:
            since = moment.policy_step - view.last_steps.astype(np.int64)
            rested = np.where(view.visits > 0, np.minimum(since / self.rest_steps, 1.0), 1.0)
            expected = expected * rested
        if self.power:
            return np.asarray((4.0 * expected) ** self.power, dtype=np.float64)
        weights: NDArray[np.float64] = np.exp((expected - 0.25) / self.temperature)
        return weights
