"""Estimates start anew at each iteration (CurES, arXiv 2510.01037)."""

from __future__ import annotations

from typing import ClassVar

from sampler_service.curriculum.decays.base import Decay, VisitTimes

__all__ = ["IterationReset"]


class IterationReset(Decay):
    """All estimates back to the prior when an iteration starts; nothing ages within one."""

    resets_on_iteration: ClassVar[bool] = True
    ages: ClassVar[bool] = False

    def at_visit(self, times: VisitTimes) -> float:
        """Nothing ages within an iteration."""
        return 1.0
