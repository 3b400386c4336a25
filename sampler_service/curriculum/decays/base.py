"""The protocol of a decay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.views import Moment

__all__ = ["Decay", "VisitTimes"]


@dataclass(frozen=True, slots=True)
class VisitTimes:
    """When some prompts were last visited; one entry per prompt.

    A prompt that was never visited has no evidence to age: what a decay answers for it is unused.
    """

    last_steps: NDArray[Any]
    """Policy step of the last visit."""
    moment: Moment


class Decay(Part):
    """Ages evidence (successes and failures without any prior) by a factor in (0, 1].

    Both functions must use only + − × ÷ and correctly rounded functions where they can: replicas fold
    the same log and must agree to the last bit.
    """

    resets_on_iteration: ClassVar[bool] = False
    """Evidence returns to nothing when an iteration starts."""
    ages: ClassVar[bool] = True
    """Evidence loses weight between iterations."""

    def at_visit(self, times: VisitTimes) -> NDArray[np.float64] | float:
        """Factor applied once, just before a visit's counts are added."""
        raise TypeError(f"{type(self).__name__} does not say how it ages evidence at a visit")

    def on_read(self, times: VisitTimes) -> NDArray[np.float64] | float:
        """Factor that reading at `times.moment` implies; evidence itself stays as it was written.

        A lazy decay must give what decaying at every policy step would have given.
        """
        return 1.0

    def outcome_weights(self, rollouts: NDArray[Any]) -> NDArray[np.float64] | float:
        """How much one outcome of a visit of so many rollouts counts."""
        return 1.0
