"""OpenTelemetry in the SDK: used when the trainer has set it up, absent when it is not even installed."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

try:
    from opentelemetry import propagate, trace
except ImportError:
    _installed = False
else:
    _installed = True

__all__ = ["client_span", "trace_metadata"]


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that puts the service's span below the present one; nothing without one."""
    if not _installed or not trace.get_current_span().get_span_context().is_valid:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def client_span(request: object) -> AbstractContextManager[Any]:
    """A span of the call that this request begins, all attempts included."""
    if not _installed:
        return nullcontext()
    method = type(request).__name__.removesuffix("Request")
    attributes = {
        "rpc.system": "grpc",
        "rpc.service": "curriculum.v1.CurriculumService",
        "rpc.method": method,
        "curriculum.id": getattr(request, "curriculum_id", ""),
    }
    tracer = trace.get_tracer("trainer_client")
    return tracer.start_as_current_span(
        f"curriculum.v1.CurriculumService/{method}", kind=trace.SpanKind.CLIENT, attributes=attributes
    )
