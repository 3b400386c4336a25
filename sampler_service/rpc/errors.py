"""The one place where exceptions become gRPC statuses.

| raised                           | code                | reason                    |
|----------------------------------|---------------------|---------------------------|
| `CurriculumError`                | its own             | its own                   |
| `LogUnavailableError`            | UNAVAILABLE         | LOG_UNAVAILABLE + retry   |
| `LogMissingError`                | NOT_FOUND           | CURRICULUM_NOT_FOUND      |
| `LogExistsError`                 | ALREADY_EXISTS      | CURRICULUM_EXISTS         |
| `LogFullError`                   | RESOURCE_EXHAUSTED  | LOG_FULL                  |
| `LogGapError`, `LogLostError`    | UNAVAILABLE         | LOG_RELOADING + retry     |
| `LogAccessError`                 | UNAVAILABLE         | LOG_ACCESS_REFUSED + retry|
| `SnapshotFormatError`            | FAILED_PRECONDITION | SNAPSHOT_FORMAT           |
| `SnapshotMissingError`           | NOT_FOUND           | SNAPSHOT_MISSING          |
| `SnapshotCorruptError`           | DATA_LOSS           | SNAPSHOT_CORRUPT          |
| anything else                    | INTERNAL            | INTERNAL + incident id    |
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass

import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import CurriculumError
from sampler_service.log import (
    LogAccessError,
    LogExistsError,
    LogFullError,
    LogGapError,
    LogLostError,
    LogMissingError,
    LogUnavailableError,
    SnapshotCorruptError,
    SnapshotFormatError,
    SnapshotMissingError,
)

__all__ = ["DOMAIN", "ENDS_STREAMS", "Refusal", "describe"]

DOMAIN = "sampler-service"
ENDS_STREAMS = code_pb2.UNAVAILABLE
"""Every further report of a stream would meet the same: the stream ends, the client sends again."""

_LONGEST_MESSAGE_BYTES = 1000
"""The text travels thrice in headers, percent- and base64-encoded, and gRPC takes 8 KiB of headers."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Refusal:
    """An exception as the API says it. `code` is a google.rpc.Code."""

    code: int
    reason: str
    message: str
    field: str = ""
    retry_after_seconds: float | None = None
    incident: str = ""

    def to_status(self) -> status_pb2.Status:
        """With ErrorInfo always, BadRequest when a field is to blame, RetryInfo when waiting helps."""
        info = error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN)
        if self.incident:
            info.metadata["incident"] = self.incident
        details: list[Message] = [info]
        if self.field:
            violation = error_details_pb2.BadRequest.FieldViolation(
                field=self.field, description=self.message, reason=self.reason
            )
            details.append(error_details_pb2.BadRequest(field_violations=[violation]))
        if self.retry_after_seconds is not None:
            retry = error_details_pb2.RetryInfo()
            retry.retry_delay.FromNanoseconds(round(self.retry_after_seconds * 1e9))
            details.append(retry)
        status = status_pb2.Status(code=self.code, message=self.message)
        for detail in details:
            packed = AnyMessage()
            packed.Pack(detail)
            status.details.append(packed)
        return status

    def to_stream_error(self) -> pb.StreamError:
        """For an answer in place, on a stream that goes on."""
        return pb.StreamError(code=self.code, reason=self.reason, field=self.field, message=self.message)


def describe(error: BaseException) -> Refusal:
    """What to tell the client. What nobody foresaw is logged with its traceback under an incident id."""
    if isinstance(error, CurriculumError) and error.code not in (code_pb2.UNKNOWN, code_pb2.INTERNAL):
        return Refusal(
            error.code,
            error.reason,
            _shortened(error.message),
            error.field,
            _delay(error.retry_after_seconds),
        )
    match error:
        case LogUnavailableError():
            return Refusal(
                code_pb2.UNAVAILABLE,
                "LOG_UNAVAILABLE",
                _shortened(
                    f"The log's server cannot be reached: {error}. Send the same request again later."
                ),
                retry_after_seconds=_delay(error.retry_after_seconds) or 1.0,
            )
        case LogMissingError():
            return Refusal(
                code_pb2.NOT_FOUND, "CURRICULUM_NOT_FOUND", _shortened(str(error)), "curriculum_id"
            )
        case LogExistsError():
            return Refusal(
                code_pb2.ALREADY_EXISTS, "CURRICULUM_EXISTS", _shortened(str(error)), "curriculum_id"
            )
        case LogFullError():
            return Refusal(code_pb2.RESOURCE_EXHAUSTED, "LOG_FULL", _shortened(str(error)))
        case LogGapError() | LogLostError():
            return Refusal(code_pb2.UNAVAILABLE, "LOG_RELOADING", _shortened(str(error)), "", 1.0)
        case LogAccessError():
            return Refusal(code_pb2.UNAVAILABLE, "LOG_ACCESS_REFUSED", _shortened(str(error)), "", 10.0)
        case SnapshotFormatError():
            return Refusal(code_pb2.FAILED_PRECONDITION, "SNAPSHOT_FORMAT", _shortened(str(error)))
        case SnapshotMissingError():
            return Refusal(code_pb2.NOT_FOUND, "SNAPSHOT_MISSING", _shortened(str(error)))
        case SnapshotCorruptError():
            return Refusal(code_pb2.DATA_LOSS, "SNAPSHOT_CORRUPT", _shortened(str(error)))
    incident = secrets.token_hex(6)
    _log.error("internal error", incident=incident, exc_info=error)
    message = f"The service failed; its log has the details under incident {incident}."
    return Refusal(code_pb2.INTERNAL, "INTERNAL", message, incident=incident)


def _delay(seconds: float | None) -> float | None:
    return max(seconds, 0.0) if seconds is not None and math.isfinite(seconds) else None


def _shortened(message: str) -> str:
    # Percent-encoding makes three bytes of one that is not ASCII.
    text = "".join(character if character.isprintable() else "?" for character in message)
    while len(text.encode(errors="replace")) > _LONGEST_MESSAGE_BYTES:
        text = text[: len(text) * 9 // 10]
    return text if len(text) == len(message) else text + "…"
