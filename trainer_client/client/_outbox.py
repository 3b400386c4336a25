"""Reports that the service has not acknowledged, in order, bounded, optionally on disk."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from trainer_client.client._outbox_file import OutboxFile
from trainer_client.client._status import invalid
from trainer_client.exceptions import (
    AlreadyExistsError,
    CurriculumError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OutboxFullError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnimplementedError,
)

__all__ = ["DEFAULT_OUTBOX_MAX_BYTES", "Fate", "Outbox", "RefusedReport", "fate_of"]

DEFAULT_OUTBOX_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class RefusedReport:
    """A queued report that the service refused when it was sent in the background."""

    curriculum_id: str
    request_id: str
    error: CurriculumError


class Fate(Enum):
    """What becomes of a report after a failed try."""

    REFUSED = "refused"
    """The report itself is wrong: it leaves the outbox, sending it again cannot help."""
    HELD = "held"
    """It stays, but whoever waits is told now: only a person can mend it."""
    RETRIED = "retried"
    """It stays and is sent again."""


def fate_of(error: CurriculumError) -> Fate:
    """Decides by the kind of error."""
    if isinstance(error, InvalidArgumentError | NotFoundError | AlreadyExistsError | FailedPreconditionError):
        return Fate.REFUSED
    if isinstance(error, ResourceExhaustedError) and error.retry_after_seconds is None:
        # A limit of size, not of rate: the same bytes will never fit.
        return Fate.REFUSED
    if isinstance(error, UnauthenticatedError | PermissionDeniedError | UnimplementedError):
        return Fate.HELD
    return Fate.RETRIED


class Outbox:
    """First in, first out. Every method may be called from any thread; each is O(1) but for rare rewrites."""

    def __init__(self, path: Path | str | None = None, max_bytes: int = DEFAULT_OUTBOX_MAX_BYTES) -> None:
        """Takes up what an earlier process left in `path`."""
        if max_bytes < 1:
            raise invalid("outbox_max_bytes", f"is {max_bytes}; must be at least 1")
        self._mutex = threading.Lock()
        self._file = None if path is None else OutboxFile(path)
        self._pending: dict[int, bytes] = {} if self._file is None else self._file.pending
        self._bytes = sum(map(len, self._pending.values()))
        self._max_bytes = max_bytes
        self._next = max(self._pending, default=0) + 1

    @property
    def on_disk(self) -> bool:
        """Whether the reports outlive the process."""
        return self._file is not None

    def __len__(self) -> int:
        return len(self._pending)

    def append(self, payload: bytes) -> int:
        """Keeps a serialized report and gives its place. Raises `OutboxFullError`, `OutboxFileError`."""
        with self._mutex:
            if self._bytes + len(payload) > self._max_bytes:
                raise OutboxFullError(
                    f"{len(self._pending)} reports ({self._bytes} bytes) wait for the service and another "
                    f"{len(payload)} bytes would exceed outbox_max_bytes={self._max_bytes}; "
                    "this report was not taken"
                )
            sequence = self._next
            if self._file is not None:
                self._file.append(sequence, payload)
            self._pending[sequence] = payload
            self._bytes += len(payload)
            self._next += 1
            return sequence

    def head(self) -> tuple[int, bytes] | None:
        """The oldest report, or None."""
        with self._mutex:
            return next(iter(self._pending.items()), None)

    def remove(self, sequence: int) -> None:
        """Forgets a report that was acknowledged or refused."""
        with self._mutex:
            payload = self._pending.pop(sequence)
            self._bytes -= len(payload)
            if self._file is not None:
                self._file.acknowledge(sequence, payload, self._pending)

    def close(self) -> None:
        """Lets go of the file; what is pending stays in it."""
        with self._mutex:
            if self._file is not None:
                self._file.close()
                self._file = None
