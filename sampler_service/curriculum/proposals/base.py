"""The two kinds of proposal: weights that a sum tree draws from, and scores of which the best are taken."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Memory", "Proposal", "ScoredProposal", "WeightedProposal", "with_random_ties"]


Memory = dict[str, NDArray[Any]]
"""What a proposal remembers, by name; kept in snapshots."""


class Proposal(Part):
    """Chooses prompts.

    A proposal that follows the training over time keeps its state in a `Memory`, which only `observe`
    and `advance` change and which it reads as `moment.memory`.
    """

    def observe(self, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment) -> None:
        """Takes in one counted group per row."""

    def replays(self, rows: NDArray[Any], moment: Moment) -> NDArray[np.bool_] | None:
        """Which of `rows`, in the order they were chosen, come from a bank of earlier prompts; None: none."""
        return None

    def advance(self, memory: Memory, moment: Moment) -> None:
        """The policy has moved by one step; `moment.mean_reward` is that of the step that ended."""

    def diluted(self, moment: Moment) -> float:
        """From 0 to 1: how far the trainer's steps are seen to shrink with groups that are not mixed."""
        return 0.0


class WeightedProposal(Proposal):
    """Draws prompts in proportion to a weight that depends on the prompt's own columns.

    O(batch log prompts) per batch: weights live in a sum tree, and only rows that changed are weighed again.
    """

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Non-negative and finite; the whole pool is weighed again when the policy advances."""
        raise TypeError(f"{type(self).__name__} does not say how it weighs prompts")

    def cluster_balance(self, moment: Moment) -> float:
        """From 0, clusters share a draw by their prompts' weights, to 1, evenly. See `ClusterBalance`."""
        return 0.0


class ScoredProposal(Proposal):
    """Takes the prompts of highest score; scores may be random or depend on the whole pool.

    O(prompts) per batch, or O(candidates) when a candidate pool is drawn first.
    """

    candidates_per_prompt: int = Field(default=0, ge=0)
    """Score only a uniform sample of this many candidates per prompt of the batch; 0 scores all."""

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """Higher is better; −inf never. Ties go to the lower row unless the score breaks them."""
        raise TypeError(f"{type(self).__name__} does not say how it scores prompts")


def with_random_ties(scores: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Scores with equal ones in random order, so that rows added first have no advantage.

    Differences below 1e-9 count as ties.
    """
    return np.round(scores, 9) + 1e-10 * rng.random(len(scores))
