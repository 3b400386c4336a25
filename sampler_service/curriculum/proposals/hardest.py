"""The hardest tenth by a reference model (arXiv 2508.14094)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import ScoredProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Hardest"]


class Hardest(ScoredProposal):
    """Uniform among the ⌈f·N⌉ prompts of lowest reference pass rate, ties in the order they were added.

    Prompts without a reference rate are not among them. When the pool has none at all, every prompt is.
    """

    needs: ClassVar[tuple[str, ...]] = ("reference_pass_rates",)

    fraction: float = Field(default=0.1, gt=0, le=1)
    """f."""

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """Random among the hardest, −inf for all others. O(prompts)."""
        chance = rng.random(len(view))
        rates = moment.reference_pass_rates
        if rates is None or np.isnan(rates).all():
            return chance
        count = int(np.ceil(self.fraction * np.count_nonzero(~np.isnan(rates))))
        hardest = np.zeros(len(rates), dtype=np.bool_)
        # NaN sorts last.
        hardest[np.argsort(rates, kind="stable")[:count]] = True
        return np.where(hardest[view.rows], chance, -np.inf)
