"""SPEED: leave out prompts whose screening was all right or all wrong (arXiv 2506.09016)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Speed"]


class Speed(WeightedProposal):
    """Weight 1 iff 0 < p̂ < 1 strictly, p̂ the rate of the prompt's own rollouts; unseen prompts count as fit.

    Meant to go with the `screen` stopping rule, whose first rollouts are the screening. A prompt left out
    comes back through the exploration floor, or after `recheck_steps`.
    """

    recheck_steps: int = Field(default=50, ge=1)
    """Policy steps after which an unfit prompt is tried again (ours: all wrong once is not for ever)."""

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """The indicator."""
        right, wrong = np.asarray(view.successes), np.asarray(view.failures)
        waited = moment.policy_step - np.asarray(view.last_steps, dtype=np.int64)
        fit = ((right > 0) & (wrong > 0)) | (right + wrong <= 0) | (waited >= self.recheck_steps)
        weights: NDArray[np.float64] = fit.astype(np.float64)
        return weights
