"""`stream_reports` and `watch_summary`: streams that survive a reconnection."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator

import grpc

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._columns import ReportResult
from trainer_client.client._connection import Connection
from trainer_client.client._requests import Report
from trainer_client.client._retry import Backoff, Deadline, pause_before_retry
from trainer_client.client._status import error_from_code, invalid
from trainer_client.exceptions import (
    CurriculumError,
    DeadlineError,
    ErrorDetails,
    FieldViolation,
    UnavailableError,
)

_Answer = pb.ReportRolloutsResponse | grpc.RpcError | None


def stream_reports(
    connection: Connection, reports: Iterable[Report], max_in_flight: int, timeout_seconds: float
) -> Iterator[ReportResult]:
    """Sends reports on one stream and yields their results in order.

    What was sent but not answered when the stream breaks is sent again on the next one.
    """
    check_in_flight(max_in_flight)
    source = iter(reports)
    exhausted = False
    unanswered: deque[pb.ReportRolloutsRequest] = deque()
    backoff, deadline = Backoff(), Deadline(timeout_seconds)
    while True:
        connection.check_usable()
        outgoing: queue.SimpleQueue[pb.ReportRolloutsRequest | None] = queue.SimpleQueue()
        answers: queue.SimpleQueue[_Answer] = queue.SimpleQueue()
        for request in unanswered:
            outgoing.put(request)
        call = connection.stub.StreamRollouts(iter(outgoing.get, None), metadata=connection.endpoint.metadata)
        reader = threading.Thread(
            target=_read, args=(call, answers), name="curriculum-report-stream", daemon=True
        )
        reader.start()
        try:
            while True:
                while not exhausted and len(unanswered) < max_in_flight:
                    report = next(source, None)
                    if report is None:
                        exhausted = True
                        break
                    unanswered.append(report.message())
                    outgoing.put(unanswered[-1])
                if not unanswered:
                    outgoing.put(None)
                    # Let the server end the stream before it is cancelled below.
                    reader.join(1.0)
                    return
                # The trainer's own time between two reports is not the service's.
                deadline = Deadline(timeout_seconds) if backoff.fresh else deadline
                result = stream_result(_answer(connection, answers, deadline), unanswered[0])
                unanswered.popleft()
                backoff.reset()
                yield result
        except CurriculumError as error:
            pause = pause_before_retry(error, backoff, deadline)
            if pause is None:
                raise
        finally:
            outgoing.put(None)
            call.cancel()
            reader.join()
        time.sleep(pause)


def check_in_flight(max_in_flight: int) -> None:
    """Refuses a window that could never send anything."""
    if max_in_flight < 1:
        raise invalid("max_in_flight", f"is {max_in_flight}; must be at least 1")


def stream_result(response: pb.ReportRolloutsResponse, request: pb.ReportRolloutsRequest) -> ReportResult:
    """Matches an answer with the report it is for. Raises when the service could not take it just now."""
    if response.request_id not in ("", request.request_id):
        # Nothing is lost by repeating: the service remembers what it counted.
        raise UnavailableError(
            f"the stream answered {response.request_id} where {request.request_id} was due",
            code="UNAVAILABLE",
        )
    if not response.HasField("error"):
        return ReportResult.from_message(response, request.request_id)
    refusal = response.error
    violations = (FieldViolation(refusal.field, refusal.message),) if refusal.field else ()
    error = error_from_code(
        refusal.code, refusal.message, ErrorDetails(reason=refusal.reason, field_violations=violations)
    )
    if isinstance(error, UnavailableError):
        raise error
    return ReportResult.from_message(response, request.request_id, error)


def _read(call: Iterable[pb.ReportRolloutsResponse], answers: queue.SimpleQueue[_Answer]) -> None:
    try:
        for response in call:
            answers.put(response)
    except grpc.RpcError as error:
        answers.put(error)
    else:
        answers.put(None)


def _answer(
    connection: Connection, answers: queue.SimpleQueue[_Answer], deadline: Deadline
) -> pb.ReportRolloutsResponse:
    try:
        answer = answers.get(timeout=deadline.remaining_seconds())
    except queue.Empty:
        raise DeadlineError(
            "the stream gave no answer in time; unanswered reports may or may not be counted"
        ) from None
    if answer is None:
        raise UnavailableError("the service ended the stream with reports unanswered", code="UNAVAILABLE")
    if isinstance(answer, grpc.RpcError):
        raise connection.error_of(answer) from answer
    return answer


def watch_summary(
    connection: Connection, request: pb.WatchSummaryRequest, timeout_seconds: float
) -> Iterator[pb.Summary]:
    """Yields summaries; subscribes again when the service was away for less than the timeout."""
    backoff, deadline = Backoff(), Deadline(timeout_seconds)
    while True:
        connection.check_usable()
        call = connection.stub.WatchSummary(request, metadata=connection.endpoint.metadata)
        try:
            for response in call:
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
        time.sleep(pause)
