"""The service's RPCs: each hands its message to the host. Errors are translated by the interceptor."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from typing import Protocol

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc
from sampler_service.access import current_principal
from sampler_service.curriculum.errors import CurriculumError, InvalidArgument
from sampler_service.replica import ReplicaHost
from sampler_service.rpc.errors import ENDS_STREAMS, describe
from sampler_service.rpc.limits import RpcSettings

__all__ = ["CurriculumServicer", "Draining", "RpcContext"]


class RpcContext(Protocol):
    """The little that is used of a call's context."""

    def time_remaining(self) -> float | None:
        """Seconds to the deadline, None without one."""
        ...


class Draining(CurriculumError, RuntimeError):
    """The service stops; the client finds another one, or this one again, when it reconnects."""

    code = 14

    def __init__(self) -> None:
        super().__init__(
            "DRAINING", "The service is stopping. Reconnect and send again what was not answered.", "", 1.0
        )


class CurriculumServicer(curriculum_pb2_grpc.CurriculumServiceServicer):
    """Every RPC of the API over one host."""

    def __init__(self, host: ReplicaHost, settings: RpcSettings) -> None:
        self._host = host
        self._settings = settings
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """Ends the streams: watches at once, reports when those in hand are answered."""
        self._draining.set()

    async def CreateCurriculum(  # noqa: N802, D102
        self, request: pb.CreateCurriculumRequest, context: RpcContext
    ) -> pb.CreateCurriculumResponse:
        return await self._host.create_curriculum(request)

    async def GetCurriculum(  # noqa: N802, D102
        self, request: pb.GetCurriculumRequest, context: RpcContext
    ) -> pb.GetCurriculumResponse:
        return await self._host.get_curriculum(request)

    async def ListCurricula(  # noqa: N802, D102
        self, request: pb.ListCurriculaRequest, context: RpcContext
    ) -> pb.ListCurriculaResponse:
        return await self._host.list_curricula(request, current_principal.get().may_see)

    async def UpdateCurriculum(  # noqa: N802, D102
        self, request: pb.UpdateCurriculumRequest, context: RpcContext
    ) -> pb.UpdateCurriculumResponse:
        return await self._host.update_curriculum(request)

    async def DeleteCurriculum(  # noqa: N802, D102
        self, request: pb.DeleteCurriculumRequest, context: RpcContext
    ) -> pb.DeleteCurriculumResponse:
        return await self._host.delete_curriculum(request)

    async def AddPrompts(  # noqa: N802, D102
        self, requests: AsyncIterator[pb.AddPromptsRequest], context: RpcContext
    ) -> pb.AddPromptsResponse:
        return await self._host.add_prompts(requests)

    async def NextBatch(  # noqa: N802, D102
        self, request: pb.NextBatchRequest, context: RpcContext
    ) -> pb.NextBatchResponse:
        return await self._host.next_batch(request)

    async def ReportRollouts(  # noqa: N802, D102
        self, request: pb.ReportRolloutsRequest, context: RpcContext
    ) -> pb.ReportRolloutsResponse:
        return await self._host.report_rollouts(request)

    async def StreamRollouts(  # noqa: N802
        self, requests: AsyncIterator[pb.ReportRolloutsRequest], context: RpcContext
    ) -> AsyncIterator[pb.ReportRolloutsResponse]:
        """Several reports are worked on at once; answers keep the order, refusals come in place."""
        answers: asyncio.Queue[asyncio.Task[pb.ReportRolloutsResponse] | None] = asyncio.Queue()
        room = asyncio.Semaphore(self._settings.reports_in_flight)
        reader = asyncio.create_task(self._take_reports(requests, answers, room))
        try:
            while (answer := await answers.get()) is not None:
                yield await answer
                room.release()
            await reader
            if self._draining.is_set():
                raise Draining
        finally:
            # The call is over, or the stream ends early: what is in hand may still be written, and a
            # repeat under the same request_id is then recognised.
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await reader
            while not answers.empty():
                left = answers.get_nowait()
                if left is not None:
                    left.cancel()

    async def _take_reports(
        self,
        requests: AsyncIterator[pb.ReportRolloutsRequest],
        answers: asyncio.Queue[asyncio.Task[pb.ReportRolloutsResponse] | None],
        room: asyncio.Semaphore,
    ) -> None:
        drained = asyncio.create_task(self._draining.wait())
        following: asyncio.Future[pb.ReportRolloutsRequest] | None = None
        iterator = aiter(requests)
        try:
            while True:
                await room.acquire()
                following = asyncio.ensure_future(anext(iterator))
                await asyncio.wait((following, drained), return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    return
                try:
                    request = following.result()
                except StopAsyncIteration:
                    return
                answers.put_nowait(asyncio.create_task(self._report(request)))
        finally:
            drained.cancel()
            if following is not None:
                following.cancel()
                # Its end is of no interest any more, and asyncio wants it looked at.
                await asyncio.wait((following,))
                if not following.cancelled():
                    following.exception()
            answers.put_nowait(None)

    async def _report(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        try:
            return await self._host.report_rollouts(request)
        except Exception as error:
            refusal = describe(error)
            if refusal.code == ENDS_STREAMS:
                raise
            return pb.ReportRolloutsResponse(request_id=request.request_id, error=refusal.to_stream_error())

    async def ReleaseBatch(  # noqa: N802, D102
        self, request: pb.ReleaseBatchRequest, context: RpcContext
    ) -> pb.ReleaseBatchResponse:
        return await self._host.release_batch(request)

    async def AdvancePolicy(  # noqa: N802, D102
        self, request: pb.AdvancePolicyRequest, context: RpcContext
    ) -> pb.AdvancePolicyResponse:
        return await self._host.advance_policy(request)

    async def CreateCheckpoint(  # noqa: N802, D102
        self, request: pb.CreateCheckpointRequest, context: RpcContext
    ) -> pb.CreateCheckpointResponse:
        return await self._host.create_checkpoint(request)

    async def RestoreCheckpoint(  # noqa: N802, D102
        self, request: pb.RestoreCheckpointRequest, context: RpcContext
    ) -> pb.RestoreCheckpointResponse:
        return await self._host.restore_checkpoint(request)

    async def ListCheckpoints(  # noqa: N802, D102
        self, request: pb.ListCheckpointsRequest, context: RpcContext
    ) -> pb.ListCheckpointsResponse:
        return await self._host.list_checkpoints(request)

    async def DeleteCheckpoint(  # noqa: N802, D102
        self, request: pb.DeleteCheckpointRequest, context: RpcContext
    ) -> pb.DeleteCheckpointResponse:
        return await self._host.delete_checkpoint(request)

    async def ExportCurriculum(  # noqa: N802, D102
        self, request: pb.ExportCurriculumRequest, context: RpcContext
    ) -> AsyncIterator[pb.ExportCurriculumResponse]:
        async for piece in self._host.export_curriculum(request):
            yield piece

    async def ImportCurriculum(  # noqa: N802, D102
        self, requests: AsyncIterator[pb.ImportCurriculumRequest], context: RpcContext
    ) -> pb.ImportCurriculumResponse:
        return await self._host.import_curriculum(requests)

    async def ReplayCurriculum(  # noqa: N802, D102
        self, request: pb.ReplayCurriculumRequest, context: RpcContext
    ) -> pb.ReplayCurriculumResponse:
        return await self._host.replay_curriculum(request)

    async def ListPromptStates(  # noqa: N802, D102
        self, request: pb.ListPromptStatesRequest, context: RpcContext
    ) -> pb.ListPromptStatesResponse:
        return await self._host.list_prompt_states(request)

    async def GetPromptHistory(  # noqa: N802, D102
        self, request: pb.GetPromptHistoryRequest, context: RpcContext
    ) -> pb.GetPromptHistoryResponse:
        return await self._host.get_prompt_history(request)

    async def GetSummary(  # noqa: N802, D102
        self, request: pb.GetSummaryRequest, context: RpcContext
    ) -> pb.GetSummaryResponse:
        return await self._host.get_summary(request)

    async def WatchSummary(  # noqa: N802
        self, request: pb.WatchSummaryRequest, context: RpcContext
    ) -> AsyncIterator[pb.WatchSummaryResponse]:
        """The first at once, then one whenever the revision, or whether it is stale, has changed."""
        if not (math.isfinite(request.interval_seconds) and request.interval_seconds >= 0):
            raise InvalidArgument(
                "OUT_OF_RANGE",
                f"interval_seconds = {request.interval_seconds} must be 0 (the default, 1 s) or more.",
                "interval_seconds",
            )
        interval_seconds = max(request.interval_seconds or 1.0, self._settings.min_watch_seconds)
        question = pb.GetSummaryRequest(curriculum_id=request.curriculum_id, bins=request.bins)
        sent: tuple[str, bool] | None = None
        while True:
            summary = (await self._host.get_summary(question)).summary
            if (summary.revision, summary.stale) != sent:
                sent = (summary.revision, summary.stale)
                yield pb.WatchSummaryResponse(summary=summary)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._draining.wait(), interval_seconds)
                raise Draining
