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

__all__ = [
    "close_step",
    "count_step",
    "dilution",
    "established_dilution",
    "hold_dilution",
    "is_held",
    "is_probe",
    "note_groups",
]

_GROUPS: Final = "step_groups"
_SUMS: Final = "dilution_sums"
_HELD: Final = "dilution_held"
_STEPS: Final = "dilution_steps"
# Before, a sharp draw finds no more mixed groups than another: too little is known.
_FIRST_PROBE: Final = 3
# In a step of fewer, the share of mixed ones says too little for a probe to be worth its step.
_PROBE_GROUPS: Final = 16
# Differences between consecutive steps, so that neither trend counts; older ones count less.
_DISCOUNT: Final = 0.98
# Pulls the slope to 0 while there is little to go by; in squared differences of log m.
_RIDGE: Final = 0.05
_LEAST_DIFFERENCES: Final = 4.0
# Of the slope, less a standard error: up to the first it is taken for none, from the second on for full.
_NONE: Final = 0.25
_FULL: Final = 0.75
# The strict test: of the slope, less two standard errors. What is not diluted has a slope of 0 or less, so that
# these can lie lower.
_STRICT_ERRORS: Final = 2.0
_STRICT_NONE: Final = 0.1
_STRICT_FULL: Final = 0.3
# Once established, it is held to last while the slope, less one standard error, is above this.
_STILL: Final = 0.2


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
    fit = _fit(memory, _LEAST_DIFFERENCES)
    if fit is None:
        return 0.0
    slope, error = fit
    return _share(slope - error, _NONE, _FULL)


def established_dilution(memory: Any, most_error: float, differences: int = 8) -> float:
    """`dilution` by a stricter test: 0 as well while the slope is known to no better than ± `most_error`.

    Args:
        differences: from how many on; a slope from fewer may look exact by chance.
    """
    # Discounted, so that so many differences count for a little less.
    fit = _fit(memory, sum(_DISCOUNT**age for age in range(differences)) - 1e-9)
    if fit is None or fit[1] > most_error:
        return 0.0
    slope, error = fit
    return _share(slope - _STRICT_ERRORS * error, _STRICT_NONE, _STRICT_FULL)


def count_step(memory: Memory) -> None:
    """Notes that a step ends, and how many groups it had; before `close_step`."""
    steps = int(memory[_STEPS][0]) if _STEPS in memory else 0
    groups = int(memory[_GROUPS][0]) if _GROUPS in memory else 0
    memory[_STEPS] = np.array([steps + 1, groups], dtype=np.int64)


def is_probe(memory: Any, probes: int) -> bool:
    """Whether the present step is to be sharp for a contrast: the fourth, and from there every second one.

    A share of mixed groups that varies by chance alone takes long to show a slope. Not with steps of a few groups.
    """
    step, groups = memory[_STEPS].tolist() if _STEPS in memory else (0, 0)
    since = step - _FIRST_PROBE
    return groups >= _PROBE_GROUPS and 0 <= since < 2 * probes and since % 2 == 0


def hold_dilution(memory: Memory, most_error: float, differences: int) -> None:
    """Remembers, after a step is closed, whether dilution is established, or was and is not refuted since.

    A sharp draw has mixed groups in nearly every step alike: what it was established by fades.
    """
    held = established_dilution(memory, most_error, differences) >= 0.5
    if not held and is_held(memory):
        fit = _fit(memory, _LEAST_DIFFERENCES)
        held = fit is not None and fit[0] - fit[1] > _STILL
    memory[_HELD] = np.array([held], dtype=np.uint8)


def is_held(memory: Any) -> bool:
    """What `hold_dilution` remembered."""
    return _HELD in memory and bool(memory[_HELD][0])


def _fit(memory: Any, least: float) -> tuple[float, float] | None:
    """The slope and its standard error; None from less than so many differences."""
    sums = memory.get(_SUMS)
    if sums is None or sums[5] < least:
        return None
    _, _, xx, xy, yy, count = sums.tolist()
    slope = xy / (xx + _RIDGE)
    left = max(yy - slope * xy, 0.0) / count
    return slope, math.sqrt(left / (xx + _RIDGE))


def _share(value: float, none: float, full: float) -> float:
    return float(min(max((value - none) / (full - none), 0.0), 1.0))
