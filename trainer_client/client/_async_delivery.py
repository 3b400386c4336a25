"""Sends the outbox from one task, in order: the asyncio twin of `_delivery`."""

from __future__ import annotations

import asyncio
import logging
from collections import deque

import grpc

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.client._async_connection import AsyncConnection
from trainer_client.client._delivery import MAX_REFUSED_KEPT, not_delivered
from trainer_client.client._outbox import Fate, Outbox, RefusedReport, fate_of
from trainer_client.client._retry import INITIAL_BACKOFF_SECONDS, Backoff, Deadline
from trainer_client.exceptions import ClientClosedError, CurriculumError

_log = logging.getLogger("trainer_client.client")
_Answer = asyncio.Future[pb.ReportRolloutsResponse]


class AsyncDelivery:
    """The outbox with its sender task (started by the first report or `nudge` inside the loop)."""

    def __init__(self, connection: AsyncConnection, outbox: Outbox, attempt_seconds: float) -> None:
        self._connection = connection
        self.outbox = outbox
        self._attempt_seconds = attempt_seconds
        self._waiting: dict[int, _Answer] = {}
        self._refused: deque[RefusedReport] = deque(maxlen=MAX_REFUSED_KEPT)
        self._last_error: CurriculumError | None = None
        self._appending = asyncio.Lock()
        self._nudged = asyncio.Event()
        self._emptied = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    async def queue(self, request: pb.ReportRolloutsRequest) -> None:
        """Keeps a report for the sender and returns at once (after the sync, with a file)."""
        await self._append(request, None)

    async def deliver(
        self, request: pb.ReportRolloutsRequest, timeout_seconds: float
    ) -> pb.ReportRolloutsResponse:
        """Keeps a report and waits for its answer; after the deadline it stays in the outbox."""
        deadline = Deadline(timeout_seconds)
        answer: _Answer = asyncio.get_running_loop().create_future()
        sequence = await self._append(request, answer)
        try:
            return await asyncio.wait_for(answer, deadline.remaining_seconds())
        except TimeoutError:
            raise not_delivered(
                f"report {request.request_id}", timeout_seconds, len(self.outbox), self._last_error
            ) from self._last_error
        finally:
            self._waiting.pop(sequence, None)

    async def _append(self, request: pb.ReportRolloutsRequest, answer: _Answer | None) -> int:
        self._connection.check_usable()
        payload = request.SerializeToString()
        async with self._appending:
            if self.outbox.on_disk:
                # The sync to disk must not hold the loop up; the order is kept by the lock.
                sequence = await asyncio.to_thread(self.outbox.append, payload)
            else:
                sequence = self.outbox.append(payload)
            if answer is not None:
                self._waiting[sequence] = answer
        self.nudge()
        return sequence

    def nudge(self) -> None:
        """Makes the sender try now in place of after its back-off."""
        if self._stopped or len(self.outbox) == 0:
            return
        self._emptied.clear()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="curriculum-outbox")
        self._nudged.set()

    async def flush(self, timeout_seconds: float) -> None:
        """Returns when the outbox is empty; after the deadline raises what stood in the way."""
        self._connection.check_usable()
        if len(self.outbox) == 0:
            return
        self.nudge()
        try:
            await asyncio.wait_for(self._emptied.wait(), timeout_seconds)
        except TimeoutError:
            raise not_delivered(
                "the outbox", timeout_seconds, len(self.outbox), self._last_error
            ) from self._last_error

    def take_refused(self) -> tuple[RefusedReport, ...]:
        """Reports refused while nobody waited for them, since the last time this was asked."""
        refused = tuple(self._refused)
        self._refused.clear()
        return refused

    async def stop(self) -> None:
        """Ends the sender; those who wait get `ClientClosedError`."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(
                    ClientClosedError("the client was closed with the report unacknowledged")
                )
        self._waiting.clear()
        self._emptied.set()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            self._nudged.clear()
            # Not while a report is taken in, or it could be answered before its waiter is known.
            async with self._appending:
                head = self.outbox.head()
            if head is None:
                self._emptied.set()
                await self._nudged.wait()
                continue
            error = await self._send(*head)
            if error is None:
                backoff.reset()
                continue
            pause = backoff.pause_seconds(error)
            # A floor, so that a trainer that queues quickly does not hammer a service that is away.
            await asyncio.sleep(min(pause, INITIAL_BACKOFF_SECONDS))
            try:
                await asyncio.wait_for(self._nudged.wait(), pause)
            except TimeoutError:
                continue

    async def _send(self, sequence: int, payload: bytes) -> CurriculumError | None:
        """One try. Gives the error when the report stays in the outbox."""
        request = pb.ReportRolloutsRequest.FromString(payload)
        try:
            response = await self._connection.stub.ReportRollouts(
                request, timeout=self._attempt_seconds, metadata=self._connection.endpoint.metadata
            )
        except grpc.RpcError as rpc_error:
            return self._failed(sequence, request, self._connection.error_of(rpc_error))
        self._last_error = None
        answer = self._finish(sequence)
        if answer is not None:
            answer.set_result(response)
        return None

    def _failed(
        self, sequence: int, request: pb.ReportRolloutsRequest, error: CurriculumError
    ) -> CurriculumError | None:
        fate = fate_of(error)
        if fate is Fate.REFUSED:
            answer = self._finish(sequence)
            if answer is not None:
                answer.set_exception(error)
            else:
                self._refused.append(RefusedReport(request.curriculum_id, request.request_id, error))
                _log.error("Queued report %s was refused and is dropped: %s", request.request_id, error)
            return None
        self._last_error = error
        if fate is Fate.HELD:
            for answer in self._waiting.values():
                if not answer.done():
                    answer.set_exception(error)
            self._waiting.clear()
        return error

    def _finish(self, sequence: int) -> _Answer | None:
        self.outbox.remove(sequence)
        answer = self._waiting.pop(sequence, None)
        return answer if answer is not None and not answer.done() else None
