"""VIP: least total variance of the group advantages (arXiv 2602.01601)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.rounding import apportion
from sampler_service.curriculum.views import PromptView

__all__ = ["VipQuota"]


class VipQuota(Quota):
    """Minimises Σ 4p(1−p)/(n − 1): n = clip(1 + √(4p(1−p)/μ), min, max), μ such that Σ n = budget.

    n − 1 is a share in proportion to √(p(1−p)) within [min − 1, max − 1], so the multiplier is found
    between its breakpoints instead of by bisection.
    """

    min: int = Field(default=2, ge=2, le=4096)
    """Least rollouts per prompt; a group of one has no variance to speak of."""

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """√(4p(1−p))."""
        p = view.pass_rates
        weights: NDArray[np.float64] = np.sqrt(4.0 * p * (1.0 - p))
        return weights

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """One each, and the rest in proportion."""
        rest = apportion(self.weights(view), budget - len(view), self.least - 1, self.most - 1)
        return rest + np.int32(1)
