"""`stream_reports` and `watch_summary` for asyncio; see `_stream`."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable

import grpc
from grpc import aio

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._async_connection import AsyncConnection
from trainer_client.client._columns import ReportResult
from trainer_client.client._requests import Report
from trainer_client.client._retry import Backoff, Deadline, pause_before_retry
from trainer_client.client._stream import check_in_flight, stream_result
from trainer_client.exceptions import CurriculumError, DeadlineError, UnavailableError


async def stream_reports(
    connection: AsyncConnection,
    reports: Iterable[Report] | AsyncIterable[Report],
    max_in_flight: int,
    timeout_seconds: float,
) -> AsyncIterator[ReportResult]:
    """Sends reports on one stream and yields their results in order."""
    check_in_flight(max_in_flight)
    source = aiter(reports) if isinstance(reports, AsyncIterable) else _aiter_of(reports)
    exhausted = False
    unanswered: deque[pb.ReportRolloutsRequest] = deque()
    backoff, deadline = Backoff(), Deadline(timeout_seconds)
    while True:
        connection.check_usable()
        call = connection.stub.StreamRollouts(metadata=connection.endpoint.metadata)
        unsent = deque(unanswered)
        try:
            while True:
                while not exhausted and len(unanswered) < max_in_flight:
                    report = await anext(source, None)
                    if report is None:
                        exhausted = True
                        break
                    unanswered.append(report.message())
                    unsent.append(unanswered[-1])
                if not unanswered:
                    await call.done_writing()
                    return
                # The trainer's own time between two reports is not the service's.
                deadline = Deadline(timeout_seconds) if backoff.fresh else deadline
                response = await _exchange(connection, call, unsent, deadline)
                result = stream_result(response, unanswered[0])
                unanswered.popleft()
                backoff.reset()
                yield result
        except CurriculumError as error:
            pause = pause_before_retry(error, backoff, deadline)
            if pause is None:
                raise
        finally:
            call.cancel()
        await asyncio.sleep(pause)


async def _aiter_of(reports: Iterable[Report]) -> AsyncIterator[Report]:
    for report in reports:
        yield report


async def _exchange(
    connection: AsyncConnection,
    call: aio.StreamStreamCall[pb.ReportRolloutsRequest, pb.ReportRolloutsResponse],
    unsent: deque[pb.ReportRolloutsRequest],
    deadline: Deadline,
) -> pb.ReportRolloutsResponse:
    """Writes what is unsent and reads one answer, within the deadline."""
    try:
        async with asyncio.timeout(deadline.remaining_seconds()):
            while unsent:
                await _write(call, unsent.popleft())
            response = await call.read()
            if isinstance(response, pb.ReportRolloutsResponse):
                return response
            # The end of the stream: its status says why.
            code = await call.code()
            if code is grpc.StatusCode.OK:
                raise UnavailableError(
                    "the service ended the stream with reports unanswered", code="UNAVAILABLE"
                )
            raise connection.error_of(
                aio.AioRpcError(
                    code,
                    await call.initial_metadata(),
                    await call.trailing_metadata(),
                    details=await call.details(),
                )
            )
    except TimeoutError:
        raise DeadlineError(
            "the stream gave no answer in time; unanswered reports may or may not be counted"
        ) from None
    except asyncio.InvalidStateError as error:
        # Writing on a call that the server has ended in between.
        raise UnavailableError(f"the stream was closed: {error}", code="UNAVAILABLE") from error
    except grpc.RpcError as error:
        raise connection.error_of(error) from error


async def _write(
    call: aio.StreamStreamCall[pb.ReportRolloutsRequest, pb.ReportRolloutsResponse],
    message: pb.ReportRolloutsRequest,
) -> None:
    """Writes one report.

    A write that races with the end of the connection fails as INTERNAL from gRPC's core, which says
    nothing about the service: the stream is broken and may be opened again.
    """
    try:
        await call.write(message)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.INTERNAL:
            raise UnavailableError(f"the stream broke: {error.details()}", code="UNAVAILABLE") from error
        raise


async def watch_summary(
    connection: AsyncConnection, request: pb.WatchSummaryRequest, timeout_seconds: float
) -> AsyncIterator[pb.Summary]:
    """Yields summaries; subscribes again when the service was away for less than the timeout."""
    backoff, deadline = Backoff(), Deadline(timeout_seconds)
    while True:
        connection.check_usable()
        call = connection.stub.WatchSummary(request, metadata=connection.endpoint.metadata)
        try:
            async for response in call:
                backoff.reset()
                yield response.summary
            return
        except grpc.RpcError as rpc_error:
            error = connection.error_of(rpc_error)
            deadline = Deadline(timeout_seconds) if backoff.fresh else deadline
            pause = pause_before_retry(error, backoff, deadline)
            if pause is None:
                raise error from rpc_error
        finally:
            call.cancel()
        await asyncio.sleep(pause)
