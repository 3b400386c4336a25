"""How often somebody may do something: one bucket of permits per key."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

__all__ = ["RateLimiter"]


class RateLimiter:
    """Token buckets that fill by `per_second` up to `burst`; keys not seen for long are forgotten. O(1).

    Args:
        now: a monotonic clock in seconds.
        max_keys: the most that are remembered; beyond it the one unused the longest starts afresh.
    """

    def __init__(
        self,
        per_second: float,
        burst: float,
        *,
        now: Callable[[], float] = time.monotonic,
        max_keys: int = 10_000,
    ) -> None:
        self._per_second = per_second
        self._burst = max(burst, 1.0)
        self._now = now
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_seconds(self, key: str) -> float:
        """Takes a permit and gives 0, or gives the seconds until there is one and takes none."""
        now = self._now()
        permits, since = self._buckets.pop(key, (self._burst, now))
        permits = min(self._burst, permits + (now - since) * self._per_second)
        wait = 0.0 if permits >= 1 else (1 - permits) / self._per_second
        self._buckets[key] = (permits - 1 if wait == 0 else permits, now)
        if len(self._buckets) > self._max_keys:
            self._buckets.popitem(last=False)
        return wait
