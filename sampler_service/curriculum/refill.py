"""Refilling a batch within its lease: prompts held back take the place of groups that were dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.stopping import Stopping

__all__ = ["held_back", "woken"]


def held_back(lease: Lease) -> NDArray[np.int64]:
    """Slots that have been granted nothing yet."""
    return np.flatnonzero(lease.open & (lease.granted == 0))


def woken(
    lease: Lease, held: NDArray[np.int64], stopping: Stopping
) -> tuple[NDArray[np.int64], int, NDArray[Any]]:
    """What becomes of the slots `held` back, given how the others came out so far.

    As many are woken as mixed groups are still missing, as far as the budget goes. What nothing can wake
    any more is let go of.

    Returns:
        slots to grant rollouts to, how many each, and slots to close.
    """
    size = max(int(lease.quotas.max()), 1)
    under_way = int((lease.open & (lease.granted > 0)).sum())
    mixed = int((~lease.open & (lease.reward_minima < lease.reward_maxima)).sum())
    wanted = max(1, round(np.count_nonzero(lease.quotas) / stopping.candidate_factor))
    affordable = min(lease.unspent // size, len(held)) if stopping.refills else 0
    count = min(wanted - mixed - under_way, affordable)
    if count > 0:
        return held[:count], size, held[:0]
    done = under_way == 0 or affordable == 0 or mixed >= wanted
    return held[:0], size, held if done else held[:0]
