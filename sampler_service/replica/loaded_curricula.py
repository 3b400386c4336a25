"""The curricula that a process holds in memory: loaded on demand, let go when idle and memory is short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from sampler_service.log import LogClient, LogError
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.requests import require_id
from sampler_service.replica.settings import ReplicaSettings
from sampler_service.replica.snapshotting import take_snapshot

__all__ = ["LoadedCurricula"]


class LoadedCurricula:
    """One replica per curriculum in use.

    Args:
        client: owned by the caller.
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(self, client: LogClient, settings: ReplicaSettings, seed: int | None) -> None:
        self._client = client
        self._settings = settings
        self._seed = seed
        self._replicas: dict[str, CurriculumReplica] = {}
        self._opening: dict[str, asyncio.Lock] = {}

    def __iter__(self) -> Iterator[CurriculumReplica]:
        """Those in memory now; the caller may await and forget some in between."""
        return iter(list(self._replicas.values()))

    def find(self, curriculum_id: str) -> CurriculumReplica | None:
        """The replica in memory, if there is one; perhaps of a curriculum that is gone."""
        return self._replicas.get(curriculum_id)

    async def get(self, curriculum_id: str) -> CurriculumReplica:
        """The replica of a curriculum, loaded if need be, and marked as used now.

        Raises:
            InvalidArgument: the id cannot be one.
            NotFound: no such curriculum.
            LogError: it cannot be loaded.
        """
        replica = self._replicas.get(curriculum_id)
        if replica is None or replica.gone:
            replica = await self._open(curriculum_id)
        replica.used = time.monotonic()
        return replica

    async def _open(self, curriculum_id: str) -> CurriculumReplica:
        require_id(curriculum_id, "curriculum_id")
        lock = self._opening.setdefault(curriculum_id, asyncio.Lock())
        try:
            async with lock:
                replica = self._replicas.get(curriculum_id)
                if replica is None or replica.gone:
                    self._replicas.pop(curriculum_id, None)
                    replica = CurriculumReplica(self._client, curriculum_id, self._settings, self._seed)
                    await replica.open()
                    self._replicas[curriculum_id] = replica
                return replica
        finally:
            if not lock.locked():
                self._opening.pop(curriculum_id, None)

    def forget(self, curriculum_id: str) -> None:
        """The log under this id is another one now: whoever holds its old replica is told."""
        replica = self._replicas.get(curriculum_id)
        if replica is not None:
            self.drop(replica)

    def drop(self, replica: CurriculumReplica) -> None:
        """This replica's curriculum was deleted: it serves nobody any more."""
        replica.gone = True
        if self._replicas.get(replica.curriculum_id) is replica:
            del self._replicas[replica.curriculum_id]

    async def let_go_of_idle(self) -> None:
        """Frees memory: curricula idle the longest go first, after a snapshot so that they return fast."""
        held = sum(replica.state.table.nbytes for replica in self)
        for replica in sorted(self, key=lambda replica: replica.used):
            if held <= self._settings.max_table_bytes:
                return
            if time.monotonic() - replica.used < self._settings.idle_seconds:
                return
            try:
                if replica.events_since_snapshot:
                    await take_snapshot(replica)
            except LogError:
                continue
            held -= replica.state.table.nbytes
            await replica.close()
            self._replicas.pop(replica.curriculum_id, None)
