"""When a worker that ended is started again."""

from __future__ import annotations

__all__ = ["RestartDelay"]


class RestartDelay:
    """Doubles with every worker that ends soon after its start; one that lived long starts from the shortest."""

    def __init__(
        self, shortest_seconds: float = 0.2, longest_seconds: float = 30.0, steady_seconds: float = 60.0
    ) -> None:
        self._shortest = shortest_seconds
        self._longest = longest_seconds
        self._steady = steady_seconds
        self._ends = 0

    def after(self, lived_seconds: float) -> float:
        """Seconds to wait now that a worker ended which had lived so long."""
        if lived_seconds >= self._steady:
            self._ends = 0
        delay = min(self._longest, self._shortest * 2.0 ** min(self._ends, 30))
        self._ends += 1
        return float(delay)
