"""Rewards and what goes with them, from the shape a trainer has to the flat columns of the wire.

A trainer holds either one sequence per prompt (a list of lists, or an array of shape (P, G)),
or one flat column with the number of rollouts of each prompt. Both become flat + counts,
the rollouts of prompt 0 first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt

from trainer_client.client._columns import RolloutStatus
from trainer_client.client._status import invalid

Numbers: TypeAlias = "npt.NDArray[np.generic] | Sequence[float]"
GroupedOrFlat: TypeAlias = "Numbers | Sequence[Sequence[float]] | Sequence[npt.NDArray[np.generic]]"
StatusLike: TypeAlias = "RolloutStatus | int | str"
Statuses: TypeAlias = "Sequence[StatusLike] | Sequence[Sequence[StatusLike]] | npt.NDArray[np.integer]"


def flat_rewards(
    prompts: int, rewards: GroupedOrFlat, rollout_counts: Iterable[int] | None
) -> tuple[list[float], list[int]]:
    """Gives rewards (flat) and rollouts per prompt (P,).

    NaN and infinities pass: the service counts them as rejected, with the reason.
    Raises `InvalidArgumentError` when the lengths do not fit together. O(rollouts).
    """
    if rollout_counts is None:
        groups = _groups("rewards", rewards, prompts)
        return [value for group in groups for value in group], [len(group) for group in groups]
    counts = [int(count) for count in rollout_counts]
    if len(counts) != prompts:
        raise invalid("rollout_counts", f"has {len(counts)} entries for {prompts} prompts")
    if any(count < 0 for count in counts):
        raise invalid("rollout_counts", "holds a negative number")
    return _flat("rewards", rewards, sum(counts)), counts


def flat_side_column(name: str, values: GroupedOrFlat | None, counts: Sequence[int]) -> list[float]:
    """Flattens `lengths` or `gradient_norms`, given flat or per prompt, against the rollout counts.

    None gives an empty column: not known.
    """
    if values is None:
        return []
    if not _is_grouped(values):
        return _flat(name, values, sum(counts))
    groups = _groups(name, values, len(counts))
    _check_counts(name, [len(group) for group in groups], counts)
    return [value for group in groups for value in group]


def flat_statuses(statuses: Statuses | None, counts: Sequence[int]) -> list[RolloutStatus]:
    """Flattens statuses, given flat or per prompt, as numbers, members or names (`"truncated"`)."""
    if statuses is None:
        return []
    entries: list[object] = statuses.tolist() if isinstance(statuses, np.ndarray) else list(statuses)
    if entries and all(isinstance(entry, list | tuple | np.ndarray) for entry in entries):
        groups = [list(cast("Sequence[object]", entry)) for entry in entries]
        if len(groups) != len(counts):
            raise invalid("statuses", f"has {len(groups)} groups for {len(counts)} prompts")
        _check_counts("statuses", [len(group) for group in groups], counts)
        entries = [entry for group in groups for entry in group]
    if len(entries) != sum(counts):
        raise invalid("statuses", f"has {len(entries)} entries for {sum(counts)} rollouts")
    return [_status(entry, index) for index, entry in enumerate(entries)]


def _status(entry: object, index: int) -> RolloutStatus:
    try:
        if isinstance(entry, str):
            return RolloutStatus[entry.upper()]
        return RolloutStatus(int(cast(int, entry)))
    except (KeyError, ValueError, TypeError):
        known = ", ".join(status.name.lower() for status in RolloutStatus)
        raise invalid(f"statuses[{index}]", f"is {entry!r}; known are {known}") from None


def _is_grouped(values: GroupedOrFlat) -> bool:
    if isinstance(values, np.ndarray):
        return values.ndim > 1
    return len(values) > 0 and all(np.ndim(value) > 0 for value in values)


def _groups(name: str, values: GroupedOrFlat, prompts: int) -> list[list[float]]:
    if len(values) != prompts:
        raise invalid(
            name,
            f"has {len(values)} entries for {prompts} prompts; give one sequence per prompt, "
            "or a flat column together with rollout_counts",
        )
    groups: list[list[float]] = []
    for index, group in enumerate(values):
        if np.ndim(group) != 1:
            remedy = (
                "a flat column needs rollout_counts" if np.ndim(group) == 0 else "expected a flat sequence"
            )
            raise invalid(f"{name}[{index}]", f"has {np.ndim(group)} dimensions, not 1; {remedy}")
        groups.append(_numbers(f"{name}[{index}]", group))
    return groups


def _flat(name: str, values: GroupedOrFlat, rollouts: int) -> list[float]:
    if len(values) != rollouts:
        raise invalid(name, f"has {len(values)} entries for {rollouts} rollouts")
    return _numbers(name, values)


def _numbers(name: str, values: object) -> list[float]:
    try:
        column = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise invalid(name, f"is not a column of numbers: {error}") from None
    if column.ndim != 1:
        raise invalid(name, f"has shape {column.shape}; expected one dimension")
    return cast("list[float]", column.tolist())


def _check_counts(name: str, lengths: Sequence[int], counts: Sequence[int]) -> None:
    for index, (length, count) in enumerate(zip(lengths, counts, strict=True)):
        if length != count:
            raise invalid(f"{name}[{index}]", f"has {length} entries for {count} rollouts")
