"""Refusals: what a request did wrong, where, and what to do about it.

CurriculumError
├── InvalidArgument     (ValueError)   the request is wrong whatever the state
├── FailedPrecondition  (RuntimeError) the request is wrong in this state
├── NotFound            (LookupError)  it names something that is not there
├── AlreadyExists       (ValueError)   it makes something that is there
├── Exhausted           (RuntimeError) nothing is left to give right now
├── Aborted             (RuntimeError) somebody else was faster; ask again
└── Unavailable         (RuntimeError) another replica may know, this one cannot
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from curriculum.v1 import log_pb2

__all__ = [
    "Aborted",
    "AlreadyExists",
    "CurriculumError",
    "Exhausted",
    "FailedPrecondition",
    "InvalidArgument",
    "NotFound",
    "Unavailable",
    "from_refusal",
    "renamed_fields",
]


class CurriculumError(Exception):
    """Base of all refusals.

    Args:
        reason: UPPER_CASE word a program can match.
        message: one sentence for people: what was wrong and the remedy.
        field: path of the offending request field, if there is one.
        retry_after_seconds: when asking again may help.
    """

    code = 2  # google.rpc.Code

    def __init__(
        self, reason: str, message: str, field: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds

    def to_refusal(self) -> log_pb2.Refusal:
        """The form in which a fold keeps it."""
        return log_pb2.Refusal(code=self.code, reason=self.reason, field=self.field, message=self.message)


class InvalidArgument(CurriculumError, ValueError):
    """The request is wrong whatever the state."""

    code = 3


class NotFound(CurriculumError, LookupError):
    """The request names something that is not there."""

    code = 5


class AlreadyExists(CurriculumError, ValueError):
    """The request makes something that is there already."""

    code = 6


class Exhausted(CurriculumError, RuntimeError):
    """Nothing is left to give right now; asking again later may help."""

    code = 8


class FailedPrecondition(CurriculumError, RuntimeError):
    """The request is wrong in this state."""

    code = 9


class Aborted(CurriculumError, RuntimeError):
    """Somebody else was faster: the same request may succeed when sent again, unless it names an etag."""

    code = 10


class Unavailable(CurriculumError, RuntimeError):
    """This replica cannot serve the curriculum; one of another release may."""

    code = 14


_BY_CODE: dict[int, type[CurriculumError]] = {
    cls.code: cls
    for cls in (InvalidArgument, NotFound, AlreadyExists, Exhausted, FailedPrecondition, Aborted)
}


def from_refusal(refusal: log_pb2.Refusal) -> CurriculumError:
    """The error that a fold kept as a refusal."""
    return _BY_CODE.get(refusal.code, CurriculumError)(refusal.reason, refusal.message, refusal.field)


@contextmanager
def renamed_fields(new: str) -> Iterator[None]:
    """Refusals of a strategy inside name `new` where they would name `strategy`."""
    try:
        yield
    except CurriculumError as refusal:
        field = re.sub(r"^strategy\b", new, refusal.field)
        message = re.sub(r"\bstrategy\.", f"{new}.", refusal.message)
        raise type(refusal)(refusal.reason, message, field, refusal.retry_after_seconds) from None
