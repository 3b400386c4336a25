"""OpenTelemetry in the SDK: used when the trainer has set it up, and neither needed nor imported otherwise."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry import trace

__all__ = ["client_span", "trace_metadata"]


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata that puts the service's span below the present one; nothing without one."""
    if not _is_set_up():
        return ()
    from opentelemetry import propagate, trace

    if not trace.get_current_span().get_span_context().is_valid:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def client_span(request: object) -> AbstractContextManager[trace.Span | None]:
    """A span of the call that this request begins, all attempts included."""
    if not _is_set_up():
        return nullcontext()
    from opentelemetry import trace

    method = type(request).__name__.removesuffix("Request")
    attributes: dict[str, Any] = {
        "rpc.system": "grpc",
        "rpc.service": "curriculum.v1.CurriculumService",
        "rpc.method": method,
        "curriculum.id": getattr(request, "curriculum_id", ""),
    }
    tracer = trace.get_tracer("trainer_client")
    return tracer.start_as_current_span(
        f"curriculum.v1.CurriculumService/{method}", kind=trace.SpanKind.CLIENT, attributes=attributes
    )


def _is_set_up() -> bool:
    """Whoever sets a tracer up has imported it. Many have it installed through something else."""
    return "opentelemetry.trace" in sys.modules
