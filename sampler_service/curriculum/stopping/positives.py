"""Reinforce-Ada, sequential until enough positives (arXiv 2510.04996)."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.stopping.base import DONE, SAMPLE_MORE, Decision, SlotTallies, Stopping

__all__ = ["Positives"]


class Positives(Stopping):
    """Rounds of `round` until `wanted` right rollouts are there, at most `max_rounds`; all are kept."""

    round: int = Field(default=8, ge=1, le=4096)
    """r: rollouts per round."""
    wanted: int = Field(default=1, ge=1, le=4096)
    """k: 1 in the authors' code, 4 in their write-up."""
    max_rounds: int = Field(default=4, ge=1, le=256)
    """Rounds per prompt, the first included."""

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        if self.wanted > self.round * self.max_rounds:
            raise ValueError(
                f"wanted = {self.wanted} must not exceed round * max_rounds = {self.round * self.max_rounds}"
            )
        return self

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """One round for everyone."""
        return np.full(len(quotas), self.round, dtype=np.int32)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """Every prompt to its last round."""
        return len(quotas) * self.round * self.max_rounds

    def decide(self, tallies: SlotTallies) -> Decision:
        """More while positives are short."""
        more = (tallies.positives < self.wanted) & (tallies.rounds < self.max_rounds)
        return Decision(
            np.where(more, SAMPLE_MORE, DONE).astype(np.uint8),
            np.where(more, self.round, 0).astype(np.int32),
            tallies.positives.astype(np.int32),
            tallies.negatives.astype(np.int32),
        )
