"""The two kinds of proposal: weights that a sum tree draws from, and scores of which the best are taken."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Proposal", "ScoredProposal", "WeightedProposal"]


class Proposal(Part):
    """Chooses prompts."""


class WeightedProposal(Proposal):
    """Draws prompts in proportion to a weight that depends on the prompt's own columns.

    O(batch log prompts) per batch: weights live in a sum tree, and only rows that changed are weighed again.
    """

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Non-negative and finite; the whole pool is weighed again when the policy advances."""
        raise TypeError(f"{type(self).__name__} does not say how it weighs prompts")


class ScoredProposal(Proposal):
    """Takes the prompts of highest score; scores may be random or depend on the whole pool.

    O(prompts) per batch, or O(candidates) when a candidate pool is drawn first.
    """

    candidates_per_prompt: int = Field(default=0, ge=0)
    """Score only a uniform sample of this many candidates per prompt of the batch; 0 scores all."""

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """Higher is better; −inf never. Ties go to the lower row unless the score breaks them."""
        raise TypeError(f"{type(self).__name__} does not say how it scores prompts")
