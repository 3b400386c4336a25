"""Sends the outbox from one thread, in order, until each report is acknowledged or refused.

One sender for all reports of a client is what keeps them in order; callers that wait hold a future.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError

import grpc

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._connection import Connection
from trainer_client.client._outbox import Fate, Outbox, RefusedReport, fate_of
from trainer_client.client._retry import INITIAL_BACKOFF_SECONDS, Backoff, Deadline
from trainer_client.exceptions import ClientClosedError, CurriculumError, DeadlineError

_log = logging.getLogger("trainer_client.client")
# Refusals nobody fetches must not grow without bound.
MAX_REFUSED_KEPT = 1000


class Delivery:
    """The outbox with its sender thread (started by the first report)."""

    def __init__(self, connection: Connection, outbox: Outbox, attempt_seconds: float) -> None:
        self._connection = connection
        self.outbox = outbox
        self._attempt_seconds = attempt_seconds
        self._state = threading.Condition()
        self._waiting: dict[int, Future[pb.ReportRolloutsResponse]] = {}
        self._refused: deque[RefusedReport] = deque(maxlen=MAX_REFUSED_KEPT)
        self._last_error: CurriculumError | None = None
        self._nudged = False
        self._stopped = False
        self._thread: threading.Thread | None = None
        if len(outbox) > 0:
            self.nudge()

    def queue(self, request: pb.ReportRolloutsRequest) -> None:
        """Keeps a report for the sender and returns at once."""
        self._append(request, None)

    def deliver(self, request: pb.ReportRolloutsRequest, timeout_seconds: float) -> pb.ReportRolloutsResponse:
        """Keeps a report and waits for its answer; after the deadline it stays in the outbox."""
        deadline = Deadline(timeout_seconds)
        future: Future[pb.ReportRolloutsResponse] = Future()
        sequence = self._append(request, future)
        try:
            return future.result(deadline.remaining_seconds())
        except FutureTimeoutError:
            with self._state:
                # The sender may have come in between; then its answer counts.
                abandoned = self._waiting.pop(sequence, None)
            if abandoned is None:
                return future.result()
            raise not_delivered(
                f"report {request.request_id}", timeout_seconds, len(self.outbox), self._last_error
            ) from self._last_error

    def _append(
        self, request: pb.ReportRolloutsRequest, future: Future[pb.ReportRolloutsResponse] | None
    ) -> int:
        self._connection.check_usable()
        payload = request.SerializeToString()
        # Under the lock, or the sender could finish the report before its future is known.
        with self._state:
            sequence = self.outbox.append(payload)
            if future is not None:
                self._waiting[sequence] = future
        self.nudge()
        return sequence

    def nudge(self) -> None:
        """Makes the sender try now in place of after its back-off."""
        with self._state:
            if self._stopped or len(self.outbox) == 0:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="curriculum-outbox", daemon=True)
                self._thread.start()
            self._nudged = True
            self._state.notify_all()

    def flush(self, timeout_seconds: float) -> None:
        """Returns when the outbox is empty; after the deadline raises what stood in the way."""
        self._connection.check_usable()
        self.nudge()
        with self._state:
            if not self._state.wait_for(lambda: len(self.outbox) == 0 or self._stopped, timeout_seconds):
                raise not_delivered(
                    "the outbox", timeout_seconds, len(self.outbox), self._last_error
                ) from self._last_error

    def take_refused(self) -> tuple[RefusedReport, ...]:
        """Reports refused while nobody waited for them, since the last time this was asked."""
        with self._state:
            refused = tuple(self._refused)
            self._refused.clear()
            return refused

    def stop(self) -> None:
        """Ends the sender; those who wait get `ClientClosedError`."""
        with self._state:
            self._stopped = True
            waiting = list(self._waiting.values())
            self._waiting.clear()
            self._state.notify_all()
        for future in waiting:
            future.set_exception(ClientClosedError("the client was closed with the report unacknowledged"))

    def join(self) -> None:
        """Waits for the sender to end; call after the channel was closed under it."""
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        backoff = Backoff()
        while True:
            with self._state:
                self._state.wait_for(lambda: self._stopped or len(self.outbox) > 0)
                if self._stopped:
                    return
                self._nudged = False
            head = self.outbox.head()
            if head is None:
                continue
            error = self._send(*head)
            if error is None:
                backoff.reset()
                continue
            with self._state:
                pause = backoff.pause_seconds(error)
                # A floor, so that a trainer that queues quickly does not hammer a service that is away.
                self._state.wait_for(lambda: self._stopped, min(pause, INITIAL_BACKOFF_SECONDS))
                self._state.wait_for(lambda: self._stopped or self._nudged, pause)

    def _send(self, sequence: int, payload: bytes) -> CurriculumError | None:
        """One try. Gives the error when the report stays in the outbox."""
        request = pb.ReportRolloutsRequest.FromString(payload)
        try:
            response = self._connection.stub.ReportRollouts(
                request, timeout=self._attempt_seconds, metadata=self._connection.endpoint.metadata
            )
        except grpc.RpcError as rpc_error:
            return self._failed(sequence, request, self._connection.error_of(rpc_error))
        except ValueError:
            # gRPC's answer to a call on a channel that was just closed.
            return ClientClosedError("the client is closed")
        with self._state:
            self._last_error = None
            future = self._finish(sequence)
        if future is not None:
            future.set_result(response)
        return None

    def _failed(
        self, sequence: int, request: pb.ReportRolloutsRequest, error: CurriculumError
    ) -> CurriculumError | None:
        fate = fate_of(error)
        if fate is Fate.REFUSED:
            with self._state:
                future = self._finish(sequence)
                if future is None:
                    self._refused.append(RefusedReport(request.curriculum_id, request.request_id, error))
                    _log.error("Queued report %s was refused and is dropped: %s", request.request_id, error)
            if future is not None:
                future.set_exception(error)
            return None
        with self._state:
            self._last_error = error
            told = list(self._waiting.values()) if fate is Fate.HELD else []
            if told:
                self._waiting.clear()
        for future in told:
            future.set_exception(error)
        return error

    def _finish(self, sequence: int) -> Future[pb.ReportRolloutsResponse] | None:
        self.outbox.remove(sequence)
        self._state.notify_all()
        return self._waiting.pop(sequence, None)


def not_delivered(
    what: str, timeout_seconds: float, waiting: int, last_error: CurriculumError | None
) -> CurriculumError:
    """The error for a deadline that passed while reports stay in the outbox."""
    message = (
        f"{what} was not acknowledged within {timeout_seconds:g} s; "
        f"{waiting} reports stay in the outbox and will be sent again"
    )
    if last_error is None:
        return DeadlineError(message)
    return type(last_error)(
        f"{message}. Last error: {last_error.message}", code=last_error.code, details=last_error.details
    )
