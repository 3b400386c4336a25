"""From a failed call to an exception of ours.

`google.rpc.Status` travels in the trailing metadata `grpc-status-details-bin`; it is read
here directly, because grpcio-status is not part of the base install.
"""

from __future__ import annotations

from typing import Protocol, cast

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from trainer_client.exceptions import (
    AbortedError,
    AlreadyExistsError,
    CallCancelledError,
    CurriculumError,
    DeadlineError,
    ErrorDetails,
    FailedPreconditionError,
    FieldViolation,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)

STATUS_DETAILS_KEY = "grpc-status-details-bin"

_CLASSES: dict[str, type[CurriculumError]] = {
    "INVALID_ARGUMENT": InvalidArgumentError,
    "OUT_OF_RANGE": InvalidArgumentError,
    "NOT_FOUND": NotFoundError,
    "ALREADY_EXISTS": AlreadyExistsError,
    "FAILED_PRECONDITION": FailedPreconditionError,
    "ABORTED": AbortedError,
    "RESOURCE_EXHAUSTED": ResourceExhaustedError,
    "UNAUTHENTICATED": UnauthenticatedError,
    "PERMISSION_DENIED": PermissionDeniedError,
    "UNAVAILABLE": UnavailableError,
    "DEADLINE_EXCEEDED": DeadlineError,
    "CANCELLED": CallCancelledError,
    "UNIMPLEMENTED": UnimplementedError,
}
_CODE_NAMES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


class _FailedCall(Protocol):
    """What `grpc.RpcError` of both the sync and the asyncio stack offers."""

    def code(self) -> grpc.StatusCode: ...
    def details(self) -> str | None: ...
    def trailing_metadata(self) -> object: ...


def from_rpc_error(error: grpc.RpcError, *, closed: bool = True) -> CurriculumError:
    """The exception for a failed call; unknown or missing details give a plain one, never a failure.

    Args:
        closed: the client was. Else it has cancelled nothing: a service that stops ends so what it has no time
            left for, and another one, or the same later, may be asked again.
    """
    call = cast(_FailedCall, error)
    code, message = call.code(), call.details() or ""
    if code is grpc.StatusCode.CANCELLED and not closed:
        code, message = grpc.StatusCode.UNAVAILABLE, f"the service ended the call: {message or 'it stops'}"
    return error_from_code(code.name, message, _details_of(call.trailing_metadata()))


def error_from_code(code: int | str, message: str, details: ErrorDetails | None = None) -> CurriculumError:
    """The exception for a `google.rpc.Code`, given by number or by name."""
    name = code if isinstance(code, str) else _CODE_NAMES.get(code, "UNKNOWN")
    return _CLASSES.get(name, InternalError)(message or name, code=name, details=details)


def invalid(field: str, description: str) -> InvalidArgumentError:
    """An argument that the SDK refuses before anything is sent."""
    return InvalidArgumentError(
        f"{field}: {description}",
        details=ErrorDetails(field_violations=(FieldViolation(field, description),)),
    )


def _details_of(metadata: object) -> ErrorDetails:
    for key, value in cast("tuple[tuple[str, str | bytes], ...]", metadata or ()):
        if key == STATUS_DETAILS_KEY and isinstance(value, bytes):
            return _parse_details(value)
    return ErrorDetails()


def _parse_details(serialized: bytes) -> ErrorDetails:
    try:
        status = status_pb2.Status.FromString(serialized)
    except DecodeError:
        # A proxy may have cut the header; the code and message still stand.
        return ErrorDetails()
    info = error_details_pb2.ErrorInfo()
    bad_request = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    retry_after_seconds: float | None = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad_request.DESCRIPTOR):
            detail.Unpack(bad_request)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after_seconds = retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return ErrorDetails(
        reason=info.reason,
        domain=info.domain,
        metadata=dict(info.metadata),
        field_violations=tuple(
            FieldViolation(violation.field, violation.description)
            for violation in bad_request.field_violations
        ),
        retry_after_seconds=retry_after_seconds,
    )
