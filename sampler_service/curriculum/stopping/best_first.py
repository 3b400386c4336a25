"""Our own pilot: a few rollouts for some more prompts than asked for, the rest of the budget to the best."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.stopping.base import DONE, SAMPLE_MORE, Decision, SlotTallies, Stopping

__all__ = ["BestFirst"]


class BestFirst(Stopping):
    """`pilot` rollouts for `candidates` times the prompts; then groups of `commit` by updated E[p(1−p)].

    Waits for the whole batch's pilots so as to compare them. Nothing is dropped: a pilot is evidence and,
    when it is mixed, a gradient. Ours.
    """

    compares_prompts: ClassVar[bool] = True
    waits_for_batch: ClassVar[bool] = True

    candidates: float = Field(default=1.25, ge=0.125, le=32)
    """Candidates per prompt asked for. Below 1 the batch has fewer prompts, and the best more rollouts."""
    pilot: int = Field(default=4, ge=1, le=4096)
    """Rollouts of the pilot."""
    commit: int = Field(default=8, ge=1, le=4096)
    """Rollouts after it, for the best."""
    rounds: int = Field(default=1, ge=1, le=64)
    """Commitments a prompt may get, one after the other."""

    @property
    def candidate_factor(self) -> float:
        """Candidates per prompt asked for."""
        return self.candidates

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """The pilot."""
        return np.full(len(quotas), self.pilot, dtype=np.int32)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """As many as groups of `commit` for the prompts asked for, and never less than the pilots."""
        return max(round(len(quotas) / self.candidates) * self.commit, len(quotas) * self.pilot)

    def decide(self, tallies: SlotTallies) -> Decision:
        """Everybody asks; the budget funds the best."""
        more = tallies.rounds <= self.rounds
        return Decision(
            np.where(more, SAMPLE_MORE, DONE).astype(np.uint8),
            np.where(more, self.commit, 0).astype(np.int32),
            tallies.positives.astype(np.int32),
            tallies.negatives.astype(np.int32),
            priorities=tallies.expected_variances,
        )
