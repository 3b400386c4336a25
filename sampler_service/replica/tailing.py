"""Keeps loaded curricula near the end of their logs, and says when that does not succeed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import structlog

from sampler_service.curriculum.errors import CurriculumError
from sampler_service.log import LogError
from sampler_service.replica.curriculum_replica import CurriculumReplica

__all__ = ["Lag", "Tailing"]

_log = structlog.get_logger(__name__)

# Reads on at once: the connections are there for calls first.
_READERS = 4


class Lag:
    """Whether a replica is too far behind, with hysteresis: behind beyond `most_seconds`, again well below half."""

    def __init__(self, most_seconds: float) -> None:
        self._most = most_seconds
        self._behind = False
        self._detail = ""

    @property
    def behind(self) -> bool:
        """Whether it is too far behind."""
        return self._behind

    @property
    def detail(self) -> str:
        """Which curriculum, and how far; empty while not behind."""
        return self._detail if self._behind else ""

    def observe(self, lags_seconds: Iterable[tuple[str, float]]) -> bool:
        """Takes in how far each curriculum is behind; whether the verdict changed."""
        curriculum_id, worst = max(lags_seconds, key=lambda one: one[1], default=("", 0.0))
        before = self._behind
        self._behind = worst > (self._most / 2 if before else self._most)
        if self._behind:
            self._detail = (
                f"curriculum {curriculum_id!r} has not seen the end of its log for {worst:.1f} s"
                f" (max_lag_seconds = {self._most:g})"
            )
        return self._behind != before


class Tailing:
    """Reads on where no call has done so for a while, a quarter of `most_seconds` at most.

    Args:
        curricula: those in memory, asked for on each round.
        most_seconds: how far behind a replica may be before it counts as lagging.
    """

    def __init__(self, curricula: Callable[[], Iterable[CurriculumReplica]], most_seconds: float) -> None:
        self.lag = Lag(most_seconds)
        self.interval_seconds = min(1.0, most_seconds / 8)
        """How often it looks; who asks for the verdict need not ask more often."""
        self._curricula = curricula
        self._refresh_seconds = most_seconds / 4
        self._readers = asyncio.Semaphore(_READERS)
        self._reading: dict[CurriculumReplica, asyncio.Task[None]] = {}
        self._rounds: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in the background."""
        self._rounds = asyncio.create_task(self._go_round(), name="tailing")

    async def stop(self) -> None:
        """Ends, and waits for what is being folded."""
        tasks = [*self._reading.values(), *([self._rounds] if self._rounds else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _go_round(self) -> None:
        while True:
            loaded = [replica for replica in self._curricula() if not replica.gone]
            lags = [(replica.curriculum_id, replica.lag_seconds) for replica in loaded]
            if self.lag.observe(lags):
                _log.warning("lagging" if self.lag.behind else "caught up", detail=self.lag.detail)
            for replica, (_, seconds) in zip(loaded, lags, strict=True):
                if seconds >= self._refresh_seconds and replica not in self._reading:
                    self._reading[replica] = asyncio.create_task(self._read_on(replica))
            await asyncio.sleep(self.interval_seconds)

    async def _read_on(self, replica: CurriculumReplica) -> None:
        try:
            async with self._readers:
                await replica.catch_up()
        except (LogError, CurriculumError) as error:
            _log.debug("tailing waits", curriculum_id=replica.curriculum_id, why=str(error))
        except Exception:
            # Nobody awaits this task, and the others must be read on.
            _log.exception("tailing failed", curriculum_id=replica.curriculum_id)
        finally:
            del self._reading[replica]
