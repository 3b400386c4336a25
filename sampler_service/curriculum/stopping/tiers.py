"""Tiers of effort: a few rollouts for all, many for the unsolved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from sampler_service.curriculum.stopping.base import DONE, SAMPLE_MORE, Decision, SlotTallies, Stopping

__all__ = ["Tiers"]


class Tiers(Stopping):
    """4 rollouts, then 32 for prompts without a right one, then 256. All are kept."""

    sizes: tuple[int, ...] = Field(default=(4, 32, 256), min_length=1, max_length=8)
    """Rollouts of each tier, added to those before."""

    @field_validator("sizes")
    @classmethod
    def _positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 1 or max(value) > 65536:
            raise ValueError("every tier must have 1 to 65536 rollouts")
        return value

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """The first tier for everyone."""
        return np.full(len(quotas), self.sizes[0], dtype=np.int32)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """Every prompt through every tier."""
        return len(quotas) * sum(self.sizes)

    def decide(self, tallies: SlotTallies) -> Decision:
        """The next tier for what is unsolved."""
        more = (tallies.positives == 0) & (tallies.rounds < len(self.sizes))
        sizes = np.asarray(self.sizes)[np.minimum(tallies.rounds, len(self.sizes) - 1)]
        return Decision(
            np.where(more, SAMPLE_MORE, DONE).astype(np.uint8),
            np.where(more, sizes, 0).astype(np.int32),
            tallies.positives.astype(np.int32),
            tallies.negatives.astype(np.int32),
        )
