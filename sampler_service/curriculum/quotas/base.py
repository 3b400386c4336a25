"""The protocol of a quota."""

from __future__ import annotations

from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.quotas.rounding import apportion
from sampler_service.curriculum.views import PromptView

__all__ = ["Quota"]


class Quota(Part):
    """Shares a batch's rollouts among its prompts.

    Methods that share in proportion to a weight override `weights`; others override `allot`.
    """

    min: int = Field(default=2, ge=1, le=4096)
    """Least rollouts per prompt. One rollout is a group of one: no advantage."""
    max: int = Field(default=32, ge=1, le=4096)
    """Most rollouts per prompt."""

    uses_gradient_norms: ClassVar[bool] = False
    varies: ClassVar[bool] = True
    """Tells prompts apart."""
    exact: ClassVar[bool] = True
    """Quotas sum to the budget; else they may stay below it."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min > self.max:
            raise ValueError("min must not exceed max")
        return self

    @property
    def least(self) -> int:
        """Least rollouts per prompt."""
        return self.min

    @property
    def most(self) -> int:
        """Most rollouts per prompt."""
        return self.max

    def weights(self, view: PromptView) -> NDArray[np.float64]:
        """Non-negative; equal where the method does not tell prompts apart."""
        return np.ones(len(view))

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """Rollouts per prompt.

        Args:
            budget: within [B·least, B·most]; the caller has seen to it.

        Returns:
            int32, shape (B,), within [least, most], summing to the budget (at most to it where not `exact`).
        """
        return apportion(self.weights(view), budget, self.least, self.most)
