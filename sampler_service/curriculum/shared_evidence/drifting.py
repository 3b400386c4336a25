"""A drifting Bayesian logistic regression over prompt features, as a Beta prior (ours)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.shared_evidence.linear_model import coefficients
from sampler_service.curriculum.shared_evidence.logit_filter import LogitBelief, merge_groups, observe_groups
from sampler_service.curriculum.shared_evidence.prompt_features import fit_directions, prompt_features
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["Drifting"]

Floats = NDArray[np.float64]


class Drifting(SharedEvidence):
    """logit p = θ·x + noise; a prompt starts from `strength` pseudo-rollouts at the predicted rate.

    The prompt's own counts are added to that and age by the estimator's decay. `item_response` keeps
    both in one model and did better on the simulated learner.
    """

    uses_embeddings: ClassVar[bool] = True

    strength: float = Field(default=10.0, gt=0)
    """s: pseudo-rollouts of the prediction."""
    prior_variance: float = Field(default=1.0, gt=0)
    """Prior variance of every entry of θ, the intercept's nine times that."""
    noise_variance: float = Field(default=0.5, ge=0)
    """τ²: variance of a prompt's logit around the prediction."""
    drift: float = Field(default=1e-3, ge=0)
    """Variance added to every entry of θ at each policy step."""
    directions: int = Field(default=48, ge=1, le=256)
    """Main directions of the embeddings used as features."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[Floats, Floats]:
        """s·σ(η/√(1 + πv/8)) and what is left of s."""
        features = prompt_features(table, rows, memory)
        theta, covariance = coefficients(memory, self._prior(features.shape[1]))
        variance = np.maximum(((features @ covariance) * features).sum(axis=1), 0.0) + self.noise_variance
        scaled = (features @ theta) / np.sqrt(1.0 + np.pi / 8.0 * variance)
        rate = 1.0 / (1.0 + np.exp(-np.clip(scaled, -30.0, 30.0)))
        return self.strength * rate, self.strength * (1.0 - rate)

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Takes in all groups together; several of one prompt count as one. O(groups · features²)."""
        rows, successes, rollouts = merge_groups(rows, counts)
        if len(rows) == 0:
            return
        fit_directions(table, memory, self.directions)
        features = prompt_features(table, rows, memory)
        none = np.zeros(0)
        prior = LogitBelief(
            *coefficients(memory, self._prior(features.shape[1])),
            none,
            none,
            np.zeros(len(rows)),
            np.full(len(rows), self.noise_variance),
        )
        after = observe_groups(prior, features, np.full(len(rows), -1), successes, rollouts)
        memory["theta"], memory["covariance"] = after.theta_F, after.covariance_FF

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """θ drifts by one step, its variances up to the prior's."""
        if "covariance" not in memory:
            return
        covariance = memory["covariance"].copy()
        diagonal = np.einsum("ii->i", covariance)
        most = np.maximum(self._prior(len(diagonal)), diagonal)
        diagonal[:] = np.minimum(diagonal + self.drift, most)
        memory["covariance"] = covariance

    def _prior(self, size: int) -> Floats:
        prior = np.full(size, self.prior_variance)
        prior[0] *= 9.0
        return prior
