"""The weights that batches are drawn from: derived from the state, kept up to date, and never in the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.cluster_balance import ClusterBalance
from sampler_service.curriculum.iterations import active
from sampler_service.curriculum.machine import CurriculumMachine
from sampler_service.curriculum.proposals import Proposal, WeightedProposal
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.weighted_draw import SumTree
from sampler_service.curriculum.weighted_pool import WeightedPool

__all__ = ["PoolWeights", "Weighing"]

# Rows weighed at a time when the whole pool is: bounds memory and lets a thread switch. A column of them is
# small enough for the allocator's heap, else each intermediate result would be paid with fresh pages.
_BLOCK: Final = 16_384


@dataclass(frozen=True, slots=True)
class Weighing:
    """The whole pool's weights under one strategy."""

    proposal: Proposal
    epoch: int
    pool: WeightedPool
    balance: ClusterBalance | None
    """Factors of the clusters, for rows that are weighed again."""


class PoolWeights:
    """Weights of all prompts under the strategy in force; 0 for those in flight or reserved.

    Rows drawn for a grant that is not in the log yet are reserved, so that concurrent requests draw different
    prompts.

    Args:
        machine: its changes are taken; read only otherwise.
    """

    def __init__(self, machine: CurriculumMachine) -> None:
        self._machine = machine
        self._weighing: Weighing | None = None
        self._changed_since: list[NDArray[Any]] | None = None
        """Rows that changed since a refresh began; None while none is under way."""
        self._reserved = np.zeros(0, dtype=np.bool_)
        self.reserved_count = 0
        self.reservations = 0
        """How often rows were reserved or given back."""
        self.weighings = 0
        """How often the whole pool was weighed."""
        self.refreshes_elsewhere = False
        """Somebody runs `begin_refresh`, `weigh_pool` and `adopt`: draws do not wait for it."""

    @property
    def _state(self) -> CurriculumState:
        return self._machine.state

    # -- reservations ----------------------------------------------------------

    @property
    def reserved(self) -> NDArray[np.bool_]:
        """Which rows are reserved; at least as many entries as there are prompts."""
        missing = self._state.table.size - len(self._reserved)
        if missing > 0:
            self._reserved = np.pad(self._reserved, (0, max(missing, len(self._reserved) // 4)))
        return self._reserved

    def reserve(self, rows: NDArray[Any], reserved: bool) -> None:
        """Keeps distinct rows from being drawn, or gives them back."""
        self.reserved[rows] = reserved
        self.reserved_count += len(rows) if reserved else -len(rows)
        self.reservations += 1
        self._machine.touch(rows)

    def reserve_like(self, other: PoolWeights) -> None:
        """Has the same rows reserved as another."""
        self._reserved, self.reserved_count = other.reserved.copy(), other.reserved_count

    # -- weighing --------------------------------------------------------------

    @property
    def needs_refresh(self) -> bool:
        """Whether the whole pool must be weighed again."""
        return self._machine.all_changed or not self.can_draw

    @property
    def can_draw(self) -> bool:
        """Whether a draw needs no weighing of the whole pool first, though a refresh may be due."""
        weighing = self._weighing
        return (
            weighing is not None
            and weighing.proposal == self._state.strategy.proposal
            and weighing.epoch == self._state.epoch
            and weighing.pool.size == self._state.table.size
        )

    def begin_refresh(self) -> None:
        """Starts a refresh: from here on, rows that change are noted for `adopt`.

        The weights from before it serve on meanwhile, so what has changed until now is entered there too:
        a row just granted must not be drawn again.
        """
        _, rows = self._machine.take_changes()
        if self.can_draw:
            self._enter(rows)
        self._changed_since = []

    def weigh_pool(self) -> Weighing:
        """Weighs the whole pool; O(N). Reads only, so it may run in a thread while events are folded:
        a row read while it changes is noted, and weighed again by `adopt`."""
        state = self._state
        size, proposal, epoch = state.table.size, state.strategy.proposal, state.epoch
        tree = SumTree(size)
        for start in range(0, size, _BLOCK):
            tree.fill(start, self.weigh(slice(start, min(start + _BLOCK, size)), None))
        balance = None
        evenly = proposal.cluster_balance(state.moment()) if isinstance(proposal, WeightedProposal) else 0.0
        if evenly > 0:
            clusters = state.table.column("clusters")[:size]
            balance = ClusterBalance(clusters, tree.weights, evenly)
            for start in range(0, size, _BLOCK):
                block = slice(start, min(start + _BLOCK, size))
                tree.fill(start, tree.weights[block] * balance.factors(clusters[block]))
        tree.sum_up()
        return Weighing(proposal, epoch, WeightedPool(tree), balance)

    def abandon_refresh(self) -> None:
        """Gives a refresh up: the pool must still be weighed."""
        self._changed_since = None
        self._machine.all_changed = True

    def adopt(self, weighing: Weighing) -> None:
        """Ends a refresh: puts the new weights in force."""
        changed, self._changed_since = self._changed_since or [], None
        self._weighing = weighing
        self.weighings += 1
        for rows in changed:
            self._enter(rows[rows < weighing.pool.size])

    def update(self) -> WeightedPool:
        """The pool's weights, up to date. O(changed rows · log N), or O(N) when everything changed.

        While a refresh is under way in a thread, the weights from before it serve on.
        """
        refreshing = self._changed_since is not None
        if not self.can_draw or (
            self._machine.all_changed and not refreshing and not self.refreshes_elsewhere
        ):
            self.begin_refresh()
            self.adopt(self.weigh_pool())
        else:
            everything, rows = self._machine.take_changes()
            # Not lost: whoever runs the refresh finds it set again and runs another.
            self._machine.all_changed = everything
            self._enter(rows)
            if len(rows) and self._changed_since is not None:
                self._changed_since.append(rows)
        assert self._weighing is not None
        return self._weighing.pool

    def _enter(self, rows: NDArray[Any]) -> None:
        """Weighs rows that changed."""
        if len(rows):
            assert self._weighing is not None
            self._weighing.pool.update(rows, self.weigh(rows, self._weighing.balance))

    def weigh(self, rows: NDArray[Any] | slice, balance: ClusterBalance | None) -> NDArray[np.float64]:
        """Weights of `rows` by the present state; for scored proposals one for all that are free."""
        state = self._state
        proposal = state.strategy.proposal
        if isinstance(proposal, WeightedProposal):
            view = state.view(rows)
            weights = proposal.weights(view, state.moment())
            weights = np.where(np.isfinite(weights) & (weights > 0), weights, 0.0)
            if balance is not None:
                weights = weights * balance.factors(state.table.column("clusters")[rows])
        else:
            weights = np.ones(len(state.table.column("leases")[rows]))
        free = state.table.column("leases")[rows] < 0
        if (inside := active(state, rows)) is not None:
            free &= inside
        # A slice may come from a thread, which must not replace the array while others write to it.
        reserved = self._reserved[rows] if isinstance(rows, slice) else self.reserved[rows]
        if len(reserved) < len(free):
            reserved = np.pad(reserved, (0, len(free) - len(reserved)))
        return np.where(free & ~reserved, weights, 0.0)
