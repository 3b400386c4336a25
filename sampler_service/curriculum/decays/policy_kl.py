"""Forget as fast as the policy moves (SPO, arXiv 2509.13232)."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["PolicyKL"]


class PolicyKL(Decay):
    """λ = clip(2^(−D / half_life), least, most), D = KL moved since the prompt's last visit."""

    half_life: float = Field(default=0.06, gt=0)
    """KL after which evidence counts half."""
    least: float = Field(default=0.875, gt=0, le=1)
    """No visit forgets more than this."""
    most: float = Field(default=0.96, gt=0, le=1)
    """No visit forgets less than this."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.least > self.most:
            raise ValueError("least must not exceed most")
        return self

    def at_visit(self, times: VisitTimes) -> NDArray[np.float64]:
        """The factor for the movement since the last visit."""
        movement = times.moment.movement
        last = np.asarray(times.last_steps, dtype=np.int64)
        distance = np.zeros(len(last)) if movement is None else movement[-1] - movement[last]
        factors: NDArray[np.float64] = np.clip(2.0 ** (-distance / self.half_life), self.least, self.most)
        return factors
