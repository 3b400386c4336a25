"""CurES's draw as released: a temperature so high that it is nearly uniform (arXiv 2510.01037)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["CuresRef"]


class CuresRef(WeightedProposal):
    """Weight exp(√(p(1−p))/τ) with τ = 100, p the raw rate of the prompt's own rollouts.

    The released code uses τ = 100·(accepted + 1), which grows while a batch fills. Weights differ by at
    most 0.5 % at its start and by less later, so we hold it at its start.
    """

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Between 1 and exp(0.005); a prompt without rollouts weighs as p = 0."""
        right = np.asarray(view.successes, dtype=np.float64)
        total = right + np.asarray(view.failures, dtype=np.float64)
        p = np.clip(right / np.maximum(total, 1e-30), 0.0, 1.0)
        weights: NDArray[np.float64] = np.exp(np.sqrt(p * (1.0 - p)) / 100.0)
        return weights
