"""No decay: lifetime counts."""

from __future__ import annotations

from typing import ClassVar

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["NoDecay"]


class NoDecay(Decay):
    """Lifetime counts."""

    ages: ClassVar[bool] = False

    def at_visit(self, times: VisitTimes) -> float:
        """Nothing ages."""
        return 1.0
