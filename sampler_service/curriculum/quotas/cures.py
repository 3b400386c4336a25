"""CurES: rollouts in proportion to the standard deviation of the gradient (arXiv 2510.01037)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.views import GradientNorms, PromptView

__all__ = ["CuresQuota", "gradient_deviation"]


def gradient_deviation(p: NDArray[np.float64], norms: GradientNorms | None) -> NDArray[np.float64]:
    """σ with σ² = p(1−p)²·E₊‖g‖² + p²(1−p)·E₋‖g‖² − p²(1−p)²·(E₊‖g‖ − E₋‖g‖)².

    A norm nobody sent counts as 1; without any, σ = √(p(1−p)).
    """
    q = 1.0 - p
    if norms is None:
        return np.sqrt(p * q)

    def or_one(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.isnan(values), 1.0, values)

    gap = or_one(norms.mean_right) - or_one(norms.mean_wrong)
    variance = (
        p * q * q * or_one(norms.square_right)
        + p * p * q * or_one(norms.square_wrong)
        - p * p * q * q * gap * gap
    )
    deviation: NDArray[np.float64] = np.sqrt(np.maximum(variance, 0.0))
    return deviation


class CuresQuota(Quota):
    """Weight σ of the prompt's gradient; √(p(1−p)) when the trainer sends no norms."""

    uses_gradient_norms: ClassVar[bool] = True

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """σ at the posterior mean."""
        return gradient_deviation(view.pass_rates, view.gradient_norms)
