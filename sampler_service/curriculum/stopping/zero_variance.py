"""Drop groups whose rewards are all equal (DAPO's dynamic sampling, arXiv 2503.14476)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.stopping.base import DONE, DROP, Decision, SlotTallies, Stopping

__all__ = ["ZeroVariance"]


class ZeroVariance(Stopping):
    """Rolls out the quota once and drops the group when its rewards are exactly equal.

    A budget above one round of groups refills the batch: prompts held back are woken for dropped groups,
    until as many groups are mixed as prompts were asked for, or the budget or `max_gen_rounds` times the
    batch are used up; then training goes on with what there is. `oversample` rolls some of the refill out
    at once.
    """

    refills: ClassVar[bool] = True
    asks_for_more: ClassVar[bool] = False

    max_gen_rounds: int = Field(default=10, ge=1, le=1000)
    """Prompts drawn at most for one batch, as multiples of it."""
    oversample: float = Field(default=1.0, ge=1, le=32)
    """Prompts to draw per prompt asked for."""

    @property
    def candidate_factor(self) -> float:
        """As `oversample` says."""
        return self.oversample

    def reserve(self, prompts: int) -> int:
        """All but the first of `max_gen_rounds` batches."""
        return prompts * (self.max_gen_rounds - 1)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """Every batch of `max_gen_rounds`."""
        return int(quotas.sum()) * self.max_gen_rounds

    def decide(self, tallies: SlotTallies) -> Decision:
        """DONE or DROP."""
        dropped = np.asarray(tallies.all_equal)
        return Decision(
            np.where(dropped, DROP, DONE).astype(np.uint8),
            np.zeros(len(dropped), dtype=np.int32),
            np.where(dropped, 0, tallies.positives).astype(np.int32),
            np.where(dropped, 0, tallies.negatives).astype(np.int32),
        )
