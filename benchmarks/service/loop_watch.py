"""How long one thing kept the server's event loop from all others."""

from __future__ import annotations

import asyncio
import time

_TICK_SECONDS = 0.002


class LoopWatch:
    """Wakes up every two milliseconds, from the first `take` on, and notes what the loop was kept by.

    Lateness includes waiting for a processor that others use, and for the interpreter's lock while a thread
    computes. Processor time does not: it is what the loop's own thread did in one go.
    """

    def __init__(self) -> None:
        self._late: list[float] = []
        self._busy: list[float] = []
        self._task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        while True:
            wall, busy = time.perf_counter(), time.thread_time()
            await asyncio.sleep(_TICK_SECONDS)
            self._late.append(time.perf_counter() - wall - _TICK_SECONDS)
            self._busy.append(time.thread_time() - busy)

    def take(self) -> dict[str, float]:
        """The longest since the last time, in milliseconds, and what 99 in 100 stayed below."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        late, busy = sorted(self._late) or [0.0], sorted(self._busy) or [0.0]
        self._late, self._busy = [], []
        return {
            "loop_late_p99_ms": round(1e3 * late[int(0.99 * len(late))], 2),
            "loop_late_max_ms": round(1e3 * late[-1], 2),
            "loop_busy_max_ms": round(1e3 * busy[-1], 2),
        }
