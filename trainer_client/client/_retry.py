"""One overall deadline per call, and the pauses between tries within it."""

from __future__ import annotations

import random
import time

from trainer_client.client._status import invalid
from trainer_client.exceptions import CurriculumError, UnavailableError

INITIAL_BACKOFF_SECONDS = 0.1
MAX_BACKOFF_SECONDS = 5.0


class Deadline:
    """A point in time by which a call must have ended."""

    def __init__(self, timeout_seconds: float) -> None:
        if not timeout_seconds > 0:
            raise invalid("timeout_seconds", f"is {timeout_seconds}; must be above 0")
        self._end = time.monotonic() + timeout_seconds

    def remaining_seconds(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self._end - time.monotonic())


class Backoff:
    """Pauses that double with jitter, from 0.1 s to 5 s; a `retry_after` of the service is a lower bound."""

    def __init__(self) -> None:
        self._next_seconds = INITIAL_BACKOFF_SECONDS

    def pause_seconds(self, error: CurriculumError) -> float:
        """How long to wait after this failure."""
        pause = self._next_seconds * random.uniform(0.75, 1.25)
        self._next_seconds = min(MAX_BACKOFF_SECONDS, self._next_seconds * 2)
        return max(pause, error.retry_after_seconds or 0.0)

    @property
    def fresh(self) -> bool:
        """Whether nothing has failed since the last success."""
        return self._next_seconds == INITIAL_BACKOFF_SECONDS

    def reset(self) -> None:
        """Starts over after a success."""
        self._next_seconds = INITIAL_BACKOFF_SECONDS


def pause_before_retry(error: CurriculumError, backoff: Backoff, deadline: Deadline) -> float | None:
    """Seconds to wait before trying again, or None when the error is final or time is up."""
    if not isinstance(error, UnavailableError):
        return None
    pause = backoff.pause_seconds(error)
    return pause if pause < deadline.remaining_seconds() else None
