"""The asyncio channel: opens on first use inside the loop, calls with retries inside a deadline."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc
from grpc import aio

from curriculum.v1 import curriculum_pb2_grpc
from trainer_client.client._channel import Endpoint
from trainer_client.client._retry import Backoff, Deadline, pause_before_retry
from trainer_client.client._status import from_rpc_error
from trainer_client.client._tracing import client_span
from trainer_client.exceptions import ClientClosedError, CurriculumError, DeadlineError

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class AsyncConnection:
    """A channel with its stub, for the tasks of one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._pid = os.getpid()
        self._closed = False
        self._channel: aio.Channel | None = None
        self._stub: curriculum_pb2_grpc.CurriculumServiceAsyncStub | None = None

    @property
    def stub(self) -> curriculum_pb2_grpc.CurriculumServiceAsyncStub:
        """The stub; the first use must be inside the event loop, which the channel then belongs to."""
        if self._stub is None:
            self._stub = curriculum_pb2_grpc.CurriculumServiceStub(self._open())
        return self._stub

    def _open(self) -> aio.Channel:
        self.check_usable()
        if self._channel is None:
            endpoint = self.endpoint
            self._channel = (
                aio.insecure_channel(endpoint.target, options=endpoint.options)
                if endpoint.credentials is None
                else aio.secure_channel(endpoint.target, endpoint.credentials, options=endpoint.options)
            )
        return self._channel

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def forked(self) -> bool:
        """Whether this process is a forked child of the one that made the client."""
        return os.getpid() != self._pid

    def error_of(self, rpc_error: grpc.RpcError) -> CurriculumError:
        """The exception for a failed call of this connection."""
        return from_rpc_error(rpc_error, closed=self._closed)

    def check_usable(self) -> None:
        """Raises `ClientClosedError` after `close`, and in a forked child."""
        if self._closed:
            raise ClientClosedError("the client is closed; make a new one")
        if self.forked:
            raise ClientClosedError(
                "the client was made before a fork, which its channel does not survive; make one per process"
            )

    async def call(
        self,
        method: aio.UnaryUnaryMultiCallable[_Request, _Response],
        request: _Request,
        timeout_seconds: float,
    ) -> _Response:
        """A unary call, retried while the service is away and time is left."""
        with client_span(request):
            return await self.retrying(
                lambda seconds: method(request, timeout=seconds, metadata=self.endpoint.metadata),
                timeout_seconds,
            )

    async def retrying(
        self, attempt: Callable[[float], Awaitable[_Response]], timeout_seconds: float
    ) -> _Response:
        """Awaits `attempt(seconds left)` until it succeeds, fails for good, or time is up."""
        self.check_usable()
        deadline = Deadline(timeout_seconds)
        backoff = Backoff()
        unavailable: CurriculumError | None = None
        while True:
            try:
                return await attempt(deadline.remaining_seconds())
            except grpc.RpcError as rpc_error:
                error = self.error_of(rpc_error)
                pause = pause_before_retry(error, backoff, deadline)
                if pause is None:
                    if isinstance(error, DeadlineError) and unavailable is not None:
                        # Time ran out in the middle of a retry: why it was retried says more.
                        raise unavailable from rpc_error
                    raise error from rpc_error
                unavailable = error
            except aio.UsageError:
                # gRPC's answer to a call on a channel that another task has just closed.
                self.check_usable()
                raise
            await asyncio.sleep(pause)

    async def health(self, method: str, request: bytes, timeout_seconds: float) -> bytes:
        """A unary call of another service, in bytes."""
        call: aio.UnaryUnaryMultiCallable[bytes, bytes] = self._open().unary_unary(
            method, request_serializer=bytes, response_deserializer=bytes
        )
        try:
            return await call(request, timeout=timeout_seconds, metadata=self.endpoint.metadata)
        except grpc.RpcError as error:
            raise self.error_of(error) from error

    async def close(self) -> None:
        """Closes the channel; calls in progress end with an error."""
        # First: what the channel's end cancels is not the service's doing.
        closed, self._closed = self._closed, True
        if not closed and not self.forked and self._channel is not None:
            await self._channel.close()
