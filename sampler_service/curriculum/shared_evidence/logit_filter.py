"""Assumed-density filtering of a logit model of pass rates: the arithmetic, apart from any storage."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["beta_of_logit", "observe_binomial"]

Floats = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
_LOGIT_LIMIT: Final = 30.0
_NEWTON_STEPS: Final = 40
_TOLERANCE: Final = 1e-6
# A Beta needs some width: pseudo-counts stay within these.
_LEAST_STRENGTH: Final = 1e-3
_MOST_STRENGTH: Final = 1e4


def observe_binomial(mean: float, variance: float, successes: float, rollouts: float) -> tuple[float, float]:
    """Mean and variance of a logit with prior N(mean, variance) after `successes` of `rollouts`.

    Laplace: the posterior's mode by damped Newton, and the curvature there. The posterior is log-concave,
    so it converges, and both stay finite for 0 of n and n of n.
    """
    z = mean
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(z)
        step = (successes - rollouts * p - (z - mean) / variance) / (
            rollouts * p * (1.0 - p) + 1.0 / variance
        )
        z += min(max(step, -2.0), 2.0)
        if abs(step) < _TOLERANCE:
            break
    p = _sigmoid(z)
    return z, 1.0 / (rollouts * p * (1.0 - p) + 1.0 / variance)


def beta_of_logit(means_N: Floats, variances_N: Floats) -> tuple[Floats, Floats]:
    """α and β of the Beta with the same E[p] and E[p(1−p)] as p = σ(z), z ~ N(mean, variance).

    By Gauss–Hermite with 15 nodes. Matching E[p(1−p)] keeps what `frontier` ranks by exact.
    """
    deviations = np.sqrt(np.maximum(variances_N, 0.0))
    mean = np.zeros_like(means_N)
    spread = np.zeros_like(means_N)
    for node, weight in zip(_NODES, _WEIGHTS, strict=True):
        p = 1.0 / (1.0 + np.exp(-np.clip(means_N + node * deviations, -_LOGIT_LIMIT, _LOGIT_LIMIT)))
        mean += weight * p
        spread += weight * p * (1.0 - p)
    # E[p(1−p)] = m(1−m)·s/(s+1) for a Beta of mean m and strength s = α + β.
    left = np.maximum(mean * (1.0 - mean) - spread, 1e-300)
    strength = np.clip(spread / left, _LEAST_STRENGTH, _MOST_STRENGTH)
    return mean * strength, (1.0 - mean) * strength


def _sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-min(max(z, -_LOGIT_LIMIT), _LOGIT_LIMIT)))
