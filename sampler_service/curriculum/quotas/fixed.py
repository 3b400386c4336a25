"""The same group size for every prompt."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sampler_service.curriculum.quotas.base import Quota

__all__ = ["FixedQuota"]


class FixedQuota(Quota):
    """Weight 1: the budget is shared evenly, remainders to the first slots."""

    varies: ClassVar[bool] = False

    min: int = Field(default=1, ge=1, le=4096)
    """Least rollouts per prompt."""
    max: int = Field(default=4096, ge=1, le=4096)
    """Most rollouts per prompt."""
