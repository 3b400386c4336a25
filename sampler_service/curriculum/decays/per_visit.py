"""Discount at each visit (MoPPS, arXiv 2507.04632; Ada-Est, arXiv 2510.04996)."""

from __future__ import annotations

from pydantic import Field

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["PerVisit"]


class PerVisit(Decay):
    """α ← λ(α − α0) + α0 + k for reported prompts only."""

    factor: float = Field(default=0.9, gt=0, le=1)
    """λ. MoPPS uses 1 or 0.5, Ada-Est 0.9."""

    def at_visit(self, times: VisitTimes) -> float:
        """λ."""
        return self.factor
