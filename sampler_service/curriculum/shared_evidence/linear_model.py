"""What models that are linear in a prompt's features share: their coefficients in memory, and what those predict."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.predictors.platt import sigmoid
from sampler_service.curriculum.shared_evidence.base import Memory
from sampler_service.curriculum.shared_evidence.prompt_features import prompt_features
from sampler_service.curriculum.table import PromptTable

__all__ = ["coefficients", "predicted_pseudo_counts"]

Floats = NDArray[np.float64]


def predicted_pseudo_counts(
    table: PromptTable, rows: NDArray[Any] | slice, memory: Memory, strength: float
) -> tuple[Floats, Floats]:
    """`strength` rollouts of each prompt, right and wrong as `memory["weights"]` predict; none while there are none.

    Features that came after the weights were fitted say nothing yet.
    """
    features = prompt_features(table, rows, memory)
    weights = memory.get("weights")
    if weights is None:
        return np.zeros(len(features)), np.zeros(len(features))
    width = min(len(weights), features.shape[1])
    right = strength * sigmoid(features[:, :width] @ weights[:width])
    return right, strength - right


def coefficients(memory: Memory, prior_variances: Floats) -> tuple[Floats, Floats]:
    """θ and its covariance, shapes (features,) and (features, features); the prior for features that are new."""
    theta, covariance = np.zeros(len(prior_variances)), np.diag(prior_variances)
    if "theta" in memory:
        old = min(len(memory["theta"]), len(prior_variances))
        theta[:old] = memory["theta"][:old]
        covariance[:old, :old] = memory["covariance"][:old, :old]
    return theta, covariance
