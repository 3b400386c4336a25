"""Where the time of a step goes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Adds up seconds by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._start = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the block's time towards `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def merged(self, other: "Stopwatch") -> dict[str, float]:
        """Seconds by phase of both together."""
        names = self.seconds | other.seconds
        return {name: self.seconds.get(name, 0.0) + other.seconds.get(name, 0.0) for name in names}

    def total(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start
