"""Health and reflection are for everybody: what strangers can make the server hold at once is bounded here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc

__all__ = ["OpenCalls"]

_READS_OF_AN_ADDRESS = 4
_READS = 16
_THIS_MACHINE = ("ipv4:127.0.0.1", "ipv6:%5B::1%5D", "unix")

# grpc.aio's contexts and handlers have no useful static types.
_Context = Any
_Handler = Callable[[Any, _Context], Coroutine[Any, Any, None]]


class OpenCalls:
    """Lets calls without credentials in, a few messages at a time.

    gRPC knows one largest message for all methods and reads a request whole before it asks the method. So
    requests are read here, at most 4 at a time from one address and 16 from all others than this machine:
    so many times `rpc.max_message_bytes` is the most that strangers can make the server hold.

    Args:
        limit: calls at once; further ones are RESOURCE_EXHAUSTED, so that callers with a token have room.
        read_seconds: how long a message may take, its turn included.
    """

    def __init__(self, limit: int, read_seconds: float = 10.0) -> None:
        self._limit = limit
        self._read_seconds = read_seconds
        self._active = 0
        self._reads = asyncio.Semaphore(_READS)
        self._turns: dict[str, tuple[asyncio.Semaphore, int]] = {}

    def wrap(self, handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler, as one that is asked before its message is read: to gRPC, a stream of messages."""
        if handler.request_streaming:
            behavior = self._stream(handler.stream_stream)
        elif handler.response_streaming:
            behavior = self._after_one(handler.unary_stream)
        else:
            behavior = self._after_one(_written(handler.unary_unary))
        return grpc.stream_stream_rpc_method_handler(
            behavior, handler.request_deserializer, handler.response_serializer
        )

    def _after_one(self, behavior: _Handler) -> _Handler:
        async def handle(_requests: Any, context: _Context) -> None:
            async with self._counted(context):
                try:
                    request = await self._read(context)
                except TimeoutError:
                    await context.abort(
                        grpc.StatusCode.DEADLINE_EXCEEDED,
                        f"The request did not arrive within {self._read_seconds:g} s. Send it again.",
                    )
                if request is grpc.aio.EOF:
                    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "The call has no message.")
                await behavior(request, context)

        return handle

    def _stream(self, behavior: Callable[[Any, _Context], AsyncIterator[Any]]) -> _Handler:
        async def handle(_requests: Any, context: _Context) -> None:
            async def requests() -> AsyncIterator[Any]:
                # Who says nothing for so long has heard all it wanted.
                with suppress(TimeoutError):
                    while (request := await self._read(context)) is not grpc.aio.EOF:
                        yield request

            async with self._counted(context):
                async for answer in behavior(requests(), context):
                    await context.write(answer)

        return handle

    @asynccontextmanager
    async def _counted(self, context: _Context) -> AsyncIterator[None]:
        if self._active >= self._limit:
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._active} calls of health and reflection are open, and there is room for no more. "
                "Call again later.",
            )
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1

    async def _read(self, context: _Context) -> Any:
        """One message, when it is its turn.

        Raises:
            TimeoutError: it did not come.
        """
        address = context.peer().rpartition(":")[0]
        turns, users = self._turns.get(address) or (asyncio.Semaphore(_READS_OF_AN_ADDRESS), 0)
        self._turns[address] = (turns, users + 1)
        try:
            async with asyncio.timeout(self._read_seconds), turns:
                if address in _THIS_MACHINE:
                    return await context.read()
                async with self._reads:
                    return await context.read()
        finally:
            turns, users = self._turns.pop(address)
            if users > 1:
                self._turns[address] = (turns, users - 1)


def _written(behavior: Callable[[Any, _Context], Awaitable[Any]]) -> _Handler:
    """A method with one answer, which writes it."""

    async def handle(request: Any, context: _Context) -> None:
        await context.write(await behavior(request, context))

    return handle
