"""What must hold of a curriculum's state at any moment, whatever has happened to it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from sampler_service.curriculum.state import CurriculumState


def no_prompt_is_in_two_leases(state: CurriculumState) -> None:
    held: dict[int, int] = {}
    for lease in state.leases.live.values():
        for row in lease.rows[lease.open].tolist():
            assert row not in held, f"prompt {row} is in two live leases"
            held[row] = lease.key
    leases = state.table.column("leases")
    assert {int(row): int(leases[row]) for row in np.flatnonzero(leases >= 0)} == held
    assert state.in_flight == len(held)


def no_lease_exceeds_its_budget(state: CurriculumState) -> None:
    for lease in [*state.leases.live.values(), *state.leases.closed.values()]:
        assert lease.quotas.sum() <= lease.granted.sum() <= lease.budget


def the_weights_add_up(planner: Any) -> None:
    """The tree's root is the sum of its leaves, and no plan keeps rows back that nobody holds."""
    assert planner.weights.reserved_count == 0
    assert not planner.weights.reserved.any()
    pool = planner.weights.update()
    levels = pool._tail._levels
    for children, parents in itertools.pairwise(levels):
        sums = children.reshape(-1, 16).sum(axis=1)
        assert np.array_equal(sums, parents[: len(sums)])
    weights = pool.weights_of(np.arange(pool.size))
    assert pool.total == pytest.approx(weights.sum())
    state = planner._state
    if state.strategy.estimator.dump()["shared_evidence"] in ("none", {"none": {}}):
        assert np.allclose(weights, planner.weights.weigh(slice(0, pool.size), None))
    assert not weights[state.table.column("leases") >= 0].any()
