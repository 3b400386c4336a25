"""VCRL's filter: train on groups of high reward variance only (arXiv 2509.19803)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from sampler_service.curriculum.proposals.vcrl import group_variance_score
from sampler_service.curriculum.stopping.base import DONE, DROP, Decision, SlotTallies, Stopping

__all__ = ["VarianceFloor"]


class VarianceFloor(Stopping):
    """Rolls out the quota once; keeps the group iff its variance score is at least κ."""

    asks_for_more: ClassVar[bool] = False

    threshold: float = Field(default=0.8, ge=0, le=1)
    """κ after the first steps."""
    early_threshold: float = Field(default=0.3, ge=0, le=1)
    """κ during them."""
    early_steps: int = Field(default=20, ge=0)
    """How many policy steps are the first."""

    def decide(self, tallies: SlotTallies) -> Decision:
        """DONE or DROP."""
        kappa = self.early_threshold if tallies.policy_step < self.early_steps else self.threshold
        scores = group_variance_score(tallies.positives, tallies.positives + tallies.negatives)
        dropped = scores < kappa
        return Decision(
            np.where(dropped, DROP, DONE).astype(np.uint8),
            np.zeros(len(dropped), dtype=np.int32),
            np.where(dropped, 0, tallies.positives).astype(np.int32),
            np.where(dropped, 0, tallies.negatives).astype(np.int32),
        )
