"""DEPO's pre-rollout filter on predicted pass rates, with forced re-probing (arXiv 2602.06375)."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Depo"]


class Depo(WeightedProposal):
    """Uniform among prompts whose predicted pass rate lies in [low, high], once the model has warmed up.

    The authors never look at a filtered prompt again; here it passes after `recheck_steps` without a visit
    (ours), besides the exploration floor.
    """

    low: float = Field(default=0.15, ge=0, le=1)
    """Least predicted pass rate."""
    high: float = Field(default=0.85, ge=0, le=1)
    """Largest predicted pass rate."""
    warmup_steps: int = Field(default=100, ge=0)
    """Policy steps in which every prompt passes."""
    recheck_steps: int = Field(default=50, ge=1)
    """Policy steps without a visit after which a filtered prompt passes once more."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must not exceed high = {self.high}")
        return self

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """The filter."""
        if moment.policy_step < self.warmup_steps:
            return np.ones(len(view))
        waited = moment.policy_step - np.asarray(view.last_steps, dtype=np.int64)
        inside = (view.pass_rates >= self.low) & (view.pass_rates <= self.high)
        return (inside | (waited >= self.recheck_steps)).astype(np.float64)
