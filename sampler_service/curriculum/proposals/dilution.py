"""Whether the trainer's steps shrink when fewer of its groups are mixed (ours).

A group whose rewards are all equal has no gradient. Under plain SGD with a mean over the whole batch it dilutes
the step; Adam, clipping to a norm, or a mean over the groups that have a gradient undo that. The service
cannot see the optimizer, but it sees each step's KL, which is about V·|Δ|² for logits moved by Δ and a mean
reward variance V. With m the share of mixed groups, log(KL/V) rises with log m by 1 to 2 where steps are
diluted and by 0 or less where they are not.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.proposals.base import Memory

__all__ = ["close_step", "dilution", "note_groups"]

_GROUPS: Final = "step_groups"
_SUMS: Final = "dilution_sums"
# Differences between consecutive steps, so that neither trend counts; older ones count less.
_DISCOUNT: Final = 0.98
# Pulls the slope to 0 while there is little to go by; in squared differences of log m.
_RIDGE: Final = 0.05
_LEAST_DIFFERENCES: Final = 4.0
# Of the slope, less a standard error: up to the first it is taken for none, from the second on for full.
_NONE: Final = 0.25
_FULL: Final = 0.75


def note_groups(memory: Memory, counts: GroupCounts) -> None:
    """Takes in finished groups of the present step."""
    some = counts.rollouts > 0
    mixed = some & (counts.reward_minima < counts.reward_maxima)
    sums = np.array([some.sum(), mixed.sum(), counts.reward_variances[some].sum()], dtype=np.float64)
    memory[_GROUPS] = memory.get(_GROUPS, np.zeros(3)) + sums


def close_step(memory: Memory, kl: float) -> None:
    """The policy has moved by `kl` on the groups noted since the last step.

    A step without a mixed group, or without a movement, says nothing.
    """
    groups, mixed, variance = memory.pop(_GROUPS, np.zeros(3)).tolist()
    if not (mixed > 0 and variance > 0 and kl > 0 and math.isfinite(kl)):
        return
    x, y = math.log(mixed / groups), math.log(kl * groups / variance)
    # The last step's x and y; sums of dx², dx·dy, dy² and 1.
    sums = memory.get(_SUMS)
    if sums is None:
        memory[_SUMS] = np.array([x, y, 0.0, 0.0, 0.0, 0.0])
        return
    dx, dy = x - sums[0], y - sums[1]
    moved: NDArray[Any] = _DISCOUNT * sums
    moved += [0.0, 0.0, dx * dx, dx * dy, dy * dy, 1.0]
    moved[:2] = x, y
    memory[_SUMS] = moved


def dilution(memory: Any) -> float:
    """From 0, steps are as long whatever the share of mixed groups, to 1, they shrink with it.

    0 while that is not known: few steps, a share that does not vary, a trainer that reports no KL.
    """
    sums = memory.get(_SUMS)
    if sums is None or sums[5] < _LEAST_DIFFERENCES:
        return 0.0
    _, _, xx, xy, yy, count = sums.tolist()
    slope = xy / (xx + _RIDGE)
    left = max(yy - slope * xy, 0.0) / count
    least = slope - math.sqrt(left / (xx + _RIDGE))
    return float(min(max((least - _NONE) / (_FULL - _NONE), 0.0), 1.0))
