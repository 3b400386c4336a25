"""Shadow strategies of all loaded curricula: who follows them, when, and with how much of a processor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

import structlog

from sampler_service.curriculum.errors import CurriculumError
from sampler_service.log import LogError, LogGapError, LogLostError
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.shadow_follower import ShadowFollower, Superseded

__all__ = ["Shadowing"]

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.25
_REPORT_SECONDS = 5.0
# A comparison that nobody has reported on for so long, though there was something to, is taken over.
_PATIENCE_SECONDS = 20.0
_COMPARE_WITHIN_MILLIS = 30_000


class Shadowing:
    """Follows where shadows are set and nobody else does; one curriculum at a time, so that the share holds.

    Args:
        curricula: those in memory, asked for on each round.
        share: most of one processor that it takes, on average.
        report_seconds: least time between two reports on one curriculum.
        patience_seconds: how long another process may be silent before its place is taken.
        compare_within_millis: batches farther behind the log's end are scored and not compared: that is what
            gives way when time is short.
    """

    def __init__(
        self,
        curricula: Callable[[], Iterable[CurriculumReplica]],
        share: float,
        *,
        report_seconds: float = _REPORT_SECONDS,
        patience_seconds: float = _PATIENCE_SECONDS,
        compare_within_millis: int = _COMPARE_WITHIN_MILLIS,
    ) -> None:
        self._curricula = curricula
        self._share = share
        self._report_seconds = report_seconds
        self._patience_seconds = patience_seconds
        self._compare_within_millis = compare_within_millis
        self._followers: dict[CurriculumReplica, ShadowFollower] = {}
        self._seen: dict[CurriculumReplica, tuple[tuple[int, str, int], float]] = {}
        """Where each comparison stood that others follow, and since when it has not moved though it should."""
        self._rounds: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, in the background."""
        self._rounds = asyncio.create_task(self._go_round(), name="shadows")

    async def stop(self) -> None:
        """Ends; what has been folded and not reported is folded again by whoever follows next."""
        if self._rounds is not None:
            self._rounds.cancel()
            await asyncio.wait([self._rounds])

    async def _go_round(self) -> None:
        while True:
            spent = await self.look_round()
            await asyncio.sleep(spent * (1.0 / self._share - 1.0) if spent > 0 else _LOOK_SECONDS)

    async def look_round(self) -> float:
        """Folds a slice of every curriculum that has shadows which nobody else follows.

        Returns:
            processor time spent in threads, in seconds.
        """
        loaded = [one for one in self._curricula() if not one.gone and one.state.strategy.shadows]
        for replica in {*self._followers, *self._seen} - set(loaded):
            self._drop(replica)
            del self._seen[replica]
        spent = 0.0
        for replica in loaded:
            try:
                spent += await self._follow(replica)
            except Superseded:
                self._drop(replica)
            except (LogError, CurriculumError) as error:
                if isinstance(error, LogGapError | LogLostError):
                    _log.warning("shadows fell behind the log", curriculum_id=replica.curriculum_id)
                    self._drop(replica)
                _log.debug("shadows wait", curriculum_id=replica.curriculum_id, why=str(error))
            except Exception:
                # Nobody awaits this task, and what is served does not depend on it.
                _log.exception("following shadows failed", curriculum_id=replica.curriculum_id)
                self._drop(replica)
        return spent

    def _drop(self, replica: CurriculumReplica) -> None:
        self._followers.pop(replica, None)
        self._seen[replica] = (_standing(replica), time.monotonic())
        replica.beside_bytes = 0

    async def _follow(self, replica: CurriculumReplica) -> float:
        follower = self._followers.get(replica)
        if follower is None:
            if not self._may_begin(replica):
                return 0.0
            follower = ShadowFollower(replica, self._report_seconds, self._compare_within_millis)
            await follower.open()
            self._followers[replica] = follower
        spent = await follower.follow_on()
        replica.beside_bytes = follower.nbytes
        return spent

    def _may_begin(self, replica: CurriculumReplica) -> bool:
        """Whether there is something to follow, and nobody who does."""
        book, standing, now = replica.state.shadows, _standing(replica), time.monotonic()
        seen, since = self._seen.get(replica, (None, now))
        nothing_new = replica.state.revision in (book.reported_revision, book.since_revision)
        if seen != standing or nothing_new:
            self._seen[replica] = (standing, now)
            return book.number == 0 and not nothing_new
        return book.number == 0 or now - since >= self._patience_seconds


def _standing(replica: CurriculumReplica) -> tuple[int, str, int]:
    book = replica.state.shadows
    return replica.state.epoch, book.since_revision, book.number
