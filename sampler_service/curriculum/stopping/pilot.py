"""Pilot-Commit: many candidates, a pilot for each, the rest of the budget for those in a band
(arXiv 2605.26606)."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.stopping.base import (
    DONE,
    DROP,
    SAMPLE_MORE,
    Decision,
    SlotTallies,
    Stopping,
)

__all__ = ["Pilot"]


class Pilot(Stopping):
    """`candidates` times the prompts asked for get `pilot` rollouts; commit iff low ≤ p̂ ≤ high.

    Committed prompts get `commit` more, as far as the budget goes, the nearest to even first; the others
    are dropped. A candidate whose pilot is older than `max_age_steps` policy steps is dropped too.
    """

    candidates: float = Field(default=3.0, ge=1, le=32)
    """Candidates per prompt asked for."""
    pilot: int = Field(default=16, ge=1, le=4096)
    """Rollouts of the pilot."""
    commit: int = Field(default=48, ge=1, le=4096)
    """Rollouts after it."""
    low: float = Field(default=0.125, ge=0, le=1)
    """Least pass rate to commit to."""
    high: float = Field(default=0.75, ge=0, le=1)
    """Largest pass rate to commit to."""
    max_age_steps: int = Field(default=4, ge=0)
    """Policy steps after which a pilot says nothing any more."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"low = {self.low} must not exceed high = {self.high}")
        if math.ceil(self.low * self.pilot) > math.floor(self.high * self.pilot):
            raise ValueError(
                f"no pilot of {self.pilot} rollouts can have a pass rate in [{self.low}, {self.high}]"
            )
        return self

    @property
    def candidate_factor(self) -> float:
        """Candidates per prompt asked for."""
        return self.candidates

    def first_round(self, quotas: NDArray[np.int32]) -> NDArray[np.int32]:
        """The pilot."""
        return np.full(len(quotas), self.pilot, dtype=np.int32)

    def most_rollouts(self, quotas: NDArray[np.int32]) -> int:
        """A pilot for every candidate, and as many commitments as prompts were asked for."""
        return len(quotas) * self.pilot + round(len(quotas) / self.candidates) * self.commit

    def decide(self, tallies: SlotTallies) -> Decision:
        """After the pilot commit or drop; after the commitment, done."""
        outcomes = np.maximum(tallies.positives + tallies.negatives, 1)
        rate = tallies.positives / outcomes
        piloted = tallies.rounds == 1
        fresh = tallies.steps_since_grant <= self.max_age_steps
        more = piloted & (rate >= self.low) & (rate <= self.high) & fresh
        actions = np.where(more, SAMPLE_MORE, np.where(piloted, DROP, DONE))
        dropped = actions == DROP
        return Decision(
            actions.astype(np.uint8),
            np.where(more, self.commit, 0).astype(np.int32),
            np.where(dropped, 0, tallies.positives).astype(np.int32),
            np.where(dropped, 0, tallies.negatives).astype(np.int32),
            priorities=-np.abs(rate - 0.5),
            # Where there never was a budget for commitments, the pilot is what there is to train on.
            unfunded=DONE if tallies.single_round else DROP,
        )
