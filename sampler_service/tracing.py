"""OpenTelemetry spans, where an exporter is configured; otherwise they cost one comparison.

The standard variables apply (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_SAMPLER`, `OTEL_SERVICE_NAME`, ...). The
packages come with the `otel` extra.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span, Tracer

__all__ = ["MissingExtraError", "ServerSpan", "configure", "span", "wanted"]

_tracer: Tracer | None = None
_NOTHING: AbstractContextManager[None] = nullcontext()


class MissingExtraError(RuntimeError):
    """Traces are wanted and the packages for them are not installed."""


def wanted(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether the environment names where traces go."""
    if (
        environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER") == "none"
    ):
        return False
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    return any(environ.get(name) for name in endpoints)


def configure(exporter: SpanExporter | None = None) -> Callable[[], None]:
    """Starts tracing; what it returns sends the rest and stops it.

    Args:
        exporter: where spans go; None: by OTLP to the endpoint in the environment.

    Raises:
        MissingExtraError: the extra is not installed.
    """
    global _tracer
    try:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        if exporter is None:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

            exporter = OTLPSpanExporter()
    except ImportError as error:
        raise MissingExtraError(
            "traces are asked for (OTEL_EXPORTER_OTLP_ENDPOINT) and OpenTelemetry is not installed: "
            "pip install 'curriculum-sampler[otel]', or unset the variable"
        ) from error
    name = os.environ.get("OTEL_SERVICE_NAME") or "sampler-service"
    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: name}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = provider.get_tracer("sampler_service")

    def stop() -> None:
        global _tracer
        _tracer = None
        provider.shutdown()

    return stop


def span(name: str, **attributes: str | int) -> AbstractContextManager[Span | None]:
    """A span of something that we ask of another server; `__` in a name stands for a dot."""
    if _tracer is None:
        return _NOTHING
    from opentelemetry.trace import SpanKind

    named = {key.replace("__", "."): value for key, value in attributes.items()}
    return _tracer.start_as_current_span(name, kind=SpanKind.CLIENT, attributes=named)


class ServerSpan:
    """A call that we answer, under the caller's span if its metadata names one. Begin it in a task of its own."""

    __slots__ = ("_span",)

    def __init__(self, service: str, method: str, metadata: Callable[[], Any]) -> None:
        self._span: Span | None = None
        if _tracer is None:
            return
        from opentelemetry import context, propagate, trace

        carrier = {key: value for key, value in metadata() or () if isinstance(value, str)}
        attributes = {"rpc.system": "grpc", "rpc.service": service, "rpc.method": method}
        self._span = _tracer.start_span(
            f"{service}/{method}",
            context=propagate.extract(carrier),
            kind=trace.SpanKind.SERVER,
            attributes=attributes,
        )
        # The task ends with the call, and its context with it: nothing to take back.
        context.attach(trace.set_span_in_context(self._span))

    def end(self, code: int, caller: str, curriculum_id: str, request_id: str) -> None:
        """With how it came out; `code` is a google.rpc.Code."""
        if self._span is None:
            return
        from opentelemetry.trace import StatusCode

        attributes: dict[str, str | int] = {
            "rpc.grpc.status_code": code,
            "enduser.id": caller,
            "curriculum.id": curriculum_id,
            "curriculum.request_id": request_id,
        }
        self._span.set_attributes({name: value for name, value in attributes.items() if value != ""})
        # Faults of the service, not of the caller: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL,
        # UNAVAILABLE, DATA_LOSS.
        if code in (2, 4, 12, 13, 14, 15):
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    @property
    def trace_id(self) -> str:
        """In hexadecimal, for the log; empty without tracing."""
        return f"{self._span.get_span_context().trace_id:032x}" if self._span is not None else ""
