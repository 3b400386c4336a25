"""Drop groups whose rewards are all equal (DAPO's dynamic sampling, arXiv 2503.14476)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from sampler_service.curriculum.stopping.base import DONE, DROP, Decision, SlotTallies, Stopping

__all__ = ["ZeroVariance"]


class ZeroVariance(Stopping):
    """Rolls out the quota once and drops the group when its rewards are exactly equal.

    The batch is refilled by drawing again, at most `max_gen_rounds` times; when that is exhausted, training
    goes on with what there is. `oversample` draws some of the refill at once.
    """

    asks_for_more: ClassVar[bool] = False

    max_gen_rounds: int = Field(default=10, ge=1, le=1000)
    """Batches a trainer draws at most to fill one update."""
    oversample: float = Field(default=1.0, ge=1, le=32)
    """Prompts to draw per prompt asked for."""

    @property
    def candidate_factor(self) -> float:
        """As `oversample` says."""
        return self.oversample

    def decide(self, tallies: SlotTallies) -> Decision:
        """DONE or DROP."""
        dropped = np.asarray(tallies.all_equal)
        return Decision(
            np.where(dropped, DROP, DONE).astype(np.uint8),
            np.zeros(len(dropped), dtype=np.int32),
            np.where(dropped, 0, tallies.positives).astype(np.int32),
            np.where(dropped, 0, tallies.negatives).astype(np.int32),
        )
