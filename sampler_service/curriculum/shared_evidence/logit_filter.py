"""Assumed-density filtering of a logit model of pass rates: the arithmetic, apart from any storage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.arrays import are_distinct
from sampler_service.curriculum.posterior import GroupCounts

__all__ = ["LogitBelief", "beta_of_logit", "merge_groups", "observe_binomials", "observe_groups"]

Floats = NDArray[np.float64]

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(15)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()
# Prompts integrated at a time: their nodes fit the processor's cache.
_BLOCK: Final = 1024
_LOGIT_LIMIT: Final = 30.0
_NEWTON_STEPS: Final = 40
_TOLERANCE: Final = 1e-4
# Standard deviations by which the other groups must move an expected logit for it to be looked at again.
_SURPRISE: Final = 0.2
# The second pass reads every group in the light of the others; a third changed nothing in the simulations.
_PASSES: Final = 2
# A Beta needs some width: pseudo-counts stay within these.
_LEAST_STRENGTH: Final = 1e-3
_MOST_STRENGTH: Final = 1e4


@dataclass(frozen=True, slots=True)
class LogitBelief:
    """Independent Gaussians over what makes up the logits θ·x_i + c_{k(i)} + u_i of B prompts."""

    theta_F: Floats
    covariance_FF: Floats
    cluster_means_K: Floats
    cluster_variances_K: Floats
    """Positive. No clusters: K = 0."""
    own_means_B: Floats
    own_variances_B: Floats
    """Of u; 0 where the prompt has no offset of its own."""


def observe_binomials(
    means_B: Floats,
    variances_B: Floats,
    successes_B: Floats,
    rollouts_B: Floats,
    start_B: Floats | None = None,
    tolerance: float = _TOLERANCE,
) -> tuple[Floats, Floats]:
    """Means and variances of logits with priors N(mean, variance) after `successes` of `rollouts`, each by itself.

    Laplace: the posterior's mode by damped Newton, and the curvature there. The posterior is log-concave,
    so it converges, and both stay finite for 0 of n and n of n.

    Args:
        start_B: near the modes, if that is known.
        tolerance: stops after a step no longer than this; the error left is of its square.
    """
    precisions = 1.0 / variances_B
    if start_B is None:
        # Between the prior and the smoothed empirical logit.
        rates = (successes_B + 0.5) / (rollouts_B + 1.0)
        weights = rollouts_B * rates * (1.0 - rates)
        z = (means_B * precisions + np.log(rates / (1.0 - rates)) * weights) / (precisions + weights)
    else:
        z = start_B.copy()
    for _ in range(_NEWTON_STEPS):
        p = _sigmoid(z)
        curvature = rollouts_B * p * (1.0 - p) + precisions
        step = (successes_B - rollouts_B * p - (z - means_B) * precisions) / curvature
        z += np.minimum(np.maximum(step, -2.0), 2.0)
        if np.abs(step).max(initial=0.0) < tolerance:
            break
    p = _sigmoid(z)
    return z, 1.0 / (rollouts_B * p * (1.0 - p) + precisions)


def merge_groups(rows_G: NDArray[Any], counts: GroupCounts) -> tuple[NDArray[np.int64], Floats, Floats]:
    """Different rows that have outcomes, with their successes and rollouts: groups of one prompt are summed."""
    some = counts.rollouts > 0
    rows = np.asarray(rows_G)[some].astype(np.int64)
    successes = counts.successes[some].astype(np.float64)
    rollouts = counts.rollouts[some].astype(np.float64)
    if are_distinct(rows):
        return rows, successes, rollouts
    distinct, of = np.unique(rows, return_inverse=True)
    sums = [np.bincount(of, weights).astype(np.float64) for weights in (successes, rollouts)]
    return distinct, sums[0], sums[1]


def observe_groups(
    belief: LogitBelief,
    features_BF: Floats,
    clusters_B: NDArray[np.int64],
    successes_B: Floats,
    rollouts_B: Floats,
) -> LogitBelief:
    """The belief after B groups of different prompts, taken in together.

    Each group's likelihood becomes a Gaussian (Laplace), seen from what all other groups say about its
    prompt (expectation propagation); given those, θ and c are exact. Correlations between θ, c and u are dropped
    at the end. O(B · F² + F³), whatever the number of clusters.

    Args:
        clusters_B: index into the belief's clusters, −1 for none.
        rollouts_B: positive.
    """
    count, clustered = len(belief.cluster_means_K), clusters_B >= 0
    inside = np.flatnonzero(clustered)
    of = clusters_B[inside]
    own, spread = belief.own_means_B, belief.own_variances_B
    prior_precision = np.linalg.inv(belief.covariance_FF)
    prior_pull = prior_precision @ belief.theta_F
    # What is known of θ·x + c before: the first pass sees every group from there.
    means = features_BF @ belief.theta_F
    variances = np.maximum(((features_BF @ belief.covariance_FF) * features_BF).sum(axis=1), 0.0)
    means[inside] += belief.cluster_means_K[of]
    variances[inside] += belief.cluster_variances_K[of]
    widest = np.maximum(variances, 1e-12)
    theta, covariance = belief.theta_F, belief.covariance_FF
    c_means, c_variances = belief.cluster_means_K, belief.cluster_variances_K
    mode: Floats | None = None
    for number in range(_PASSES):
        total = variances + spread + 1e-9
        mean = means + own
        mode, left = observe_binomials(mean, total, successes_B, rollouts_B, mode)
        # The likelihood as a Gaussian in the logit: precision w, and w times where it is centred.
        w = np.maximum(1.0 / left - 1.0 / total, 0.0)
        centre = mode / left - mean / total
        # The same as an observation of θ·x + c alone, u integrated out.
        r = w / (1.0 + w * spread)
        pull = (centre - w * own) / (1.0 + w * spread)
        weighted = features_BF * r[:, None]
        precision = prior_precision + features_BF.T @ weighted
        drive = prior_pull + features_BF.T @ pull
        if count:
            diagonal = 1.0 / belief.cluster_variances_K + np.bincount(of, r[inside], count)
            c_drive = belief.cluster_means_K / belief.cluster_variances_K + np.bincount(
                of, pull[inside], count
            )
            width = features_BF.shape[1]
            cells = (of[:, None] * width + np.arange(width)).ravel()
            cross = np.bincount(cells, weighted[inside].ravel(), count * width).reshape(count, width)
            # The clusters' block is diagonal: eliminated, only θ is left to solve for.
            reduced = cross / diagonal[:, None]
            precision = precision - cross.T @ reduced
            drive = drive - reduced.T @ c_drive
        covariance = np.linalg.inv(precision)
        covariance = (covariance + covariance.T) / 2.0
        theta = covariance @ drive
        if count:
            c_means = c_drive / diagonal - reduced @ theta
            coupling = reduced @ covariance
            c_variances = 1.0 / diagonal + (coupling * reduced).sum(axis=1)
        if number == _PASSES - 1:
            break
        means = features_BF @ theta
        variances = ((features_BF @ covariance) * features_BF).sum(axis=1)
        if count:
            means[inside] += c_means[of]
            variances[inside] += c_variances[of] - 2.0 * (coupling[of] * features_BF[inside]).sum(axis=1)
        # Without the group itself: it must not be counted twice.
        variances = np.minimum(np.maximum(variances, 1e-12), widest)
        others = np.maximum(1.0 / variances - r, 1.0 / widest)
        means = (means / variances - pull) / others
        variances = 1.0 / others
        if (np.abs(means + own - mean) < _SURPRISE * np.sqrt(total)).all():
            break  # As it mostly is, once θ and c are known: the others say nothing new.
    assert mode is not None
    gain = (mode - mean) / total
    shrink = (total - left) / (total * total)
    return LogitBelief(
        theta,
        covariance,
        c_means,
        c_variances,
        own + spread * gain,
        np.maximum(spread - spread * spread * shrink, 0.0),
    )


def beta_of_logit(means_N: Floats, variances_N: Floats) -> tuple[Floats, Floats]:
    """α and β of the Beta with the same E[p] and E[p(1−p)] as p = σ(z), z ~ N(mean, variance).

    By Gauss–Hermite with 15 nodes. Matching E[p(1−p)] keeps what `frontier` ranks by exact.
    """
    mean, spread = np.empty_like(means_N), np.empty_like(means_N)
    for start in range(0, len(means_N), _BLOCK):
        block = slice(start, start + _BLOCK)
        deviations = np.sqrt(np.maximum(variances_N[block], 0.0))
        p = _sigmoid(means_N[block] + _NODES[:, None] * deviations)
        mean[block] = _WEIGHTS @ p
        spread[block] = _WEIGHTS @ (p * (1.0 - p))
    # E[p(1−p)] = m(1−m)·s/(s+1) for a Beta of mean m and strength s = α + β.
    left = np.maximum(mean * (1.0 - mean) - spread, 1e-300)
    strength = np.clip(spread / left, _LEAST_STRENGTH, _MOST_STRENGTH)
    return mean * strength, (1.0 - mean) * strength


def _sigmoid(z: Floats) -> Floats:
    # In place: these arrays are what most of the time goes into.
    result = np.maximum(z, -_LOGIT_LIMIT)
    np.minimum(result, _LOGIT_LIMIT, out=result)
    np.negative(result, out=result)
    np.exp(result, out=result)
    result += 1.0
    np.reciprocal(result, out=result)
    return result
