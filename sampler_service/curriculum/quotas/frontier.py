"""Our own: the knapsack of arXiv 2509.25849 in expectation over the posterior."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.beta_moments import beta_moments
from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.views import PromptView

__all__ = ["FrontierQuota", "largest_marginals"]


def largest_marginals(gains_BK: NDArray[np.float64], least: int, extra: int) -> NDArray[np.int32]:
    """Greedy allotment: `extra` units to the largest gains. Exact when every row's gains fall.

    Args:
        gains_BK: gain of raising slot i from least + j to least + j + 1.
        least: units every slot has already.
        extra: units to give, at most B·K.

    O(B·K): a partition finds the threshold, no heap.
    """
    slots, steps = gains_BK.shape
    quotas = np.full(slots, least, dtype=np.int32)
    if extra <= 0 or steps == 0:
        return quotas
    if extra >= slots * steps:
        return quotas + np.int32(steps)
    # Rounding must not make a gain exceed the one before it: a prefix of every row is taken.
    falling = np.minimum.accumulate(gains_BK, axis=1)
    flat = falling.ravel()
    threshold = np.partition(flat, flat.size - extra)[flat.size - extra]
    quotas += (falling > threshold).sum(axis=1).astype(np.int32)
    missing = extra - int((quotas - least).sum())
    ties = (falling == threshold).sum(axis=1)
    # Ties one at a time to the slot with the fewest rollouts, so that equal prompts get equal quotas.
    while missing > 0:
        open_ = np.flatnonzero(ties > 0)
        order = open_[np.argsort(quotas[open_], kind="stable")]
        fewest = quotas[order] == quotas[order[0]]
        taken = order[fewest][:missing]
        quotas[taken] += 1
        ties[taken] -= 1
        missing -= len(taken)
    return quotas


class FrontierQuota(Quota):
    """Maximises Σ E[(1 − p^n − (1−p)^n) · p(1−p)^w] over the posterior, Σ n = budget.

    The n-th rollout's gain is E[(p^n(1−p) + (1−p)^n p) · p(1−p)^w], which falls with n, so greedy is
    optimal. The expectation replaces a plug-in p̂: uncertain prompts keep a share. Moments of the Beta
    come from the recurrence E[p^(n+1)(1−p)^c] = E[p^n(1−p)^c] · (α+n)/(α+β+n+c).
    """

    hardness: float = Field(default=2.0, ge=0, le=4)
    """w: 2 is the knapsack paper's value p(1−p)², which prefers hard prompts; 1 treats both ends alike."""

    def allot(self, view: PromptView, budget: int) -> NDArray[np.int32]:
        """Greedy on expected marginal gains."""
        extra = budget - len(view) * self.least
        return largest_marginals(self._gains(view.alphas, view.betas), self.least, extra)

    def _gains(self, alphas: NDArray[np.float64], betas: NDArray[np.float64]) -> NDArray[np.float64]:
        """Shape (B, most − least): expected gain of rollout n + 1 for n = least …"""
        w = self.hardness
        a, b = alphas[:, None], betas[:, None]
        right = _power_moments(a, b, 1.0, 1.0 + w, self.least, self.most)
        return right + _power_moments(b, a, w, 2.0, self.least, self.most)


def _power_moments(
    a: NDArray[np.float64], b: NDArray[np.float64], i: float, j: float, least: int, most: int
) -> NDArray[np.float64]:
    """E[x^(n+i) (1−x)^j] for n = least … most − 1, x ~ Beta(a, b); along a row by recurrence."""
    first = beta_moments(a, b, least + i, j)
    n = np.arange(least, most - 1, dtype=np.float64)
    ratios = (a + n + i) / (a + b + n + i + j)
    moments: NDArray[np.float64] = np.concatenate([first, first * np.cumprod(ratios, axis=1)], axis=1)
    return moments[:, : most - least]
