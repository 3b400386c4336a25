"""CurES as released: where its code differs from the paper (arXiv 2510.01037)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.cures import gradient_deviation
from sampler_service.curriculum.views import PromptView

__all__ = ["CuresRefQuota", "uncorrected_shares"]


def uncorrected_shares(weights_B: NDArray[np.float64], budget: int) -> NDArray[np.int32]:
    """Each share rounded half to even by itself; the sum may miss the budget either way."""
    total = weights_B.sum()
    shares = weights_B * (budget / total) if total > 0 else np.full(len(weights_B), budget / len(weights_B))
    rounded: NDArray[np.int32] = np.rint(shares).astype(np.int32)
    return rounded


class CuresRefQuota(Quota):
    """σ at the raw rate of the prompt's own rollouts, every share rounded by itself.

    Two things the released code does are not possible in a service: shares of zero are raised to `min`,
    and a sum above the budget is cut back, largest quota first. A sum below it stays below.
    """

    min: int = Field(default=1, ge=1, le=4096)
    """Least rollouts per prompt."""

    uses_gradient_norms: ClassVar[bool] = True
    exact: ClassVar[bool] = False

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """σ at k/n; at 1/2 for a prompt without rollouts, which the released pilot never meets."""
        right = np.asarray(view.successes, dtype=np.float64)
        total = right + np.asarray(view.failures, dtype=np.float64)
        rates = np.where(total > 0, right / np.maximum(total, 1e-30), 0.5)
        return gradient_deviation(rates, view.gradient_norms)

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """Uncorrected shares, within bounds and never above the budget."""
        quotas = np.clip(uncorrected_shares(self.weights(view), budget), self.least, self.most)
        while (excess := int(quotas.sum()) - budget) > 0:
            largest = np.flatnonzero(quotas == quotas.max())[::-1]
            quotas[largest[:excess]] -= 1
        return quotas.astype(np.int32)
