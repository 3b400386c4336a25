"""Beta-Binomial evidence and exponential moving averages, updated for one event at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.table import PromptTable

__all__ = ["GroupCounts", "count_groups", "update_ema", "update_evidence"]


@dataclass(frozen=True, slots=True)
class GroupCounts:
    """What the rollouts of each group came to; one entry per group."""

    rollouts: NDArray[Any]
    """Rollouts that are outcomes."""
    successes: NDArray[Any]
    """How many count as success (a fraction each, when rewards are taken as fractions)."""
    positives: NDArray[np.int64]
    """Rewards strictly above the threshold."""
    reward_sums: NDArray[np.float64]
    reward_means: NDArray[np.float64]
    reward_variances: NDArray[np.float64]
    """Population variance."""
    reward_minima: NDArray[np.float64]
    reward_maxima: NDArray[np.float64]


def count_groups(
    groups_R: NDArray[np.integer[Any]],
    rewards_R: NDArray[np.floating[Any]],
    group_count: int,
    success_threshold: float,
    fractional: bool,
) -> GroupCounts:
    """Sums flat rollouts by group. Sequential sums, so the result does not depend on the processor.

    Args:
        groups_R: the group of each rollout, ascending.
        rewards_R: finite.
        group_count: groups may be empty.
        success_threshold: a success is a reward strictly above it.
        fractional: a success counts as its reward, clipped to [0, 1], instead of as 1.
    """
    rewards = rewards_R.astype(np.float64, copy=False)
    positive = rewards > success_threshold
    n = np.bincount(groups_R, minlength=group_count)
    positives: NDArray[Any] = np.bincount(groups_R, weights=positive, minlength=group_count)
    successes = (
        np.bincount(groups_R, weights=np.clip(rewards, 0.0, 1.0), minlength=group_count)
        if fractional
        else positives
    )
    sums: NDArray[Any] = np.bincount(groups_R, weights=rewards, minlength=group_count)
    safe = np.maximum(n, 1)
    means = sums / safe
    deviations = rewards - means[groups_R]
    variances = np.bincount(groups_R, weights=deviations * deviations, minlength=group_count) / safe
    minima = np.full(group_count, np.inf)
    maxima = np.full(group_count, -np.inf)
    if len(rewards):
        some = np.flatnonzero(n)
        starts = (np.cumsum(n) - n)[some]
        minima[some] = np.minimum.reduceat(rewards, starts)
        maxima[some] = np.maximum.reduceat(rewards, starts)
    return GroupCounts(n, successes, positives.astype(np.int64), sums, means, variances, minima, maxima)


def update_evidence(
    table: PromptTable,
    rows: NDArray[np.integer[Any]],
    counts: GroupCounts,
    decay_factors: NDArray[np.float64] | float,
    outcome_weights: NDArray[np.float64] | float = 1.0,
) -> None:
    """α − α0 ← λ(α − α0) + w·k, β alike. `rows` must be distinct."""
    successes = outcome_weights * counts.successes
    failures = outcome_weights * (counts.rollouts - counts.successes)
    table.successes[rows] = decay_factors * table.successes[rows].astype(np.float64) + successes
    table.failures[rows] = decay_factors * table.failures[rows].astype(np.float64) + failures


def update_ema(
    table: PromptTable,
    rows: NDArray[np.integer[Any]],
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    rate: float,
) -> None:
    """m ← (1 − a)m + a·r̄, v ← (1 − a)v + a·var; the first group sets both. `rows` must be distinct."""
    for column, values in ((table.ema_means, means), (table.ema_variances, variances)):
        old = column[rows].astype(np.float64)
        column[rows] = np.where(np.isnan(old), values, (1.0 - rate) * old + rate * values)
