"""One curriculum in memory: appends events, reads those of others, folds all of them in log order."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from curriculum.v1.log_pb2 import SnapshotColumn, SnapshotManifest
from sampler_service.curriculum.embeddings import EmbeddingColumn
from sampler_service.curriculum.errors import Aborted, CurriculumError, NotFound, from_refusal
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.machine import (
    CurriculumMachine,
    adopt_checkpoint,
    adopt_import,
    create_state,
)
from sampler_service.curriculum.planner import BatchPlan, BatchPlanner
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy
from sampler_service.log import (
    START,
    CurriculumLog,
    Entry,
    LogClient,
    LogError,
    LogGapError,
    LogLostError,
    LogMissingError,
    LogUnavailableError,
    SnapshotMissingError,
    is_after,
    revision_millis,
)
from sampler_service.replica.answers import batch_columns
from sampler_service.replica.restoring import bring_embeddings, bytes_of, load_state
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["CurriculumReplica", "StateCopy", "curriculum_not_found"]

_log = structlog.get_logger(__name__)

# Events appended in one round trip.
_MAX_GROUP = 64
_REMEMBERED_LEASES = 256
# How long after a write derived data is brought up to date, unless a draw needs it before.
_TIDY_SECONDS = 0.001


def curriculum_not_found(curriculum_id: str) -> NotFound:
    """No such curriculum."""
    return NotFound(
        "CURRICULUM_NOT_FOUND",
        f"curriculum_id = {curriculum_id!r} does not exist. Create it first (CreateCurriculum), or list what does.",
        "curriculum_id",
    )


@dataclass(frozen=True, slots=True)
class StateCopy:
    """A curriculum's columns at one revision."""

    revision: str
    arrays: dict[str, Any]
    away: list[SnapshotColumn]
    """Embeddings that only an earlier snapshot holds."""
    embeddings: EmbeddingColumn | None
    """Where the others came from."""


@dataclass(slots=True)
class _Pending:
    event: log_pb2.Event
    payload: bytes
    future: asyncio.Future[log_pb2.Outcome]


@dataclass(frozen=True, slots=True)
class _AnswerAhead:
    """What will be answered when the plan made ahead is granted."""

    plan: BatchPlan
    ids: list[str]
    answer: pb.NextBatchResponse


class CurriculumReplica:
    """Keeps one curriculum's state equal to the fold of its log.

    All access to the log goes through one lock, so folding is in log order; appends that wait for it
    are written together (group commit). Make one with `open`.
    """

    def __init__(
        self, client: LogClient, curriculum_id: str, settings: ReplicaSettings, seed: int | None
    ) -> None:
        self.curriculum_id = curriculum_id
        self.settings = settings
        self._client = client
        self.log: CurriculumLog = client.log(curriculum_id)
        self.store = client.snapshots(curriculum_id)
        self.lock = asyncio.Lock()
        self.snapshotting = asyncio.Lock()
        """Held while this replica takes a snapshot: one at a time."""
        self.snapshotter_token = secrets.token_hex(8)
        self.used = time.monotonic()
        self.called = False
        """A call has used it, not only a listing."""
        self.gone = False
        """The curriculum was deleted: this object serves nobody any more."""
        self.stale = False
        """The log could not be reached at the last attempt: reads answer from the last known state."""
        self.events_folded = 0
        self.events_since_snapshot = 0
        self.bytes_since_snapshot = 0
        self.fold_seconds = 0.0
        self.snapshot_millis = 0
        self.snapshot_bytes = 0
        self._complete_until = time.monotonic()
        self._position = START
        self._machine: CurriculumMachine | None = None
        self._planner: BatchPlanner | None = None
        self._rng = np.random.default_rng(seed)
        self._pending: list[_Pending] = []
        self._indexing = asyncio.Lock()
        self._planning = False
        """A thread draws: the planner is its own."""
        self._unsettled: list[tuple[BatchPlan, BatchPlanner]] = []
        self._lease_ids: dict[str, list[str]] = {}
        self._answer_ahead: _AnswerAhead | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._refresher: asyncio.Task[None] | None = None

    @property
    def machine(self) -> CurriculumMachine:
        """The fold."""
        if self._machine is None:
            raise curriculum_not_found(self.curriculum_id)
        return self._machine

    @property
    def planner(self) -> BatchPlanner:
        """Draws from the fold's state."""
        assert self._planner is not None
        return self._planner

    @property
    def state(self) -> CurriculumState:
        """The folded state: read only."""
        return self.machine.state

    @property
    def lag_seconds(self) -> float:
        """For how long this replica may have missed what others append: 0 when it has just seen the log's end."""
        return time.monotonic() - self._complete_until

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

    # -- loading ---------------------------------------------------------------

    async def open(self) -> None:
        """Loads the newest snapshot and folds the rest of the log.

        Raises:
            NotFound: no such curriculum.
            LogError: the log cannot be read.
        """
        async with self.lock:
            await self._load()

    async def _load(self) -> None:
        self._machine, self._planner = None, None
        self._position = START
        for attempt in range(3):
            try:
                try:
                    manifest, state = await load_state(self.store)
                except SnapshotMissingError:
                    pass
                else:
                    self._install(state)
                    self._position = manifest.revision
                    self.snapshot_millis = revision_millis(manifest.revision)
                    self.snapshot_bytes = bytes_of(manifest)
                self.events_since_snapshot = self.bytes_since_snapshot = 0
                await self._read_on()
                break
            except LogMissingError:
                self.gone = True
                raise curriculum_not_found(self.curriculum_id) from None
            except (LogGapError, SnapshotMissingError):
                # Trimmed, or an imported state dropped, while we were reading: there is a newer snapshot.
                if attempt == 2:
                    raise
        if self._machine is None:
            self.gone = True
            raise curriculum_not_found(self.curriculum_id)

    def _install(self, state: CurriculumState) -> None:
        self._machine = CurriculumMachine(state)
        self._planner = BatchPlanner(self._machine, self._rng)

    def _large(self) -> bool:
        large = self.state.table.size >= self.settings.background_refresh_prompts
        self.planner.refreshes_elsewhere = large
        return large

    async def _reload(self, why: LogError) -> None:
        """Loads anew beside the present state, which goes on serving until the new one is complete."""
        _log.warning("reloading curriculum", curriculum_id=self.curriculum_id, why=str(why))
        fresh = CurriculumReplica(self._client, self.curriculum_id, self.settings, None)
        fresh._rng = self._rng
        try:
            await fresh.open()
        except NotFound:
            self.gone = True
            raise
        except LogUnavailableError:
            self.stale = True
            raise
        self.log, self.store = fresh.log, fresh.store
        self._machine, self._planner, self._position = fresh._machine, fresh._planner, fresh._position
        self.snapshot_millis, self._complete_until = fresh.snapshot_millis, fresh._complete_until
        self.snapshot_bytes = fresh.snapshot_bytes
        self.events_since_snapshot = fresh.events_since_snapshot
        self.bytes_since_snapshot = fresh.bytes_since_snapshot
        self.events_folded += fresh.events_folded
        self.fold_seconds += fresh.fold_seconds

    # -- reading ---------------------------------------------------------------

    async def catch_up(self) -> None:
        """Folds what others have appended.

        Raises:
            NotFound: the curriculum was deleted.
            LogUnavailableError: the log is away; the state is the last known one, and marked stale.
        """
        async with self.lock:
            try:
                await self._read_on()
                self.stale = False
            except (LogGapError, LogLostError) as error:
                await self._reload(error)
            except LogMissingError:
                self.gone = True
                raise curriculum_not_found(self.curriculum_id) from None
            except LogUnavailableError:
                self.stale = True
                raise

    async def _read_on(self) -> None:
        asked = time.monotonic()
        while entries := await self.log.read(self._position):
            await self._fold_all(entries)
            asked = time.monotonic()
        self._complete_until = asked

    async def reach(self, min_revision: str) -> None:
        """Waits until everything up to `min_revision` is folded.

        Raises:
            ValueError: not a revision.
            Aborted: the log has not come that far.
        """
        if min_revision and is_after(min_revision, self._position):
            await self.catch_up()
            if is_after(min_revision, self._position):
                raise Aborted(
                    "REVISION_NOT_REACHED",
                    f"min_revision = {min_revision!r} is ahead of the log ({self._position}). Is it another"
                    " curriculum's, or has the log lost its last writes?",
                    "min_revision",
                    retry_after_seconds=1.0,
                )

    # -- writing ---------------------------------------------------------------

    async def commit(self, event: log_pb2.Event) -> log_pb2.Outcome:
        """Appends an event, folds up to it, and returns what it came to.

        Raises:
            CurriculumError: the fold refused it; nothing was changed.
            LogUnavailableError: whether it was appended is not known; the same request may be repeated.
        """
        future: asyncio.Future[log_pb2.Outcome] = asyncio.get_running_loop().create_future()
        self._pending.append(_Pending(event, event.SerializeToString(), future))
        if self._flusher is None or self._flusher.done():
            self._flusher = asyncio.create_task(self._flush())
        outcome = await asyncio.shield(future)
        if outcome.HasField("refusal"):
            raise from_refusal(outcome.refusal)
        return outcome

    async def _flush(self) -> None:
        while self._pending:
            async with self.lock:
                group, self._pending = self._pending[:_MAX_GROUP], self._pending[_MAX_GROUP:]
                try:
                    outcomes = await self._append(group)
                except Exception as error:
                    failure = (
                        curriculum_not_found(self.curriculum_id)
                        if isinstance(error, LogMissingError)
                        else error
                    )
                    for pending in group:
                        if not pending.future.done():
                            pending.future.set_exception(failure)
                            # Whoever asked may have gone; the error is not lost, it was theirs to see.
                            pending.future.exception()
                    if not isinstance(error, LogError | CurriculumError):
                        _log.exception("appending failed", curriculum_id=self.curriculum_id)
                    continue
                for pending, outcome in zip(group, outcomes, strict=True):
                    if not pending.future.done():
                        pending.future.set_result(outcome)
        # After the answers are on their way: they should not wait for it.
        if self._tidying is not None:
            self._tidying.cancel()
        self._tidying = asyncio.get_running_loop().call_later(_TIDY_SECONDS, self._tidy)

    async def _append(self, group: Sequence[_Pending]) -> list[log_pb2.Outcome]:
        asked = time.monotonic()
        try:
            result = await self.log.append([pending.payload for pending in group], self._position)
        except (LogGapError, LogLostError) as error:
            await self._reload(error)
            if len(error.own) < len(group):
                raise LogUnavailableError(
                    f"the log of curriculum {self.curriculum_id!r} was reloaded: {error}", 0.1
                ) from error
            return [
                self._outcome_after_reload(pending.event, revision)
                for pending, revision in zip(group, error.own, strict=True)
            ]
        except LogMissingError:
            self.gone = True
            raise
        except LogUnavailableError:
            self.stale = True
            raise
        self.stale = False
        await self._fold_all(result.foreign)
        outcomes = []
        for pending, revision in zip(group, result.own, strict=True):
            outcomes.append(await self._fold(pending.event, revision, len(pending.payload)))
        self._complete_until = asked
        return outcomes

    def _outcome_after_reload(self, event: log_pb2.Event, revision: str) -> log_pb2.Outcome:
        try:
            outcome = self.machine.recall(event)
            if outcome is None:
                self.machine.check(event)
                raise Aborted("RELOADED", "The log was reloaded while this was written; send it again.")
        except CurriculumError as refusal:
            return log_pb2.Outcome(revision=self._position, refusal=refusal.to_refusal())
        # It may have been carried out before, where we had not read yet.
        outcome.duplicate = outcome.revision != revision
        return outcome

    # -- folding ---------------------------------------------------------------

    async def _fold_all(self, entries: Sequence[Entry]) -> None:
        for number, entry in enumerate(entries):
            await self._fold(log_pb2.Event.FromString(entry.payload), entry.id, len(entry.payload))
            if number % 16 == 15:
                await asyncio.sleep(0)  # A long tail must not hold the event loop.

    async def index_ids(self) -> None:
        """Makes sure that ids are looked up at once: after a load, building the index of many takes a while."""
        table = self.state.table
        async with self._indexing:
            if not table.indexed and table.size >= self.settings.background_refresh_prompts:
                table.adopt_index(await asyncio.to_thread(table.build_index))

    async def _fold(self, event: log_pb2.Event, revision: str, size: int) -> log_pb2.Outcome:
        started = time.perf_counter()
        millis = revision_millis(revision)
        self.events_folded += 1
        self.events_since_snapshot += 1
        self.bytes_since_snapshot += size
        if self._machine is None:
            self._install(await self._begin(event, revision, millis))
            outcome = log_pb2.Outcome(revision=revision)
        else:
            if event.WhichOneof("event") == "checkpoint_restored":
                await self._go_back(event)
            elif event.WhichOneof("event") == "prompts_added":
                await self.index_ids()
            elif event.WhichOneof("event") == "strategy_updated":
                await self._prepare_strategy(event)
            try:
                outcome = self._machine.apply(event, revision, millis)
            except Exception:
                # The log must stay readable whatever it holds; an event that breaks the fold is a bug here.
                _log.exception("folding failed", curriculum_id=self.curriculum_id, revision=revision)
                outcome = log_pb2.Outcome(
                    revision=revision,
                    refusal=log_pb2.Refusal(
                        code=13, reason="FOLD_FAILED", message=f"Event {revision} could not be folded."
                    ),
                )
        self._position = revision
        self.fold_seconds += time.perf_counter() - started
        return outcome

    async def _begin(self, event: log_pb2.Event, revision: str, millis: int) -> CurriculumState:
        """The state after the log's first event."""
        if event.WhichOneof("event") != "curriculum_imported":
            return create_state(event, revision, millis)
        _, kept = await load_state(self.store, event.curriculum_imported.revision)
        return adopt_import(kept, event, revision, millis)

    async def _prepare_strategy(self, event: log_pb2.Event) -> None:
        """Loads what the new strategy reads and the present one did not."""
        try:
            strategy = Strategy.from_json(event.strategy_updated.strategy_json)
        except CurriculumError:
            return
        if strategy.uses_embeddings:
            await bring_embeddings(self.store, self.state)

    async def _go_back(self, event: log_pb2.Event) -> None:
        """Puts the kept state of a checkpoint in place, unless the event will be refused or is a repeat."""
        present = self.state
        try:
            if self.machine.recall(event) is not None:
                return
            self.machine.check(event)
        except CurriculumError:
            return
        revision = present.checkpoints[event.checkpoint_restored.checkpoint_id]["revision"]
        _, kept = await load_state(self.store, revision)
        self.machine.state = adopt_checkpoint(kept, present)
        self.machine.all_changed = True

    # -- derived data ------------------------------------------------------------

    def _tidy(self) -> None:
        """Between calls: brings derived data up to date and draws ahead, so that the next batch is at hand."""
        self._tidying = None
        if self._planner is None or self._pending or self._planning:
            return
        due = self._planner.needs_refresh and self._large()
        if due and (self._refresher is None or self._refresher.done()):
            self._refresher = asyncio.create_task(self._refresh())
        if self.state.table.size and self._planner.can_draw:
            self._planner.plan_ahead()
            plan = self._planner.planned_ahead
            if plan is not None and (self._answer_ahead is None or self._answer_ahead.plan is not plan):
                ids = self.state.table.ids(plan.rows)
                self._answer_ahead = _AnswerAhead(plan, ids, batch_columns(plan, ids))

    async def prepare_to_draw(self) -> None:
        """Waits for the pool's first weighing in a thread, if it is large; draws need one."""
        while self._large() and not self.planner.can_draw:
            if self._refresher is None or self._refresher.done():
                self._refresher = asyncio.create_task(self._refresh())
            await asyncio.shield(self._refresher)

    async def plan(
        self, batch_size: int, rollout_budget: int, *, equal_quotas: bool
    ) -> tuple[BatchPlan, BatchPlanner]:
        """Draws a batch; `settle` it with the planner that comes along. In a thread if that takes long.

        Raises:
            CurriculumError: as `BatchPlanner.plan`.
        """
        await self.prepare_to_draw()
        if not self._scans_large_pool(batch_size) and not self._planning:
            return self.planner.plan(batch_size, rollout_budget, equal_quotas=equal_quotas), self.planner
        apart = asyncio.create_task(self._plan_apart(batch_size, rollout_budget, equal_quotas))
        try:
            return await asyncio.shield(apart)
        except asyncio.CancelledError:
            # The thread cannot be stopped: what it draws is given back.
            apart.add_done_callback(self._give_up)
            raise

    async def _plan_apart(
        self, batch_size: int, rollout_budget: int, equal_quotas: bool
    ) -> tuple[BatchPlan, BatchPlanner]:
        """Holds the lock meanwhile: nothing is folded under the thread's hands."""
        async with self.lock:
            planner = self.planner
            if not self._scans_large_pool(batch_size):
                return planner.plan(batch_size, rollout_budget, equal_quotas=equal_quotas), planner
            self._planning = True
            try:
                plan = await asyncio.to_thread(
                    planner.plan, batch_size, rollout_budget, equal_quotas=equal_quotas
                )
            finally:
                self._planning = False
                unsettled, self._unsettled = self._unsettled, []
                for settled, its_planner in unsettled:
                    its_planner.settle(settled)
            return plan, planner

    def settle(self, plan: BatchPlan, planner: BatchPlanner) -> None:
        """The plan was granted, or given up. Waits for a thread that draws."""
        if self._planning:
            self._unsettled.append((plan, planner))
        else:
            planner.settle(plan)

    def _give_up(self, apart: asyncio.Task[tuple[BatchPlan, BatchPlanner]]) -> None:
        if not apart.cancelled() and apart.exception() is None:
            self.settle(*apart.result())

    def _scans_large_pool(self, batch_size: int) -> bool:
        return self._large() and self.planner.scans_pool(batch_size)

    async def _refresh(self) -> None:
        async with self.lock:  # Not while a thread draws.
            planner, state = self.planner, self.state
            planner.begin_refresh()
        try:
            pool = await asyncio.to_thread(planner.weigh_pool)
        except Exception:
            _log.exception("weighing the pool failed", curriculum_id=self.curriculum_id)
            planner.abandon_refresh()
            return
        async with self.lock:
            if planner is self._planner and state is self.state and pool.size == state.table.size:
                planner.adopt(pool)
                self._tidy()  # What was drawn ahead came from the weights before.
            else:
                planner.abandon_refresh()

    # -- snapshots -----------------------------------------------------------------

    @property
    def wants_snapshot(self) -> bool:
        """Whether enough has been folded since the last one."""
        return (
            self.events_since_snapshot >= self.settings.snapshot_events
            or self.bytes_since_snapshot >= self.settings.snapshot_bytes
        )

    async def copy_state(self) -> StateCopy:
        """The state at this moment; folding waits meanwhile."""
        async with self.lock:
            embeddings = self.state.table.embeddings
            away = [] if embeddings is None else list(embeddings.away)
            return StateCopy(self._position, await asyncio.to_thread(self.state.export), away, embeddings)

    async def release_embeddings(self, copied: StateCopy, kept: SnapshotManifest) -> None:
        """Lets go of embeddings that the strategy does not read, now that a snapshot holds them."""
        async with self.lock:
            embeddings = self.state.table.embeddings
            # After a restore they may be others than those that were copied.
            unchanged = embeddings is copied.embeddings and not self.state.strategy.uses_embeddings
            if embeddings is not None and unchanged:
                embeddings.release(kept.columns)

    @property
    def busy(self) -> bool:
        """Whether something is under way: it is being loaded, read, written, weighed or copied."""
        tasks = (self._flusher, self._refresher)
        return (
            self.lock.locked()
            or bool(self._pending)
            or any(task is not None and not task.done() for task in tasks)
        )

    async def close(self) -> None:
        """Waits for what is under way."""
        if self._tidying is not None:
            self._tidying.cancel()
        for task in (self._flusher, self._refresher):
            if task is not None and not task.done():
                await asyncio.wait([task], timeout=10)
