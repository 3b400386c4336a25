"""Platt calibration: a scale and a bias on the logit, fitted to observed rates."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["calibrated", "fit_platt", "logit", "sigmoid"]

Floats = NDArray[np.float64]

_MARGIN: Final = 1e-3
_NEWTON_STEPS: Final = 50


def logit(p: Floats) -> Floats:
    """ln(p/(1−p)) with p held 0.001 away from 0 and 1."""
    safe = np.clip(p, _MARGIN, 1.0 - _MARGIN)
    value: Floats = np.log(safe / (1.0 - safe))
    return value


def sigmoid(z: Floats) -> Floats:
    """1/(1 + e^−z)."""
    value: Floats = 1.0 / (1.0 + np.exp(-np.clip(z, -60.0, 60.0)))
    return value


def fit_platt(
    predicted: Floats, observed: Floats, weights: Floats, ridge: float = 1.0
) -> tuple[float, float]:
    """Scale and bias that minimise the weighted cross-entropy, pulled toward (1, 0) by `ridge`.

    Newton with halved steps; few observations change little.
    """
    z = logit(predicted)
    scale, bias = 1.0, 0.0

    def loss(a: float, b: float) -> float:
        q = np.clip(sigmoid(a * z + b), 1e-12, 1 - 1e-12)
        fit = -(weights * (observed * np.log(q) + (1 - observed) * np.log(1 - q))).sum()
        return float(fit + 0.5 * ridge * ((a - 1.0) ** 2 + b * b))

    current = loss(scale, bias)
    for _ in range(_NEWTON_STEPS):
        q = sigmoid(scale * z + bias)
        residual, curvature = weights * (q - observed), weights * q * (1 - q)
        g_scale, g_bias = (
            float((residual * z).sum()) + ridge * (scale - 1.0),
            float(residual.sum()) + ridge * bias,
        )
        h_ss, h_sb = float((curvature * z * z).sum()) + ridge, float((curvature * z).sum())
        h_bb = float(curvature.sum()) + ridge
        det = h_ss * h_bb - h_sb * h_sb
        d_scale, d_bias = (h_bb * g_scale - h_sb * g_bias) / det, (h_ss * g_bias - h_sb * g_scale) / det
        size = 1.0
        while size > 1e-4 and loss(scale - size * d_scale, bias - size * d_bias) > current:
            size /= 2
        if size <= 1e-4:
            break
        scale, bias = scale - size * d_scale, bias - size * d_bias
        following = loss(scale, bias)
        if current - following < 1e-10:
            break
        current = following
    return scale, bias


def calibrated(predicted: Floats, scale: float, bias: float) -> Floats:
    """σ(scale·logit(p) + bias), within [0, 1]."""
    return sigmoid(scale * logit(predicted) + bias)
