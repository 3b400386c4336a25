"""Integer quotas from real weights: bounded, and exact in sum."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["apportion", "bounded_shares", "round_half_even"]


def apportion(weights_B: NDArray[np.float64], budget: int, least: int, most: int) -> NDArray[np.int32]:
    """Shares of `budget` in proportion to `weights_B`, each within [least, most], exact in sum.

    A share outside its bounds is fixed at the bound and the rest is shared again among the others;
    then largest remainders, ties to the lower slot. Weights that are all zero, or not finite, count as equal.

    Args:
        budget: within [B·least, B·most], else the nearer end is spent.

    Returns:
        int32, shape (B,), summing to the budget within that range.
    """
    count = len(weights_B)
    if count == 0:
        return np.zeros(0, dtype=np.int32)
    budget = int(min(max(budget, count * least), count * most))
    weights = np.where(np.isfinite(weights_B) & (weights_B > 0), weights_B, 0.0)
    if not weights.any():
        weights = np.ones(count)
    if weights.min() == weights.max():
        quotas = np.full(count, budget // count, dtype=np.int32)
        quotas[: budget % count] += 1
        return quotas
    weights = weights / weights.max()
    # So much smaller than the largest that it could only move a share by rounding errors.
    weights[weights < 1e-15] = 0.0
    shares = bounded_shares(weights, budget, least, most)
    quotas = np.clip(np.floor(shares + 1e-9), least, most).astype(np.int64)
    missing = budget - int(quotas.sum())
    while missing > 0:
        open_ = np.flatnonzero(quotas < most)
        # Rounded: what differs by rounding errors only is a tie.
        remainders = np.round((shares - quotas)[open_], 9)
        quotas[open_[np.argsort(-remainders, kind="stable")[:missing]]] += 1
        missing = budget - int(quotas.sum())
    return quotas.astype(np.int32)


def bounded_shares(weights: NDArray[np.float64], budget: int, least: int, most: int) -> NDArray[np.float64]:
    """Real shares c·w clipped to [least, most] with c such that they sum to the budget.

    The sum grows with c, piecewise linearly; c is found between its breakpoints. O(B log B).
    """
    positive = weights > 0
    floor = least * int((~positive).sum())
    w = weights[positive]
    if len(w) == 0 or floor + most * len(w) <= budget:
        # Even with every weighted prompt at its most, something is left: prompts without weight share it.
        shares = np.full(len(weights), float(most))
        rest = budget - most * len(w)
        if (~positive).any():
            shares[~positive] = rest / int((~positive).sum())
        return shares
    if budget <= least * len(weights):
        return np.full(len(weights), float(least))
    breaks = np.sort(np.concatenate([least / w, most / w]))
    low, high = 0, len(breaks) - 1
    while low < high:
        middle = (low + high) // 2
        if np.minimum(np.maximum(breaks[middle] * w, least), most).sum() + floor >= budget:
            high = middle
        else:
            low = middle + 1
    # Between these two breaks the sum is linear: who is free there shows best half way.
    start = breaks[low - 1] if low > 0 else 0.0
    half_way = (start + breaks[low]) / 2 * w
    free = (half_way > least) & (half_way < most)
    fixed = np.where(half_way <= least, least, most)[~free].sum() + floor
    slope = w[free].sum()
    c = (budget - fixed) / slope if slope > 0 else breaks[low]
    shares = np.full(len(weights), float(least))
    shares[positive] = np.clip(c * w, least, most)
    return shares


def round_half_even(shares_B: NDArray[np.float64], budget: int, least: int, most: int) -> NDArray[np.int32]:
    """Rounds half to even within [least, most], then ±1 by the largest residual until the sum is exact.

    Args:
        budget: within [B·least, B·most].
    """
    quotas = np.clip(np.rint(shares_B), least, most).astype(np.int64)
    while (missing := budget - int(quotas.sum())) != 0:
        step = 1 if missing > 0 else -1
        open_ = np.flatnonzero(quotas < most if step > 0 else quotas > least)
        residuals = np.round(step * (shares_B - quotas)[open_], 9)
        quotas[open_[np.argsort(-residuals, kind="stable")[: abs(missing)]]] += step
    return quotas.astype(np.int32)
