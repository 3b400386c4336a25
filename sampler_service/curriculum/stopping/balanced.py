"""Reinforce-Ada, sequential with balance (arXiv 2510.04996)."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.stopping.base import DONE, SAMPLE_MORE, Decision, SlotTallies, Stopping

__all__ = ["Balanced"]


class Balanced(Stopping):
    """Rounds of `round` until ⌊m/2⌋ right and m − ⌊m/2⌋ wrong rollouts are there, m = `keep`."""

    round: int = Field(default=8, ge=1, le=4096)
    """Rollouts per round."""
    keep: int = Field(default=4, ge=2, le=4096)
    """m: rollouts kept for training."""
    max: int = Field(default=32, ge=1, le=65536)
    """Most rollouts per prompt, all rounds."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.keep > self.max:
            raise ValueError(f"keep = {self.keep} must not exceed max = {self.max}")
        if self.round > self.max:
            raise ValueError(f"round = {self.round} must not exceed max = {self.max}")
        return self

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """One round for everyone: need decides, not the quota."""
        return np.full(len(quotas), self.round, dtype=np.int32)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """Every prompt to its most."""
        return len(quotas) * self.max

    def decide(self, tallies: SlotTallies) -> Decision:
        """More while a side is short and rollouts are left; then a balanced choice of what there is."""
        wanted_right = self.keep // 2
        wanted_wrong = self.keep - wanted_right
        balanced = (tallies.positives >= wanted_right) & (tallies.negatives >= wanted_wrong)
        left = np.maximum(self.max - tallies.granted, 0)
        more = ~balanced & (left > 0)
        right, wrong = keep_balanced(tallies.positives, tallies.negatives, self.keep)
        return Decision(
            np.where(more, SAMPLE_MORE, DONE).astype(np.uint8),
            np.where(more, np.minimum(self.round, left), 0).astype(np.int32),
            right,
            wrong,
        )


def keep_balanced(
    positives: NDArray[np.int64], negatives: NDArray[np.int64], keep: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """min(⌊m/2⌋, pos) right ones, min(m − those, neg) wrong ones, a shortfall filled with right ones."""
    right = np.minimum(keep // 2, positives)
    wrong = np.minimum(keep - right, negatives)
    right = np.minimum(keep - wrong, positives)
    return right.astype(np.int32), wrong.astype(np.int32)
