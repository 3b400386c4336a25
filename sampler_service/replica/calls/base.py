"""What every call begins with: finding the replica of its curriculum, and changing it by an event."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from curriculum.v1 import log_pb2
from sampler_service.curriculum.errors import CurriculumError, InvalidArgument, NotFound
from sampler_service.log import LogClient, LogUnavailableError, parse_revision
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.loaded_curricula import LoadedCurricula
from sampler_service.replica.settings import ReplicaSettings

__all__ = ["CurriculumCalls"]

_Answer = TypeVar("_Answer")


class CurriculumCalls:
    """Finds the replicas that calls are about, and writes the events that they come to.

    Its subclasses have one method per RPC, which takes and returns API messages.

    Args:
        client: owned by the caller.
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(self, client: LogClient, settings: ReplicaSettings, *, seed: int | None = None) -> None:
        self._client = client
        self._settings = settings
        self._curricula = LoadedCurricula(client, settings, seed)

    async def replica(
        self, curriculum_id: str, min_revision: str = "", *, browsing: bool = False
    ) -> CurriculumReplica:
        """The replica of a curriculum, loaded, and at `min_revision` or later."""
        if min_revision:
            try:
                parse_revision(min_revision)
            except ValueError:
                raise InvalidArgument(
                    "INVALID_REVISION",
                    f"min_revision = {min_revision!r} is not a revision this service gave.",
                    "min_revision",
                ) from None
        replica = await self._curricula.get(curriculum_id, browsing=browsing)
        if min_revision:
            await replica.reach(min_revision)
        return replica

    async def _reading(
        self, curriculum_id: str, min_revision: str = "", *, browsing: bool = False
    ) -> CurriculumReplica:
        """For reads: caught up with the log, or marked stale when it is away."""
        replica = await self.replica(curriculum_id, min_revision, browsing=browsing)
        try:
            await replica.catch_up()
        except LogUnavailableError:
            if min_revision:
                await replica.reach(min_revision)
        except NotFound:
            # Perhaps another replica created it anew under its old id.
            return await self.replica(curriculum_id, min_revision)
        return replica

    async def _unless_replaced(
        self, curriculum_id: str, attempt: Callable[[], Awaitable[_Answer]]
    ) -> _Answer:
        """Tries once more if the curriculum turns out to have been deleted, and perhaps created anew."""
        with self._curricula.in_use(curriculum_id):
            replica = self._curricula.find(curriculum_id)
            try:
                return await attempt()
            except NotFound:
                if replica is None or not replica.gone:
                    raise
            return await attempt()

    async def _mutate(
        self, curriculum_id: str, event: log_pb2.Event
    ) -> tuple[CurriculumReplica, log_pb2.Outcome]:
        """Recalls a repeat, refuses what the state refuses, else appends and folds."""
        return await self._unless_replaced(curriculum_id, lambda: self._mutate_once(curriculum_id, event))

    async def _mutate_once(
        self, curriculum_id: str, event: log_pb2.Event
    ) -> tuple[CurriculumReplica, log_pb2.Outcome]:
        replica = await self.replica(curriculum_id)
        return replica, await self._carry_out(replica, event)

    async def _carry_out(self, replica: CurriculumReplica, event: log_pb2.Event) -> log_pb2.Outcome:
        outcome = replica.machine.recall(event)
        if outcome is not None:
            return outcome
        try:
            replica.machine.check(event)
        except CurriculumError:
            # Perhaps only this replica is behind: look again before refusing.
            await replica.catch_up()
            outcome = replica.machine.recall(event)
            if outcome is not None:
                return outcome
            replica.machine.check(event)
        return await replica.commit(event)
