"""All curricula of one service process: loaded on demand, kept in memory while used, one method per RPC."""

from __future__ import annotations

import structlog

from sampler_service.curriculum.errors import CurriculumError
from sampler_service.log import LogClient, LogError
from sampler_service.replica.calls.administration import AdministrationCalls
from sampler_service.replica.calls.batches import BatchCalls
from sampler_service.replica.calls.checkpoints import CheckpointCalls
from sampler_service.replica.calls.prompts import PromptCalls
from sampler_service.replica.calls.reads import ReadCalls
from sampler_service.replica.curriculum_statistics import CurriculumStatistics, statistics_of
from sampler_service.replica.housekeeping import Housekeeping
from sampler_service.replica.loaded_curricula import Residency
from sampler_service.replica.settings import ReplicaSettings
from sampler_service.replica.shadowing import Shadowing
from sampler_service.replica.snapshotting import take_snapshot
from sampler_service.replica.tailing import Tailing

__all__ = ["ReplicaHost"]

_log = structlog.get_logger(__name__)


class ReplicaHost(AdministrationCalls, PromptCalls, BatchCalls, CheckpointCalls, ReadCalls):
    """Serves every curriculum of a log server.

    Methods named after RPCs take and return API messages. They are in `calls`, by subject; here is what begins and
    ends with the process.

    Raises:
        CurriculumError: the request is refused.
        LogError: the log cannot be used right now.

    Args:
        client: owned by the caller.
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(self, client: LogClient, settings: ReplicaSettings, *, seed: int | None = None) -> None:
        super().__init__(client, settings, seed=seed)
        self._housekeeping = Housekeeping(self._curricula, settings)
        self._tailing = Tailing(lambda: self._curricula, settings.max_lag_seconds)
        self._shadowing = Shadowing(lambda: self._curricula, settings.shadow_share)

    async def start(self) -> None:
        """Begins housekeeping, tailing, and following shadow strategies."""
        self._housekeeping.start()
        self._tailing.start()
        self._shadowing.start()

    async def close(self) -> None:
        """Ends what goes on in the background, waits for writes, and snapshots what has changed."""
        await self._shadowing.stop()
        await self._tailing.stop()
        await self._housekeeping.stop()
        for replica in self._curricula:
            await replica.close()
            if replica.events_since_snapshot and not replica.gone:
                try:
                    await take_snapshot(replica)
                    await replica.keep_outline()
                except (LogError, CurriculumError) as error:
                    _log.warning("no final snapshot", curriculum_id=replica.curriculum_id, why=str(error))

    async def ready(self) -> tuple[bool, str]:
        """Whether the log can be reached, and what is loaded is near its end."""
        try:
            await self._client.ping()
        except LogError as error:
            return False, str(error)
        if self._tailing.lag.behind:
            return False, self._tailing.lag.detail
        return True, "serving"

    @property
    def readiness_interval_seconds(self) -> float:
        """How often `ready` may change its mind."""
        return self._tailing.interval_seconds

    def statistics(self) -> list[CurriculumStatistics]:
        """Figures of the loaded curricula; one whose state is unsound is left out, and in the log."""
        figures = []
        for replica in self._curricula:
            try:
                figures.append(statistics_of(replica))
            except Exception:
                _log.exception("no figures", curriculum_id=replica.curriculum_id)
        return figures

    def residency(self) -> Residency:
        """How many curricula are in memory, and how they come and go."""
        return self._curricula.residency()
