"""All curricula of one service process: loaded on demand, kept in memory while used, one method per RPC."""

from __future__ import annotations

import asyncio
import random
import secrets
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import numpy as np
import structlog

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes
from sampler_service.curriculum.combinations import check_pool
from sampler_service.curriculum.errors import (
    Aborted,
    AlreadyExists,
    CurriculumError,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.planner import BatchPlan, BatchPlanner
from sampler_service.curriculum.reports import lease_not_found
from sampler_service.log import LogClient, LogError, LogExistsError, LogUnavailableError, parse_revision
from sampler_service.replica import reading
from sampler_service.replica.allocator import give_back_memory
from sampler_service.replica.answers import complete_batch, curriculum_message, report_response, timestamp
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.curriculum_statistics import CurriculumStatistics, statistics_of
from sampler_service.replica.housekeeping import Housekeeping, expire_leases
from sampler_service.replica.loaded_curricula import LoadedCurricula, Residency
from sampler_service.replica.portability import ReceivedExport, export_chunks
from sampler_service.replica.replaying import replay_curriculum
from sampler_service.replica.requests import (
    fingerprint,
    grant_event,
    prompts_events,
    report_columns,
    require_id,
    require_policy_version,
    require_request_id,
    slots_in_lease,
    to_strategy,
)
from sampler_service.replica.settings import ReplicaSettings
from sampler_service.replica.snapshotting import create_checkpoint, hold_back, take_snapshot
from sampler_service.replica.tailing import Tailing

__all__ = ["ReplicaHost"]

_log = structlog.get_logger(__name__)

_DEFAULT_PAGE: Final = 100
_MAX_PAGE: Final = 1000
_LISTED_AT_ONCE: Final = 16
_LARGE_BYTES: Final = 32 * 2**20
_Answer = TypeVar("_Answer")
_NO_ROWS: Final = np.zeros(0, dtype=np.int32)
_REDRAW: Final = ("LEASE_CONFLICT", "EPOCH_CHANGED")
# Between two draws of a batch that others were faster to take.
_MOST_WAIT_SECONDS: Final = 0.05


class ReplicaHost:
    """Serves every curriculum of a log server.

    Methods named after RPCs take and return API messages.

    Raises:
        CurriculumError: the request is refused.
        LogError: the log cannot be used right now.

    Args:
        client: owned by the caller.
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(self, client: LogClient, settings: ReplicaSettings, *, seed: int | None = None) -> None:
        self._client = client
        self._settings = settings
        self._curricula = LoadedCurricula(client, settings, seed)
        self._housekeeping = Housekeeping(self._curricula, settings)
        self._replaying = asyncio.Semaphore(1)  # They are long, and take a processor each.
        self._tailing = Tailing(lambda: self._curricula, settings.max_lag_seconds)

    async def start(self) -> None:
        """Begins housekeeping and tailing."""
        self._housekeeping.start()
        self._tailing.start()

    async def close(self) -> None:
        """Ends housekeeping and tailing, waits for writes, and snapshots what has changed."""
        await self._tailing.stop()
        await self._housekeeping.stop()
        for replica in self._curricula:
            await replica.close()
            if replica.events_since_snapshot and not replica.gone:
                try:
                    await take_snapshot(replica)
                except LogError as error:
                    _log.warning("no final snapshot", curriculum_id=replica.curriculum_id, why=str(error))

    async def ready(self) -> tuple[bool, str]:
        """Whether the log can be reached, and what is loaded is near its end."""
        try:
            await self._client.ping()
        except LogError as error:
            return False, str(error)
        if self._tailing.lag.behind:
            return False, self._tailing.lag.detail
        return True, "serving"

    @property
    def readiness_interval_seconds(self) -> float:
        """How often `ready` may change its mind."""
        return self._tailing.interval_seconds

    def statistics(self) -> list[CurriculumStatistics]:
        """Figures of the loaded curricula."""
        return [statistics_of(replica) for replica in self._curricula]

    # -- finding ---------------------------------------------------------------------

    def residency(self) -> Residency:
        """How many curricula are in memory, and how they come and go."""
        return self._curricula.residency()

    async def replica(
        self, curriculum_id: str, min_revision: str = "", *, browsing: bool = False
    ) -> CurriculumReplica:
        """The replica of a curriculum, loaded, and at `min_revision` or later."""
        if min_revision:
            try:
                parse_revision(min_revision)
            except ValueError:
                raise InvalidArgument(
                    "INVALID_REVISION",
                    f"min_revision = {min_revision!r} is not a revision this service gave.",
                    "min_revision",
                ) from None
        replica = await self._curricula.get(curriculum_id, browsing=browsing)
        if min_revision:
            await replica.reach(min_revision)
        return replica

    async def _reading(
        self, curriculum_id: str, min_revision: str = "", *, browsing: bool = False
    ) -> CurriculumReplica:
        """For reads: caught up with the log, or marked stale when it is away."""
        replica = await self.replica(curriculum_id, min_revision, browsing=browsing)
        try:
            await replica.catch_up()
        except LogUnavailableError:
            if min_revision:
                await replica.reach(min_revision)
        except NotFound:
            # Perhaps another replica created it anew under its old id.
            return await self.replica(curriculum_id, min_revision)
        return replica

    async def _unless_replaced(
        self, curriculum_id: str, attempt: Callable[[], Awaitable[_Answer]]
    ) -> _Answer:
        """Tries once more if the curriculum turns out to have been deleted, and perhaps created anew."""
        with self._curricula.in_use(curriculum_id):
            replica = self._curricula.find(curriculum_id)
            try:
                return await attempt()
            except NotFound:
                if replica is None or not replica.gone:
                    raise
            return await attempt()

    # -- curricula ----------------------------------------------------------------------

    async def create_curriculum(self, request: pb.CreateCurriculumRequest) -> pb.CreateCurriculumResponse:
        """CreateCurriculum."""
        require_request_id(request.request_id)
        require_id(request.curriculum_id, "curriculum_id")
        strategy = to_strategy(request.strategy)
        preset = request.strategy.preset or "frontier"
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            curriculum_created=log_pb2.CurriculumCreated(
                curriculum_id=request.curriculum_id, strategy_json=strategy.to_json(), preset=preset
            ),
        )
        duplicate = False
        try:
            await self._client.log(request.curriculum_id).create(event.SerializeToString())
            self._curricula.forget(request.curriculum_id)
        except LogExistsError:
            await self._require_repeat(request.curriculum_id, event)
            duplicate = True
        replica = await self.replica(request.curriculum_id)
        return pb.CreateCurriculumResponse(curriculum=curriculum_message(replica.state), duplicate=duplicate)

    async def _require_repeat(self, curriculum_id: str, event: log_pb2.Event) -> None:
        """A curriculum that is to be made exists: fine if this very request made it."""
        replica = await self._reading(curriculum_id)
        if replica.machine.recall(event) is None:
            raise AlreadyExists(
                "CURRICULUM_EXISTS",
                f"curriculum_id = {curriculum_id!r} exists. Use it, delete it first, or choose another id.",
                "curriculum_id",
            )

    async def import_curriculum(
        self, requests: AsyncIterator[pb.ImportCurriculumRequest]
    ) -> pb.ImportCurriculumResponse:
        """ImportCurriculum."""
        with tempfile.NamedTemporaryFile(prefix="curriculum-import-") as file:
            received = await ReceivedExport.receive(requests, file, self._settings.max_import_bytes)
            duplicate = False
            try:
                await received.begin_log(self._client)
                self._curricula.forget(received.curriculum_id)
            except LogExistsError:
                await self._require_repeat(received.curriculum_id, received.event)
                duplicate = True
        await give_back_memory()
        replica = await self.replica(received.curriculum_id)
        return pb.ImportCurriculumResponse(curriculum=curriculum_message(replica.state), duplicate=duplicate)

    async def export_curriculum(
        self, request: pb.ExportCurriculumRequest
    ) -> AsyncIterator[pb.ExportCurriculumResponse]:
        """ExportCurriculum."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            async for piece in export_chunks(replica, request.checkpoint_id):
                yield piece

    async def get_curriculum(self, request: pb.GetCurriculumRequest) -> pb.GetCurriculumResponse:
        """GetCurriculum."""
        replica = await self._reading(request.curriculum_id, request.min_revision)
        return pb.GetCurriculumResponse(curriculum=curriculum_message(replica.state))

    async def list_curricula(
        self, request: pb.ListCurriculaRequest, may_see: Callable[[str], bool] | None = None
    ) -> pb.ListCurriculaResponse:
        """ListCurricula; of those alone whose id `may_see`, if given, says yes to."""
        if request.page_size < 0:
            raise InvalidArgument(
                "INVALID_PAGE_SIZE", f"page_size = {request.page_size} must not be negative.", "page_size"
            )
        size = min(request.page_size or _DEFAULT_PAGE, _MAX_PAGE)
        names = sorted(
            name
            for name in await self._client.list_curricula()
            if name > request.page_token and (may_see is None or may_see(name))
        )
        response = pb.ListCurriculaResponse()
        for start in range(0, min(size, len(names)), _LISTED_AT_ONCE):
            group = names[start : min(start + _LISTED_AT_ONCE, size)]
            response.curricula.extend(filter(None, await asyncio.gather(*map(self._listed, group))))
        if len(names) > size:
            response.next_page_token = names[size - 1]
        return response

    async def _listed(self, curriculum_id: str) -> pb.Curriculum | None:
        """One line of a list; none if it was deleted a moment ago."""
        try:
            replica = await self._reading(curriculum_id, browsing=True)
        except CurriculumError:
            return None
        return curriculum_message(replica.state)

    async def update_curriculum(self, request: pb.UpdateCurriculumRequest) -> pb.UpdateCurriculumResponse:
        """UpdateCurriculum."""
        require_request_id(request.request_id)
        strategy = to_strategy(request.strategy)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            strategy_updated=log_pb2.StrategyUpdated(
                strategy_json=strategy.to_json(),
                preset=request.strategy.preset or "frontier",
                etag=request.etag,
            ),
        )
        replica = await self._reading(request.curriculum_id)
        if replica.machine.recall(event) is None:
            # Not in the fold: a log must fold as it did when its strategies were set.
            check_pool(strategy, replica.state)
        replica, outcome = await self._mutate(request.curriculum_id, event)
        return pb.UpdateCurriculumResponse(
            curriculum=curriculum_message(replica.state), duplicate=outcome.duplicate
        )

    async def delete_curriculum(self, request: pb.DeleteCurriculumRequest) -> pb.DeleteCurriculumResponse:
        """DeleteCurriculum."""
        require_request_id(request.request_id)
        replica = await self._reading(request.curriculum_id)
        if request.etag and request.etag != replica.state.etag:
            raise Aborted(
                "ETAG_MISMATCH",
                f"etag = {request.etag!r}, but the strategy in force has {replica.state.etag!r}."
                " Read it again (GetCurriculum) and decide anew.",
                "etag",
            )
        revision = replica.state.revision
        await self._client.log(request.curriculum_id).delete()
        self._curricula.drop(replica)
        return pb.DeleteCurriculumResponse(revision=revision)

    # -- mutations -------------------------------------------------------------------------

    async def _mutate(
        self, curriculum_id: str, event: log_pb2.Event
    ) -> tuple[CurriculumReplica, log_pb2.Outcome]:
        """Recalls a repeat, refuses what the state refuses, else appends and folds."""
        return await self._unless_replaced(curriculum_id, lambda: self._mutate_once(curriculum_id, event))

    async def _mutate_once(
        self, curriculum_id: str, event: log_pb2.Event
    ) -> tuple[CurriculumReplica, log_pb2.Outcome]:
        replica = await self.replica(curriculum_id)
        return replica, await self._carry_out(replica, event)

    async def _carry_out(self, replica: CurriculumReplica, event: log_pb2.Event) -> log_pb2.Outcome:
        outcome = replica.machine.recall(event)
        if outcome is not None:
            return outcome
        try:
            replica.machine.check(event)
        except CurriculumError:
            # Perhaps only this replica is behind: look again before refusing.
            await replica.catch_up()
            outcome = replica.machine.recall(event)
            if outcome is not None:
                return outcome
            replica.machine.check(event)
        return await replica.commit(event)

    async def add_prompts(self, requests: AsyncIterator[pb.AddPromptsRequest]) -> pb.AddPromptsResponse:
        """AddPrompts."""
        curriculum_id = request_id = ""
        response = pb.AddPromptsResponse(duplicate=True)
        number = streamed_bytes = 0
        async for request in requests:
            streamed_bytes += request.ByteSize()
            if number == 0:
                curriculum_id, request_id = request.curriculum_id, request.request_id
                require_request_id(request_id)
            elif request.curriculum_id not in ("", curriculum_id) or request.request_id not in (
                "",
                request_id,
            ):
                raise InvalidArgument(
                    "CHANGED_MIDWAY",
                    "curriculum_id and request_id must be the same (or empty) in every chunk of one AddPrompts.",
                    "curriculum_id",
                )
            number += 1
            print_ = fingerprint(request, "curriculum_id", "request_id")
            replica = await self.replica(curriculum_id)
            for part, prompts in enumerate(await asyncio.to_thread(prompts_events, request)):
                event = log_pb2.Event(
                    request_id=f"{request_id}#{number}.{part}", fingerprint=print_, prompts_added=prompts
                )
                _, outcome = await self._mutate(curriculum_id, event)
                response.added += outcome.prompts_added.added
                response.already_present += outcome.prompts_added.already_present
                response.revision = outcome.revision
                response.duplicate &= outcome.duplicate
            response.total = replica.state.table.size
            await self._curricula.weigh(replica)
            await hold_back(replica)
        if number == 0:
            raise InvalidArgument("MISSING_FIELD", "The stream ended without a chunk.", "curriculum_id")
        if streamed_bytes > _LARGE_BYTES:
            await give_back_memory()
        if not response.revision:
            response.revision, response.duplicate = replica.state.revision, False
        return response

    async def next_batch(self, request: pb.NextBatchRequest) -> pb.NextBatchResponse:
        """NextBatch."""
        return await self._unless_replaced(request.curriculum_id, lambda: self._next_batch(request))

    async def _next_batch(self, request: pb.NextBatchRequest) -> pb.NextBatchResponse:
        require_request_id(request.request_id)
        require_policy_version(request.policy_version)
        replica = await self.replica(request.curriculum_id, request.min_revision)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request, "min_revision", "trainer_id"),
        )
        outcome = replica.machine.recall(event)
        plan: BatchPlan | None = None
        lease_id = ""
        attempt = 0
        while outcome is None:
            attempt += 1
            # A reload during the commit brings another planner.
            plan, planner = await self._plan(replica, request)
            lease_id = uuid.uuid4().hex
            event.batch_granted.CopyFrom(
                grant_event(request, plan, lease_id, replica.state.strategy.lease_seconds)
            )
            try:
                outcome = await replica.commit(event)
            except Aborted as error:
                if error.reason not in _REDRAW or attempt >= self._settings.max_grant_attempts:
                    raise
                # Replicas that rank alike draw alike: in step, one could lose again and again.
                await asyncio.sleep(random.uniform(0.0, min(0.001 * 2**attempt, _MOST_WAIT_SECONDS)))
            finally:
                replica.settle(plan, planner)
        lease = replica.state.leases.get(outcome.batch_granted.lease_id)
        if lease is None:
            raise FailedPrecondition(
                "BATCH_FORGOTTEN",
                f"request_id = {request.request_id!r} was answered long ago and its batch is forgotten."
                " Use a new request_id for a new batch.",
                "request_id",
            )
        # Another rank may have asked for the same batch and been first: then it is not what we drew.
        answer = replica.batch_answer(lease, plan if lease.lease_id == lease_id else None)
        complete_batch(answer, lease, outcome)
        return answer

    async def _plan(
        self, replica: CurriculumReplica, request: pb.NextBatchRequest
    ) -> tuple[BatchPlan, BatchPlanner]:
        arguments = (request.batch_size, request.rollout_budget)
        try:
            return await replica.plan(*arguments, equal_quotas=request.equal_quotas)
        except CurriculumError:
            # Perhaps this replica is only behind: prompts were added, another strategy set, or something freed
            # by another replica, or by time.
            await replica.catch_up()
            await expire_leases(replica)
            return await replica.plan(*arguments, equal_quotas=request.equal_quotas)

    async def report_rollouts(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        """ReportRollouts."""
        return await self._unless_replaced(request.curriculum_id, lambda: self._report_rollouts(request))

    async def _report_rollouts(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        require_request_id(request.request_id)
        require_policy_version(request.policy_version)
        columns = report_columns(request)
        replica = await self.replica(request.curriculum_id)
        print_ = fingerprint(request)
        for _ in range(self._settings.max_grant_attempts):
            lease: Lease | None = None
            if request.lease_id:
                lease = replica.state.leases.get(request.lease_id)
                if lease is None:
                    await replica.catch_up()
                    lease = replica.state.leases.get(request.lease_id)
                named = (lease.rows, replica.ids_of(lease)) if lease else (_NO_ROWS, [])
                slots = slots_in_lease(lease, named[1], columns.prompt_ids)
            else:
                await replica.index_ids()
                slots = replica.state.table.find(columns.prompt_ids)
                if (slots < 0).any():
                    # Perhaps another replica has added them.
                    await replica.catch_up()
                    slots = replica.state.table.find(columns.prompt_ids)
                named = (slots, columns.prompt_ids)
            unknown = slots < 0
            reported = columns.event(slots, ~unknown)
            reported.lease_id = request.lease_id
            reported.policy_version = request.policy_version
            reported.epoch = replica.state.epoch
            reported.seed = secrets.randbits(63)
            event = log_pb2.Event(
                request_id=request.request_id, fingerprint=print_, rollouts_reported=reported
            )
            try:
                if request.lease_id and lease is None and replica.machine.recall(event) is None:
                    raise lease_not_found(request.lease_id)
                # Not `_mutate`: the event's rows are this replica's, not those of one made in its place.
                outcome = await self._carry_out(replica, event)
            except Aborted as error:
                if error.reason not in _REDRAW:
                    raise
                continue
            if outcome.duplicate:
                # Rejected is what was unknown then; by now the lease may be forgotten, or the prompt added.
                answered = from_bytes(outcome.rollouts_reported.rows, "i4")
                unknown = ~np.isin(replica.state.table.find(columns.prompt_ids), answered)
            reason = "PROMPT_NOT_IN_LEASE" if request.lease_id else "PROMPT_NOT_FOUND"
            return report_response(request, outcome, replica.state, named, unknown, reason)
        raise Aborted(
            "EPOCH_CHANGED", "The curriculum is being restored again and again; send the report later."
        )

    async def release_batch(self, request: pb.ReleaseBatchRequest) -> pb.ReleaseBatchResponse:
        """ReleaseBatch."""
        require_request_id(request.request_id)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            batch_released=log_pb2.BatchReleased(lease_id=request.lease_id),
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.ReleaseBatchResponse(
            released=outcome.batch_released.released, revision=outcome.revision, duplicate=outcome.duplicate
        )

    async def advance_policy(self, request: pb.AdvancePolicyRequest) -> pb.AdvancePolicyResponse:
        """AdvancePolicy."""
        require_request_id(request.request_id)
        advanced = log_pb2.PolicyAdvanced(
            policy_version=request.policy_version, start_iteration=request.start_iteration
        )
        if request.HasField("kl"):
            advanced.kl = request.kl
        event = log_pb2.Event(
            request_id=request.request_id, fingerprint=fingerprint(request), policy_advanced=advanced
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.AdvancePolicyResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    # -- checkpoints -----------------------------------------------------------------------------

    async def create_checkpoint(self, request: pb.CreateCheckpointRequest) -> pb.CreateCheckpointResponse:
        """CreateCheckpoint."""
        require_request_id(request.request_id)
        require_id(request.checkpoint_id, "checkpoint_id")
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            checkpoint_created=log_pb2.CheckpointCreated(checkpoint_id=request.checkpoint_id),
        )
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id)
            outcome = replica.machine.recall(event)
            if outcome is None:
                replica.machine.check(event)
                outcome = await create_checkpoint(replica, event)
        return pb.CreateCheckpointResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    async def restore_checkpoint(self, request: pb.RestoreCheckpointRequest) -> pb.RestoreCheckpointResponse:
        """RestoreCheckpoint."""
        require_request_id(request.request_id)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            checkpoint_restored=log_pb2.CheckpointRestored(checkpoint_id=request.checkpoint_id),
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.RestoreCheckpointResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    async def delete_checkpoint(self, request: pb.DeleteCheckpointRequest) -> pb.DeleteCheckpointResponse:
        """DeleteCheckpoint."""
        require_request_id(request.request_id)
        event = log_pb2.Event(
            request_id=request.request_id,
            fingerprint=fingerprint(request),
            checkpoint_deleted=log_pb2.CheckpointDeleted(checkpoint_id=request.checkpoint_id),
        )
        _, outcome = await self._mutate(request.curriculum_id, event)
        return pb.DeleteCheckpointResponse(revision=outcome.revision, duplicate=outcome.duplicate)

    async def list_checkpoints(self, request: pb.ListCheckpointsRequest) -> pb.ListCheckpointsResponse:
        """ListCheckpoints."""
        replica = await self._reading(request.curriculum_id)
        response = pb.ListCheckpointsResponse(revision=replica.state.revision)
        for id_, kept in replica.state.checkpoints.items():
            response.checkpoints.add(
                checkpoint_id=id_,
                revision=kept["revision"],
                create_time=timestamp(kept["millis"]),
                policy_version=kept["policy_version"],
            )
        return response

    async def replay_curriculum(self, request: pb.ReplayCurriculumRequest) -> pb.ReplayCurriculumResponse:
        """ReplayCurriculum."""
        async with self._replaying:
            return await replay_curriculum(await self._reading(request.curriculum_id), request)

    # -- reads -------------------------------------------------------------------------------------

    async def list_prompt_states(self, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
        """ListPromptStates."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            if request.filter.prompt_ids:
                await replica.index_ids()
            return await asyncio.to_thread(reading.prompt_states, replica.state, request)

    async def get_summary(self, request: pb.GetSummaryRequest) -> pb.GetSummaryResponse:
        """GetSummary."""
        with self._curricula.in_use(request.curriculum_id):
            replica = await self._reading(request.curriculum_id, request.min_revision)
            state = replica.state
            large = state.table.size >= self._settings.background_refresh_prompts
            rates = await asyncio.to_thread(reading.cluster_rates, state) if large else None
        summary = reading.summary(
            state, request.bins, reading.cluster_rates(state) if rates is None else rates
        )
        summary.stale = replica.stale
        return pb.GetSummaryResponse(summary=summary)
