"""A drawn batch, before it is granted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.views import PromptView

__all__ = ["BatchPlan", "plan_of"]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """A drawn batch, not yet granted; arrays have one entry per slot."""

    rows: NDArray[np.int32]
    quotas: NDArray[np.int32]
    """Rollouts of the first round."""
    budget: int
    """Rollouts of all rounds."""
    pass_rates: NDArray[np.float64]
    pass_rate_stddevs: NDArray[np.float64]
    baselines: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    sources: NDArray[np.uint8]
    notes: list[str]
    epoch: int


def plan_of(
    view: PromptView,
    quotas: NDArray[np.int32],
    budget: int,
    probabilities: NDArray[np.float64],
    sources: NDArray[np.uint8],
    notes: list[str],
    epoch: int,
) -> BatchPlan:
    """A plan for the prompts of `view`, with what is believed of them."""
    return BatchPlan(
        rows=view.rows.astype(np.int32),
        quotas=quotas,
        budget=budget,
        pass_rates=view.pass_rates,
        pass_rate_stddevs=view.pass_rate_stddevs,
        baselines=view.pass_rates,
        probabilities=probabilities,
        sources=sources,
        notes=notes,
        epoch=epoch,
    )
