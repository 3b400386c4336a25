"""Around every call: who may, figures, request ids in the log, errors into statuses, deadlines."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

import grpc
import structlog
from google.protobuf.message import DecodeError, Message
from prometheus_client import CollectorRegistry, Counter, Histogram

from sampler_service.access import EVERYBODY, Principal, Throttled
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.rpc.admission import Admission
from sampler_service.rpc.errors import Refusal, describe
from sampler_service.rpc.open_calls import OpenCalls
from sampler_service.rpc.roles import role_of
from sampler_service.tracing import ServerSpan

__all__ = ["CallInterceptor"]

_log = structlog.get_logger(__name__)

_DETAILS_KEY = "grpc-status-details-bin"
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_KINDS = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}
_STANDARD_SERVICES = ("grpc.health.", "grpc.reflection.")

Answer = TypeVar("Answer")
# grpc.aio's contexts and handlers have no useful static types.
_Context = Any


class _Malformed:
    """Stands for a request that is no message of its type; raised when it is looked at."""

    def __init__(self, why: str) -> None:
        self.why = why


class CallInterceptor(grpc.aio.ServerInterceptor):
    """One interceptor for all of it, because each one costs every call.

    Metrics, by the names and labels of the gRPC ecosystem: `grpc_server_started_total`,
    `grpc_server_handled_total`, `grpc_server_handling_seconds`, `grpc_server_msg_received_total`,
    `grpc_server_msg_sent_total`.
    """

    def __init__(self, registry: CollectorRegistry, admission: Admission, open_calls: OpenCalls) -> None:
        self._admission = admission
        self._open_calls = open_calls
        labels = ("grpc_type", "grpc_service", "grpc_method")
        self._started = Counter("grpc_server_started_total", "Calls that began.", labels, registry=registry)
        self._handled = Counter(
            "grpc_server_handled_total", "Calls that ended.", (*labels, "grpc_code"), registry=registry
        )
        self._seconds = Histogram(
            "grpc_server_handling_seconds",
            "How long calls took.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )
        self._received = Counter(
            "grpc_server_msg_received_total", "Messages taken from streams.", labels, registry=registry
        )
        self._sent = Counter(
            "grpc_server_msg_sent_total", "Messages sent on streams.", labels, registry=registry
        )
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._refusals: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def until_idle(self) -> None:
        """Returns when no call is being worked on (health watches and reflection apart)."""
        await self._idle.wait()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler with everything around it; made once per method."""
        method = handler_call_details.method
        wrapped = self._handlers.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            # Unknown methods are gRPC's to refuse; keeping them would let a client fill the memory.
            if handler is None:
                return None
            wrapped = self._handlers[method] = self._wrap(handler, method)
        refusal = self._refusals.get(method)
        if refusal is None or self._admission.may_be_known(handler_call_details.invocation_metadata):
            return wrapped
        return refusal

    def _wrap(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        service, _, name = method.strip("/").rpartition("/")
        if service.startswith(_STANDARD_SERVICES):
            return self._open_calls.wrap(handler)
        kind = _KINDS[bool(handler.request_streaming), bool(handler.response_streaming)]
        call: _Call[Any] = _Call(self, kind, service, name)
        # To gRPC a stream of messages: of others it reads one, however large, before it asks the handler.
        self._refusals[method] = grpc.stream_stream_rpc_method_handler(call.streaming(_known_by_now, True))
        codecs = (_tolerant(handler.request_deserializer), handler.response_serializer)
        if handler.request_streaming and handler.response_streaming:
            return grpc.stream_stream_rpc_method_handler(call.streaming(handler.stream_stream, True), *codecs)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(call.streaming(handler.unary_stream, False), *codecs)
        if handler.request_streaming:
            return grpc.stream_unary_rpc_method_handler(call.single(handler.stream_unary, True), *codecs)
        return grpc.unary_unary_rpc_method_handler(call.single(handler.unary_unary, False), *codecs)


class _Call(Generic[Answer]):
    """Wraps the handlers of one method."""

    def __init__(self, owner: CallInterceptor, kind: str, service: str, name: str) -> None:
        self._owner = owner
        self._name = name
        self._role = role_of(name)
        self._admission = owner._admission
        self._labels = (kind, service, name)
        self._started = owner._started.labels(*self._labels)
        self._seconds = owner._seconds.labels(*self._labels)
        self._received = owner._received.labels(*self._labels)
        self._sent = owner._sent.labels(*self._labels)

    def single(
        self, behavior: Callable[..., Awaitable[Answer]], streams: bool
    ) -> Callable[[Any, _Context], Coroutine[Any, Any, Answer]]:
        """For methods with one answer."""

        async def handle(request: Any, context: _Context) -> Answer:
            began = self._begin()
            span = ServerSpan(*self._labels[1:], context.invocation_metadata)
            code = grpc.StatusCode.OK
            caller = EVERYBODY
            try:
                _refuse_late(context)
                caller = self._admission.admit(context, self._role, self._name)
                return await behavior(self._checked(request, streams, caller), context)
            except asyncio.CancelledError:
                code = _why_cancelled(context)
                raise
            except Exception as error:
                refusal = describe(error)
                code = _CODES[refusal.code]
                await _abort(context, refusal)
                raise AssertionError("abort raises") from error
            finally:
                self._end(began, code, request, caller, span)

        return handle

    def streaming(
        self, behavior: Callable[..., AsyncIterator[Answer]], streams: bool
    ) -> Callable[[Any, _Context], AsyncIterator[Answer]]:
        """For methods with a stream of answers."""

        async def handle(request: Any, context: _Context) -> AsyncIterator[Answer]:
            began = self._begin()
            span = ServerSpan(*self._labels[1:], context.invocation_metadata)
            # If the client goes, we are closed in the middle of a `yield`.
            code = grpc.StatusCode.CANCELLED
            caller = EVERYBODY
            try:
                _refuse_late(context)
                caller = self._admission.admit(context, self._role, self._name)
                async for answer in behavior(self._checked(request, streams, caller), context):
                    self._admission.check_current(caller)
                    self._sent.inc()
                    yield answer
                code = grpc.StatusCode.OK
            except asyncio.CancelledError:
                code = _why_cancelled(context)
                raise
            except Exception as error:
                refusal = describe(error)
                code = _CODES[refusal.code]
                await _abort(context, refusal)
            finally:
                self._end(began, code, request, caller, span)

        return handle

    def _checked(self, request: Any, streams: bool, caller: Principal) -> Any:
        """The request, or the stream of them, with what the caller may not do refused."""
        if streams:
            return self._admission.check_stream(
                caller, self._role, self._name, self._counted(_checked_stream(request))
            )
        self._admission.check_message(caller, self._role, self._name, _checked(request))
        return request

    async def _counted(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for request in requests:
            self._received.inc()
            yield request

    def _begin(self) -> float:
        self._started.inc()
        self._owner._active += 1
        self._owner._idle.clear()
        return time.perf_counter()

    def _end(
        self, began: float, code: grpc.StatusCode, request: Any, caller: Principal, span: ServerSpan
    ) -> None:
        self._admission.leave(caller)
        seconds = time.perf_counter() - began
        self._seconds.observe(seconds)
        self._owner._handled.labels(*self._labels, code.name).inc()
        self._owner._active -= 1
        if self._owner._active == 0:
            self._owner._idle.set()
        curriculum_id = getattr(request, "curriculum_id", "")
        request_id = getattr(request, "request_id", "")
        span.end(code.value[0], caller.name, curriculum_id, request_id)
        _log.debug(
            "call",
            method=self._name,
            code=code.name,
            caller=caller.name,
            milliseconds=round(seconds * 1000, 3),
            curriculum_id=curriculum_id,
            request_id=request_id,
            **({"trace_id": span.trace_id} if span.trace_id else {}),
        )


async def _known_by_now(_requests: object, _context: _Context) -> AsyncIterator[Any]:
    """For a call that was to be refused, and whose token came into force in that moment."""
    raise Throttled(
        "TOKEN_NEW", "The token has come into force just now. Call again.", retry_after_seconds=0.1
    )
    yield


def _tolerant(deserialize: Callable[[bytes], Message]) -> Callable[[bytes], Message | _Malformed]:
    """gRPC would answer UNKNOWN to bytes that are no message; we answer INVALID_ARGUMENT."""

    def read(data: bytes) -> Message | _Malformed:
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Malformed(str(error))

    return read


def _checked(request: Any) -> Any:
    if isinstance(request, _Malformed):
        raise InvalidArgument(
            "MALFORMED_MESSAGE", f"The request cannot be read as a message of this method: {request.why}."
        )
    return request


async def _checked_stream(requests: Any) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request)


def _refuse_late(context: _Context) -> None:
    """Nobody waits for the answer to a call that comes after its deadline: do not begin it."""
    remaining = context.time_remaining()
    if remaining is not None and remaining <= 0:
        raise asyncio.CancelledError


def _why_cancelled(context: _Context) -> grpc.StatusCode:
    remaining = context.time_remaining()
    late = remaining is not None and remaining <= 0
    return grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED


async def _abort(context: _Context, refusal: Refusal) -> None:
    status = refusal.to_status()
    metadata = ((_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(_CODES[refusal.code], refusal.message, metadata)
