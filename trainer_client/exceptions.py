"""Everything the SDK raises.

Each error also inherits the standard library's error that it refines, so a caller may
catch `TimeoutError` or `LookupError` without knowing this package:

    CurriculumError
    ├── InvalidArgumentError      + ValueError           INVALID_ARGUMENT, OUT_OF_RANGE; own checks
    ├── NotFoundError             + LookupError          NOT_FOUND
    ├── AlreadyExistsError        + ValueError           ALREADY_EXISTS
    ├── FailedPreconditionError   + RuntimeError         FAILED_PRECONDITION
    ├── AbortedError              + RuntimeError         ABORTED
    ├── ResourceExhaustedError    + RuntimeError         RESOURCE_EXHAUSTED
    ├── UnauthenticatedError      + PermissionError      UNAUTHENTICATED
    ├── PermissionDeniedError     + PermissionError      PERMISSION_DENIED
    ├── UnavailableError          + ConnectionError      UNAVAILABLE
    ├── DeadlineError             + TimeoutError         DEADLINE_EXCEEDED
    ├── CallCancelledError        + RuntimeError         CANCELLED
    ├── UnimplementedError        + NotImplementedError  UNIMPLEMENTED
    ├── InternalError             + RuntimeError         INTERNAL, UNKNOWN, DATA_LOSS
    ├── ClientClosedError         + RuntimeError         the client was closed, or belongs to another process
    ├── OutboxFullError           + BufferError          too many reports wait for the service
    └── OutboxFileError           + OSError              the outbox file is foreign or in use
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "AbortedError",
    "AlreadyExistsError",
    "CallCancelledError",
    "ClientClosedError",
    "CurriculumError",
    "DeadlineError",
    "ErrorDetails",
    "FailedPreconditionError",
    "FieldViolation",
    "InternalError",
    "InvalidArgumentError",
    "NotFoundError",
    "OutboxFileError",
    "OutboxFullError",
    "PermissionDeniedError",
    "ResourceExhaustedError",
    "UnauthenticatedError",
    "UnavailableError",
    "UnimplementedError",
]


@dataclass(frozen=True)
class FieldViolation:
    """One field of a request that was refused, and why."""

    field: str
    description: str


@dataclass(frozen=True)
class ErrorDetails:
    """What the service said beyond the message (`google.rpc.Status` details)."""

    reason: str = ""
    domain: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    field_violations: tuple[FieldViolation, ...] = ()
    retry_after_seconds: float | None = None


class CurriculumError(Exception):
    """Base of every error of the SDK.

    `code` is the name of the gRPC status ("" when the error arose in the client),
    `reason` the service's machine-readable reason such as `CURRICULUM_NOT_FOUND`.
    """

    def __init__(self, message: str, *, code: str = "", details: ErrorDetails | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.details = details or ErrorDetails()

    @property
    def reason(self) -> str:
        """Upper-case reason given by the service, or ""."""
        return self.details.reason

    @property
    def field_violations(self) -> tuple[FieldViolation, ...]:
        """The fields that were refused; empty when the error is not about a field."""
        return self.details.field_violations

    @property
    def retry_after_seconds(self) -> float | None:
        """How long the service asks to wait before the next try, if it said so."""
        return self.details.retry_after_seconds

    def __str__(self) -> str:
        parts = [self.message]
        # A service that writes the field into its message should not be quoted twice.
        parts += [
            f"{violation.field}: {violation.description}"
            for violation in self.field_violations
            if violation.description not in self.message
        ]
        head = self.reason or self.code
        return f"[{head}] {'; '.join(parts)}" if head else "; ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.message, self.code, self.details)


def _rebuild(
    error_class: type[CurriculumError], message: str, code: str, details: ErrorDetails
) -> CurriculumError:
    return error_class(message, code=code, details=details)


class InvalidArgumentError(CurriculumError, ValueError):
    """A field of the request is wrong; `field_violations` names it."""


class NotFoundError(CurriculumError, LookupError):
    """The curriculum, prompt, lease or checkpoint does not exist."""


class AlreadyExistsError(CurriculumError, ValueError):
    """Something of that name exists already."""


class FailedPreconditionError(CurriculumError, RuntimeError):
    """The curriculum is not in a state in which this can be done, for instance an empty pool."""


class AbortedError(CurriculumError, RuntimeError):
    """Somebody else changed it meanwhile, for instance another etag: read again, then decide."""


class ResourceExhaustedError(CurriculumError, RuntimeError):
    """A limit was hit: message size, rate, memory."""


class UnauthenticatedError(CurriculumError, PermissionError):
    """No token, or one the service does not know."""


class PermissionDeniedError(CurriculumError, PermissionError):
    """The token is known but its role does not allow this."""


class UnavailableError(CurriculumError, ConnectionError):
    """The service could not be reached, or it lost its log, for as long as the call was retried."""


class DeadlineError(CurriculumError, TimeoutError):
    """No answer within `timeout_seconds`. The request may or may not have been carried out."""


class CallCancelledError(CurriculumError, RuntimeError):
    """The call was cancelled because the client was closed under it."""


class UnimplementedError(CurriculumError, NotImplementedError):
    """The server does not know this call: an older service, or not a curriculum service at all."""


class InternalError(CurriculumError, RuntimeError):
    """The service failed in a way it should not have."""


class ClientClosedError(CurriculumError, RuntimeError):
    """The client was closed, or was made in another process before a fork."""


class OutboxFullError(CurriculumError, BufferError):
    """As many reports wait for the service as the outbox may hold; this one was not taken."""


class OutboxFileError(CurriculumError, OSError):
    """The outbox file cannot be used: another process holds it, or it is not an outbox."""
