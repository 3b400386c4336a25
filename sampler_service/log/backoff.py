"""When to knock again at a server that does not answer."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from sampler_service.log.errors import LogUnavailableError


class Backoff:
    """Lets callers through while the server answers; fails fast while it does not.

    After a failure everyone is refused for a while (doubling up to `longest_seconds`, with jitter); then one
    caller at a time may try, so that callers do not stack up behind time-outs.
    """

    def __init__(
        self,
        shortest_seconds: float = 0.05,
        longest_seconds: float = 5.0,
        probe_seconds: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._shortest = shortest_seconds
        self._longest = longest_seconds
        self._probe = probe_seconds
        self._clock = clock
        self._failures = 0
        self._retry_at = 0.0
        self._probe_until = 0.0
        self._reason = ""

    @property
    def available(self) -> bool:
        """Whether the last word from the server was an answer."""
        return self._failures == 0

    @property
    def retry_after_seconds(self) -> float:
        """How long to wait before trying is of use."""
        if self.available:
            return 0.0
        return max(self._shortest, max(self._retry_at, self._probe_until) - self._clock())

    def admit(self) -> None:
        """Return if the caller may try now, else raise `LogUnavailableError`."""
        if self.available:
            return
        now = self._clock()
        if now < self._retry_at or now < self._probe_until:
            raise LogUnavailableError(f"the log's server is away: {self._reason}", self.retry_after_seconds)
        self._probe_until = now + self._probe

    def succeeded(self) -> None:
        """The server answered."""
        self._failures = 0
        self._probe_until = 0.0

    def failed(self, reason: str) -> None:
        """The server did not answer. Calls that fail together count once."""
        now = self._clock()
        self._reason = reason
        self._probe_until = 0.0
        if self._failures and now < self._retry_at:
            return
        self._failures += 1
        delay = min(self._longest, self._shortest * 2.0 ** min(self._failures - 1, 30))
        self._retry_at = now + delay * random.uniform(0.75, 1.25)
