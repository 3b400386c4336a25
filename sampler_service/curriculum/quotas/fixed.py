"""The same group size for every prompt."""

from __future__ import annotations

from sampler_service.curriculum.quotas.base import Quota

__all__ = ["FixedQuota"]


class FixedQuota(Quota):
    """Weight 1: the budget is shared evenly, remainders to the first slots."""

    min: int = 1
    """Least rollouts per prompt."""
    max: int = 4096
    """Most rollouts per prompt."""
