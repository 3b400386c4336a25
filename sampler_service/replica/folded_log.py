"""The fold of one curriculum's log: appends events, reads those of others, folds all of them in log order."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from curriculum.v1 import log_pb2
from sampler_service.curriculum.checkpoints import adopt_checkpoint
from sampler_service.curriculum.errors import Aborted, CurriculumError, NotFound, Unavailable, from_refusal
from sampler_service.curriculum.fold_version import require_foldable
from sampler_service.curriculum.machine import CurriculumMachine, adopt_import, create_state
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import Strategy
from sampler_service.curriculum.table import PromptTable
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
from sampler_service.replica.restoring import bring_embeddings, bytes_of, load_state
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["FoldedLog", "curriculum_not_found"]

_log = structlog.get_logger(__name__)

# Events appended in one round trip.
_MAX_GROUP = 64
# How long answers have to get on their way before what they do not depend on is folded.
_ANSWERS_FIRST_SECONDS = 0.0005


def curriculum_not_found(curriculum_id: str) -> NotFound:
    """No such curriculum."""
    return NotFound(
        "CURRICULUM_NOT_FOUND",
        f"curriculum_id = {curriculum_id!r} does not exist. Create it first (CreateCurriculum), or list what does.",
        "curriculum_id",
    )


@dataclass(slots=True)
class _Pending:
    event: log_pb2.Event
    payload: bytes
    future: asyncio.Future[log_pb2.Outcome]


class FoldedLog:
    """Keeps one curriculum's state equal to the fold of its log.

    All access to the log goes through one lock, so folding is in log order; appends that wait for it
    are written together (group commit). Call `open` before anything else.
    """

    def __init__(self, client: LogClient, curriculum_id: str, settings: ReplicaSettings) -> None:
        self.curriculum_id = curriculum_id
        self.settings = settings
        self._client = client
        self.log: CurriculumLog = client.log(curriculum_id)
        self.store = client.snapshots(curriculum_id)
        self.lock = asyncio.Lock()
        """Held while anything is folded: nothing changes for whoever else holds it."""
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
        self._stopped_at = ""
        """Revision of an event that only a newer release can fold."""
        self._machine: CurriculumMachine | None = None
        self._pending: list[_Pending] = []
        self._indexing = asyncio.Lock()
        self._flusher: asyncio.Task[None] | None = None
        self._finishing: asyncio.TimerHandle | None = None

    @property
    def machine(self) -> CurriculumMachine:
        """The fold, complete. To be had on the event loop's thread only."""
        if self._machine is None:
            raise curriculum_not_found(self.curriculum_id)
        if self._machine.unfinished:
            self._finish()
        return self._machine

    @property
    def state(self) -> CurriculumState:
        """The folded state: read only."""
        return self.machine.state

    @property
    def table(self) -> PromptTable:
        """Ids and rows of the prompts, also while the last event's answer is made: that needs no more."""
        return self.state.table if self._machine is None else self._machine.state.table

    @property
    def lag_seconds(self) -> float:
        """For how long this replica may have missed what others append: 0 when it has just seen the log's end."""
        return time.monotonic() - self._complete_until

    @property
    def queued(self) -> bool:
        """Whether events wait to be appended."""
        return bool(self._pending)

    @property
    def busy(self) -> bool:
        """Whether something is under way: it is being loaded, read, written or copied."""
        return self.lock.locked() or self.queued or (self._flusher is not None and not self._flusher.done())

    async def close(self) -> None:
        """Waits for what is being written."""
        if self._flusher is not None and not self._flusher.done():
            await asyncio.wait([self._flusher], timeout=10)
        if self._finishing is not None:
            self._finishing.cancel()

    def _written(self) -> None:
        """Called when all that waited has been written, and the answers are on their way."""

    def _reloaded(self) -> None:
        """Called when the log was loaded anew: another machine has taken the place of the one there was."""

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
        self._machine = None
        self._position = START
        for attempt in range(3):
            try:
                try:
                    manifest, state = await load_state(self.store)
                except SnapshotMissingError:
                    pass
                else:
                    self._machine = CurriculumMachine(state)
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

    async def _reload(self, why: LogError) -> None:
        """Loads anew beside the present state, which goes on serving until the new one is complete."""
        _log.warning("reloading curriculum", curriculum_id=self.curriculum_id, why=str(why))
        fresh = FoldedLog(self._client, self.curriculum_id, self.settings)
        try:
            await fresh.open()
        except NotFound:
            self.gone = True
            raise
        except LogUnavailableError:
            self.stale = True
            raise
        self.log, self.store = fresh.log, fresh.store
        self._machine, self._position = fresh._machine, fresh._position
        self.snapshot_millis, self._complete_until = fresh.snapshot_millis, fresh._complete_until
        self.snapshot_bytes = fresh.snapshot_bytes
        self.events_since_snapshot = fresh.events_since_snapshot
        self.bytes_since_snapshot = fresh.bytes_since_snapshot
        self.events_folded += fresh.events_folded
        self.fold_seconds += fresh.fold_seconds
        self._reloaded()

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
        self._written()
        if self._machine is not None and self._machine.unfinished:
            # An idle moment comes sooner than the next call.
            self._finishing = asyncio.get_running_loop().call_later(_ANSWERS_FIRST_SECONDS, self._finish)

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
            outcomes.append(await self._fold(pending.event, revision, len(pending.payload), finish=False))
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

    def _finish(self) -> None:
        """Folds what the last event's answer did not wait for."""
        machine = self._machine
        if machine is None or not machine.unfinished:
            return
        started = time.perf_counter()
        try:
            machine.finish()
        except Exception:
            _log.exception(
                "folding failed", curriculum_id=self.curriculum_id, revision=machine.state.revision
            )
        self.fold_seconds += time.perf_counter() - started

    async def _fold(
        self, event: log_pb2.Event, revision: str, size: int, *, finish: bool = True
    ) -> log_pb2.Outcome:
        self._finish()
        started = time.perf_counter()
        self._require_foldable(event, revision)
        millis = revision_millis(revision)
        self.events_folded += 1
        self.events_since_snapshot += 1
        self.bytes_since_snapshot += size
        if self._machine is None:
            self._machine = CurriculumMachine(await self._begin(event, revision, millis))
            outcome = log_pb2.Outcome(revision=revision)
        else:
            if event.WhichOneof("event") == "checkpoint_restored":
                await self._go_back(event)
            elif event.WhichOneof("event") == "prompts_added":
                await self.index_ids()
            elif event.WhichOneof("event") == "strategy_updated":
                await self._prepare_strategy(event)
            try:
                outcome = self._machine.apply(event, revision, millis, finish=finish)
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

    def _require_foldable(self, event: log_pb2.Event, revision: str) -> None:
        """Folding stops before what only a newer release understands: state must stay the fold of the log."""
        try:
            require_foldable(event)
        except Unavailable as error:
            if self._stopped_at != revision:
                _log.error(
                    "this release cannot fold on",
                    curriculum_id=self.curriculum_id,
                    revision=revision,
                    why=error.message,
                )
            self._stopped_at = revision
            raise

    async def _begin(self, event: log_pb2.Event, revision: str, millis: int) -> CurriculumState:
        """The state after the log's first event."""
        if event.WhichOneof("event") != "curriculum_imported":
            return create_state(event, revision, millis)
        _, kept = await load_state(self.store, event.curriculum_imported.revision)
        return adopt_import(kept, event, revision, millis)

    async def _prepare_strategy(self, event: log_pb2.Event) -> None:
        """Loads, and makes, what the new strategy reads and the present one did not."""
        strategy, table = Strategy.from_json(event.strategy_updated.strategy_json), self.state.table
        if strategy.uses_embeddings:
            await bring_embeddings(self.store, self.state)
        if strategy.uses_id_hashes and table.unhashed >= self.settings.background_refresh_prompts:
            await asyncio.to_thread(table.id_hashes)

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
