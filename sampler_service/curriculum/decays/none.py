"""No decay: lifetime counts."""

from __future__ import annotations

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["NoDecay"]


class NoDecay(Decay):
    """Lifetime counts."""

    def at_visit(self, times: VisitTimes) -> float:
        """Nothing ages."""
        return 1.0
