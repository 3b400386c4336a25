"""Slots of a lease that close: their prompts go free, and their groups enter what is known of prompts and steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum import iterations
from sampler_service.curriculum.clusters import ClusterGroups
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.posterior import GroupCounts, update_ema
from sampler_service.curriculum.sources import EXPLORATION

if TYPE_CHECKING:
    from sampler_service.curriculum.machine import CurriculumMachine

__all__ = ["close_lease", "close_slots", "enter_groups"]


def close_lease(machine: CurriculumMachine, lease: Lease, state: str) -> int:
    """Ends a live lease; its open prompts return to the pool.

    Returns:
        how many those were.
    """
    open_ = np.flatnonzero(lease.open)
    close_slots(machine, lease, open_)
    machine.state.leases.close(lease, state)
    return len(open_)


def close_slots(machine: CurriculumMachine, lease: Lease, slots: NDArray[Any] | slice) -> None:
    """Frees prompts; then their groups, scored against what was predicted, enter the history."""
    state, table = machine.state, machine.state.table
    lease.open[slots] = False
    rows = lease.rows[slots]
    held = table.leases[rows] == lease.key
    table.leases[rows[held]] = -1
    state.in_flight -= int(held.sum())
    machine.touch(rows)
    if state.due:
        iterations.rolled_out(state, rows[lease.returned[slots] > 0])
    machine.afterwards(lambda: _enter_slots(machine, lease, slots))


def _enter_slots(machine: CurriculumMachine, lease: Lease, slots: NDArray[Any] | slice) -> None:
    state = machine.state
    rows = lease.rows[slots]
    n = lease.outcomes[slots]
    some = n > 0
    if not some.all():
        slots, rows, n = np.arange(len(lease.rows))[slots][some], rows[some], n[some]
    means = lease.reward_sums[slots] / n
    variances = np.maximum(lease.reward_squares[slots] / n - means * means, 0.0)
    mixed = lease.reward_minima[slots] < lease.reward_maxima[slots]
    finished = GroupCounts(
        n,
        lease.positives[slots].astype(np.float64),
        lease.positives[slots].astype(np.int64),
        lease.reward_sums[slots],
        means,
        variances,
        lease.reward_minima[slots],
        lease.reward_maxima[slots],
    )
    enter_groups(machine, rows, finished, mixed)
    state.history.score(
        lease.estimator or state.estimator_name, lease.pass_rates[slots], lease.positives[slots], n
    )
    explored = lease.sources[slots] == EXPLORATION
    state.history.count(
        exploration_rollouts=float(n[explored].sum()),
        exploration_groups=float(explored.sum()),
        exploration_mixed_groups=float((explored & mixed).sum()),
    )


def enter_groups(
    machine: CurriculumMachine,
    rows: NDArray[Any],
    groups: GroupCounts,
    mixed: NDArray[np.bool_],
) -> None:
    """Finished groups: the moving averages, and the tallies of how they came out."""
    state, table = machine.state, machine.state.table
    if len(rows) == 0:
        return
    strategy, moment = state.strategy, state.moment()
    update_ema(table, rows, groups.reward_means, groups.reward_variances, strategy.estimator.ema_rate)
    strategy.proposal.observe(rows, groups, state.proposal_memory, moment)
    right = ~mixed & (groups.positives > 0)
    state.history.count(
        groups=float(len(rows)),
        mixed_groups=float(mixed.sum()),
        all_correct_groups=float(right.sum()),
        all_wrong_groups=float((~mixed & ~right).sum()),
        wasted_rollouts=float(groups.rollouts[~mixed].sum()),
    )
    clusters = table.clusters[rows]
    inside = clusters >= 0
    if inside.any():
        size = state.cluster_sums.shape[1]
        state.cluster_sums[1] += np.bincount(clusters[inside], minlength=size)
        state.cluster_sums[2] += np.bincount(clusters[inside & mixed], minlength=size)
        if strategy.clusters is not None:
            trained = ClusterGroups(clusters, groups.positives, groups.rollouts)
            strategy.clusters.observe(trained, size, state.cluster_memory, moment)
