"""What batches are drawn from: data derived from a folded log, kept up to date, in threads where that takes long."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import numpy as np
import structlog

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.planner import BatchPlan, BatchPlanner
from sampler_service.log import LogClient
from sampler_service.replica.answers import batch_columns
from sampler_service.replica.folded_log import FoldedLog
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["BatchSource"]

_log = structlog.get_logger(__name__)

_REMEMBERED_LEASES = 256
# How long after a write derived data is brought up to date, unless a draw needs it before.
_TIDY_SECONDS = 0.003
# How long calls that leave no such pause may put off a weighing of the pool that is due.
_REFRESH_OVERDUE_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _AnswerAhead:
    """What will be answered when the plan made ahead is granted."""

    plan: BatchPlan
    ids: list[str]
    answer: pb.NextBatchResponse


class BatchSource(FoldedLog):
    """A folded log that batches are drawn from, and what that needs beside the state.

    Nothing here is in the log or need be equal between replicas. Of the fold it uses the state, whether events are
    `queued`, and the lock: while that is held nothing is folded. The fold tells it what was `_written` or
    `_reloaded`. A subclass and not an object beside the fold: two that refer to each other would keep a dropped
    curriculum's columns in memory until the garbage collector comes round.

    Args:
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(
        self, client: LogClient, curriculum_id: str, settings: ReplicaSettings, seed: int | None
    ) -> None:
        super().__init__(client, curriculum_id, settings)
        self._planner: BatchPlanner | None = None
        self._rng = np.random.default_rng(seed)
        self._planning = False
        """A thread draws: the planner is its own."""
        self._unsettled: list[tuple[BatchPlan, BatchPlanner]] = []
        self._lease_ids: dict[str, list[str]] = {}
        self._answer_ahead: _AnswerAhead | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._untidy_since = 0.0
        """When the first write came that is not tidied after; the event loop's clock."""
        self._refresher: asyncio.Task[None] | None = None

    @property
    def planner(self) -> BatchPlanner:
        """Draws from the fold's state. After a reload it is another one: what was drawn is the old one's to settle."""
        machine = self.machine
        if self._planner is None:
            self._planner = BatchPlanner(machine, self._rng)
        return self._planner

    def _reloaded(self) -> None:
        self._planner = None

    def _written(self) -> None:
        # After the answers are on their way: they should not wait for it.
        now = asyncio.get_running_loop().time()
        if self._tidying is None:
            self._untidy_since = now
        else:
            self._tidying.cancel()
            if now - self._untidy_since > _REFRESH_OVERDUE_SECONDS:
                self._start_refresh_if_due()
        self._tidy_soon()

    def _tidy_soon(self) -> None:
        self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy_if_idle)

    @property
    def busy(self) -> bool:
        """Whether something is under way: it is being loaded, read, written, weighed or copied."""
        return super().busy or (self._refresher is not None and not self._refresher.done())

    async def close(self) -> None:
        """Waits for what is under way."""
        if self._tidying is not None:
            self._tidying.cancel()
        refresher = self._refresher
        await super().close()
        if refresher is not None and not refresher.done():
            await asyncio.wait([refresher], timeout=10)

    # -- drawing -----------------------------------------------------------------

    async def prepare_to_draw(self) -> None:
        """Waits for the pool's first weighing in a thread, if it is large; draws need one."""
        while self._large() and not self.planner.weights.can_draw:
            if self._refresher is None or self._refresher.done():
                self._refresher = asyncio.create_task(self._refresh())
            await asyncio.shield(self._refresher)

    async def plan(
        self, batch_size: int, rollout_budget: int, *, equal_quotas: bool, seed: int | None = None
    ) -> tuple[BatchPlan, BatchPlanner]:
        """Draws a batch; `settle` it with the planner that comes along. In a thread if that takes long.

        Args:
            seed: the draw follows from it and from the state alone.

        Raises:
            CurriculumError: as `BatchPlanner.plan`.
        """
        if seed is None:
            await self.prepare_to_draw()
        if not self._draws_apart(batch_size, seed) and not self._planning:
            return self._draw(self.planner, batch_size, rollout_budget, equal_quotas, seed), self.planner
        apart = asyncio.create_task(self._plan_apart(batch_size, rollout_budget, equal_quotas, seed))
        try:
            return await asyncio.shield(apart)
        except asyncio.CancelledError:
            # The thread cannot be stopped: what it draws is given back.
            apart.add_done_callback(self._give_up)
            raise

    async def _plan_apart(
        self, batch_size: int, rollout_budget: int, equal_quotas: bool, seed: int | None
    ) -> tuple[BatchPlan, BatchPlanner]:
        """Holds the lock meanwhile: nothing is folded under the thread's hands."""
        async with self.lock:
            planner = self.planner
            if not self._draws_apart(batch_size, seed):
                return self._draw(planner, batch_size, rollout_budget, equal_quotas, seed), planner
            self._planning = True
            try:
                plan = await asyncio.to_thread(
                    self._draw, planner, batch_size, rollout_budget, equal_quotas, seed
                )
            finally:
                self._planning = False
                unsettled, self._unsettled = self._unsettled, []
                for settled, its_planner in unsettled:
                    its_planner.settle(settled)
            return plan, planner

    @staticmethod
    def _draw(
        planner: BatchPlanner, batch_size: int, rollout_budget: int, equal_quotas: bool, seed: int | None
    ) -> BatchPlan:
        if seed is None:
            return planner.plan(batch_size, rollout_budget, equal_quotas=equal_quotas)
        return planner.plan_by_seed(seed, batch_size, rollout_budget, equal_quotas=equal_quotas)

    def settle(self, plan: BatchPlan, planner: BatchPlanner) -> None:
        """The plan was granted, or given up. Waits for a thread that draws."""
        if self._planning:
            self._unsettled.append((plan, planner))
        else:
            planner.settle(plan)

    def _give_up(self, apart: asyncio.Task[tuple[BatchPlan, BatchPlanner]]) -> None:
        if not apart.cancelled() and apart.exception() is None:
            self.settle(*apart.result())

    def _draws_apart(self, batch_size: int, seed: int | None) -> bool:
        """Whether the draw looks at the whole of a large pool."""
        return self._large() and (seed is not None or self.planner.scans_pool(batch_size))

    def _large(self) -> bool:
        large = self.state.table.size >= self.settings.background_refresh_prompts
        self.planner.weights.refreshes_elsewhere = large
        return large

    # -- answers -----------------------------------------------------------------

    def batch_answer(self, lease: Lease, plan: BatchPlan | None) -> pb.NextBatchResponse:
        """The columns of the answer that hands out `lease`.

        Args:
            plan: what was drawn for it, if it was drawn here: its answer may have been made ahead.
        """
        ahead = self._answer_ahead
        if plan is None or ahead is None or ahead.plan is not plan:
            return batch_columns(lease, self.ids_of(lease))
        self._answer_ahead = None
        self._remember_ids(lease, ahead.ids)
        return ahead.answer

    def ids_of(self, lease: Lease) -> list[str]:
        """Prompt ids of a lease's slots, kept between the batch and its reports."""
        ids = self._lease_ids.get(lease.lease_id)
        if ids is None:
            ids = self.state.table.ids(lease.rows)
            self._remember_ids(lease, ids)
        return ids

    def _remember_ids(self, lease: Lease, ids: list[str]) -> None:
        self._lease_ids[lease.lease_id] = ids
        if len(self._lease_ids) > _REMEMBERED_LEASES:
            del self._lease_ids[next(iter(self._lease_ids))]

    # -- between calls -----------------------------------------------------------

    def _tidy_if_idle(self) -> None:
        if self.lock.locked():
            # A call that waits for the log would wait for this, too, and most likely undo it.
            self._tidy_soon()
            return
        self._tidying = None
        self._tidy()

    def _tidy(self) -> None:
        """Between calls: brings derived data up to date and draws ahead, so that the next batch is at hand."""
        if self.queued:
            return
        self._start_refresh_if_due()
        if self.state.table.size and self.planner.weights.can_draw:
            self.planner.plan_ahead()
            plan = self.planner.planned_ahead
            if plan is not None and (self._answer_ahead is None or self._answer_ahead.plan is not plan):
                ids = self.state.table.ids(plan.rows)
                self._answer_ahead = _AnswerAhead(plan, ids, batch_columns(plan, ids))

    def _start_refresh_if_due(self) -> None:
        due = self.planner.weights.needs_refresh and self._large()
        if due and (self._refresher is None or self._refresher.done()):
            self._refresher = asyncio.create_task(self._refresh())

    async def _refresh(self) -> None:
        async with self.lock:  # Not while a thread draws.
            planner, state = self.planner, self.state
            planner.weights.begin_refresh()
        try:
            weighing = await asyncio.to_thread(planner.weights.weigh_pool)
        except Exception:
            _log.exception("weighing the pool failed", curriculum_id=self.curriculum_id)
            planner.weights.abandon_refresh()
            return
        async with self.lock:
            if planner is self.planner and state is self.state and weighing.pool.size == state.table.size:
                planner.weights.adopt(weighing)
                self._tidy()  # What was drawn ahead came from the weights before.
            else:
                planner.weights.abandon_refresh()
