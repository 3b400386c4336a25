"""A short memory at visits and a long one in between (after VADE, arXiv 2511.18902; our reading).

VADE names a prior decay on two scales and publishes no constants: these are ours.
"""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["TwoScale"]


class TwoScale(Decay):
    """λ_s at each visit; λ_b for every policy step in which the prompt was not sampled."""

    visit_factor: float = Field(default=0.9, gt=0, le=1)
    """λ_s."""
    step_factor: float = Field(default=0.995, gt=0, le=1)
    """λ_b, at least λ_s."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.step_factor < self.visit_factor:
            raise ValueError("step_factor must be at least visit_factor")
        return self

    def on_read(self, times: VisitTimes) -> NDArray[np.float64]:
        """λ_b^Δ, Δ = whole policy steps since the last visit in which the prompt was not sampled."""
        idle = times.moment.policy_step - np.asarray(times.last_steps, dtype=np.int64) - 1
        powers: NDArray[np.float64] = self.step_factor ** np.maximum(idle, 0).astype(np.float64)
        return powers

    def at_visit(self, times: VisitTimes) -> NDArray[np.float64]:
        """λ_s, after the idle steps."""
        return self.visit_factor * self.on_read(times)
