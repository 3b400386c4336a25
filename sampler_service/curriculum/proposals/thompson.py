"""Thompson sampling of the pass rate (MoPPS, arXiv 2507.04632; VADE, arXiv 2511.18902)."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.proposals.base import ScoredProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Thompson"]


class Thompson(ScoredProposal):
    """Draws p̃ ~ Beta(α, β) for every prompt and takes the best by an objective of p̃."""

    objective: Literal["target", "info_gain", "variance"] = "target"
    """`target`: smallest (p̃ − target)², MoPPS; `info_gain`: largest p̃(1 − p̃)², VADE; `variance`:
    largest p̃(1 − p̃)."""
    target: float = Field(default=0.5, ge=0, le=1)
    """The pass rate looked for by `target`."""

    def scores(self, view: PromptView, moment: Moment, rng: np.random.Generator) -> NDArray[np.float64]:
        """O(prompts) Beta draws."""
        # Beta(0, ·) is no distribution; evidence without any prior may come to it.
        alphas, betas = np.maximum(view.alphas, 1e-9), np.maximum(view.betas, 1e-9)
        # Two gammas make a Beta, at a quarter of the price where most prompts have a flat posterior.
        right, wrong = rng.standard_gamma(alphas), rng.standard_gamma(betas)
        total = right + wrong
        drawn = np.divide(right, total, out=np.zeros_like(total), where=total > 0)
        if (tiny := np.flatnonzero(total == 0)).size:
            # Both too small for a float: the generator's own Beta works in logarithms there.
            drawn[tiny] = rng.beta(alphas[tiny], betas[tiny])
        return self.objective_of(drawn)

    def objective_of(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """What is maximised, as a function of the drawn pass rate."""
        values: NDArray[np.float64]
        if self.objective == "target":
            values = -((p - self.target) ** 2)
        elif self.objective == "info_gain":
            values = p * (1.0 - p) ** 2
        else:
            values = p * (1.0 - p)
        return values
