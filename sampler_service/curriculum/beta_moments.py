"""Moments of Beta posteriors, over arrays."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["beta_moments"]

_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_HALF_LOG_TAU = 0.5 * math.log(math.tau)


def beta_moments(
    alphas: NDArray[np.float64],
    betas: NDArray[np.float64],
    right: NDArray[np.float64] | float,
    wrong: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """E[p^right (1−p)^wrong] under Beta(α, β): B(α + right, β + wrong) / B(α, β). Shapes broadcast.

    The relative error is below 1e-13 (α + β), or 1e-12 where that is more: rounding of ln Γ. Arguments
    are below 1e30, powers at least 0; α or β may be 0, an outcome that never comes, if its power is not.
    """
    totals = alphas + betas
    over = np.broadcast_arrays(alphas + right, betas + wrong, totals)
    under = np.broadcast_arrays(alphas, betas, totals + right + wrong)
    # One call for all six: for a batch of prompts the time goes into calls, not into numbers.
    with np.errstate(divide="ignore"):
        logs = _log_gamma(np.stack(np.broadcast_arrays(*over, *under)))
    moments: NDArray[np.float64] = np.exp((logs[0] - logs[3]) + (logs[1] - logs[4]) + (logs[2] - logs[5]))
    return moments


def _log_gamma(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Γ(x) = Γ(x + 8) / (x (x+1) … (x+7)), and Stirling's series for Γ(x + 8), exact to the last bits."""
    y = x * (x + 7.0)
    product = y * (y + 6.0) * (y + 10.0) * (y + 12.0)
    z = x + 8.0
    inverse_squared = 1.0 / (z * z)
    series = inverse_squared * _SERIES[-1]
    for coefficient in _SERIES[-2:0:-1]:
        series = (series + coefficient) * inverse_squared
    series += _SERIES[0]
    value: NDArray[np.float64] = (z - 0.5) * np.log(z) - z + _HALF_LOG_TAU + series / z - np.log(product)
    return value
