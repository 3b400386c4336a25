"""GVM-RAFT: rollouts that minimise the variance of the gradient (arXiv 2505.02391)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.rounding import bounded_shares, round_half_even
from sampler_service.curriculum.views import PromptView

__all__ = ["GvmQuota", "gvm_weights"]


def gvm_weights(
    p: NDArray[np.float64], norms: NDArray[np.float64], penalty: float, power: float
) -> NDArray[np.float64]:
    """G/√(p + a/p^(b−1)), 0 where p = 0 or G = 0."""
    usable = (p > 0) & (norms > 0)
    safe = np.where(usable, p, 1.0)
    # In logarithms: p^(b−1) of a tiny p underflows.
    term = np.exp(np.minimum(np.log(penalty) - (power - 1.0) * np.log(safe), 600.0)) if penalty > 0 else 0.0
    return np.where(usable, norms / np.sqrt(safe + term), 0.0)


class GvmQuota(Quota):
    """Weight G/√(p + a/p^(b−1)): hard prompts get more, hopeless ones none above the least.

    G is the mean gradient norm over right rollouts (1 if none was sent), p the posterior mean where the
    authors take a pilot's raw rate. Rounds half to even, as they do.
    """

    penalty: float = Field(default=1e-3, ge=0)
    """a: how strongly pass rates near zero are held back."""
    power: float = Field(default=2.0, ge=1, le=8)
    """b."""

    uses_gradient_norms: ClassVar[bool] = True

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """As above."""
        norms = np.ones(len(view)) if view.gradient_norms is None else view.gradient_norms.mean_right
        return gvm_weights(view.pass_rates, np.where(np.isnan(norms), 1.0, norms), self.penalty, self.power)

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """Shares within bounds, rounded half to even."""
        weights = self.weights(view)
        top = weights.max(initial=0.0)
        weights = weights / top if top > 0 else np.ones(len(view))
        weights[weights < 1e-15] = 0.0
        shares = bounded_shares(weights, budget, self.least, self.most)
        return round_half_even(shares, budget, self.least, self.most)
