"""AdaRFT: prompts nearest to a target difficulty that follows the reward (arXiv 2504.05520)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import Memory, ScoredProposal, with_random_ties
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["AdaRft", "moved_target"]


def moved_target(target: float, mean_reward: float, step: float, slope: float, wanted: float) -> float:
    """T ← clip(T + step·tanh(slope·(R̄ − wanted)), 0, 100)."""
    return min(max(target + step * math.tanh(slope * (mean_reward - wanted)), 0.0), 100.0)


class AdaRft(ScoredProposal):
    """Smallest |difficulty − T|; T rises while rewards are above the wanted mean and falls below it.

    Difficulty is 100·(1 − reference pass rate), or of the posterior mean where no reference is known
    (ours). T moves once per policy step, by the mean reward of the step that ended.
    """

    start: float = Field(default=0.0, ge=0, le=100)
    """T before the first step."""
    step: float = Field(default=50.0, gt=0, le=100)
    """η: the most T moves in a step."""
    slope: float = Field(default=2.0, gt=0)
    """α: how soon the most is reached."""
    wanted_reward: float = Field(default=0.5, ge=0, le=1)
    """β: mean reward at which T stays."""

    def advance(self, memory: Memory, moment: Moment) -> None:
        """Moves T."""
        target = moved_target(
            self._target(memory), moment.mean_reward, self.step, self.slope, self.wanted_reward
        )
        memory["target_difficulty"] = np.array([target])

    def _target(self, memory: Mapping[str, NDArray[Any]]) -> float:
        stored = memory.get("target_difficulty")
        return self.start if stored is None else float(stored[0])

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """−|difficulty − T|, ties at random."""
        reference = np.asarray(view.reference_pass_rates, dtype=np.float64)
        p = np.where(np.isnan(reference), view.pass_rates, reference)
        return with_random_ties(-np.abs(100.0 * (1.0 - p) - self._target(moment.memory)), rng)
