"""The curricula that a process holds in memory: loaded on demand, let go when idle or when memory is short."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from sampler_service.curriculum.errors import CurriculumError
from sampler_service.log import LogClient, LogError
from sampler_service.replica.curriculum_replica import CurriculumReplica
from sampler_service.replica.memory import estimated_bytes
from sampler_service.replica.requests import require_id
from sampler_service.replica.settings import ReplicaSettings
from sampler_service.replica.snapshotting import take_snapshot

__all__ = ["LoadedCurricula", "Residency"]

_log = structlog.get_logger(__name__)

# A log's tail longer than this is worth a snapshot before its curriculum is let go; a shorter one is folded
# again faster than it would be saved.
_TAIL_EVENTS: Final = 64
_TAIL_BYTES: Final = 2**20
_COMPLAIN_EVERY_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Residency:
    """How many curricula are in memory, and how they come and go, for metrics."""

    loaded: int
    memory_bytes: int
    loads: int
    evicted_idle: int
    evicted_for_memory: int


class LoadedCurricula:
    """One replica per curriculum in use, at most `max_memory_bytes` of them but for what is in use right now.

    Args:
        client: owned by the caller.
        seed: for reproducible draws in tests; None for real chance.
    """

    def __init__(self, client: LogClient, settings: ReplicaSettings, seed: int | None) -> None:
        self._client = client
        self._settings = settings
        self._seed = seed
        self._replicas: OrderedDict[str, CurriculumReplica] = OrderedDict()
        """Those used the longest ago come first."""
        self._bytes: dict[str, int] = {}
        self._calls: Counter[str] = Counter()
        self._opening: dict[str, asyncio.Lock] = {}
        self._making_room = asyncio.Lock()
        self._loads = self._evicted_idle = self._evicted_for_memory = 0
        self._complained = float("-inf")

    def __iter__(self) -> Iterator[CurriculumReplica]:
        """Those in memory now; the caller may await and forget some in between."""
        return iter(list(self._replicas.values()))

    def residency(self) -> Residency:
        """Figures of what is in memory."""
        return Residency(
            loaded=len(self._replicas),
            memory_bytes=sum(self._bytes.values()),
            loads=self._loads,
            evicted_idle=self._evicted_idle,
            evicted_for_memory=self._evicted_for_memory,
        )

    def find(self, curriculum_id: str) -> CurriculumReplica | None:
        """The replica in memory, if there is one; perhaps of a curriculum that is gone."""
        return self._replicas.get(curriculum_id)

    @contextmanager
    def in_use(self, curriculum_id: str) -> Iterator[None]:
        """Whatever happens to memory, this curriculum stays in it meanwhile."""
        self._calls[curriculum_id] += 1
        try:
            yield
        finally:
            self._calls[curriculum_id] -= 1
            if not self._calls[curriculum_id]:
                del self._calls[curriculum_id]

    async def get(self, curriculum_id: str, *, browsing: bool = False) -> CurriculumReplica:
        """The replica of a curriculum, loaded if need be, and marked as used now.

        Args:
            browsing: somebody looks at many: it does not count as use, and what it loads is let go first.

        Raises:
            InvalidArgument: the id cannot be one.
            NotFound: no such curriculum.
            LogError: it cannot be loaded.
        """
        replica = self._replicas.get(curriculum_id)
        if replica is None or replica.gone:
            replica = await self._open(curriculum_id)
            if browsing:
                if curriculum_id in self._replicas:
                    self._replicas.move_to_end(curriculum_id, last=False)
                await self._make_room()
            else:
                with self.in_use(curriculum_id):
                    await self._make_room()
        if not browsing:
            replica.used, replica.called = time.monotonic(), True
            if curriculum_id in self._replicas:
                self._replicas.move_to_end(curriculum_id)
        return replica

    async def _open(self, curriculum_id: str) -> CurriculumReplica:
        require_id(curriculum_id, "curriculum_id")
        lock = self._opening.setdefault(curriculum_id, asyncio.Lock())
        try:
            async with lock:
                replica = self._replicas.get(curriculum_id)
                if replica is None or replica.gone:
                    self._remove(curriculum_id)
                    replica = CurriculumReplica(self._client, curriculum_id, self._settings, self._seed)
                    await replica.open()
                    self._replicas[curriculum_id] = replica
                    self._bytes[curriculum_id] = estimated_bytes(replica.state)
                    self._loads += 1
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
            self._remove(replica.curriculum_id)

    async def weigh(self, replica: CurriculumReplica) -> None:
        """It has grown, by more than the next round should wait for."""
        if self._replicas.get(replica.curriculum_id) is replica:
            self._bytes[replica.curriculum_id] = estimated_bytes(replica.state) + replica.beside_bytes
            with self.in_use(replica.curriculum_id):
                await self._make_room()

    async def tidy(self) -> None:
        """Lets go of what nobody uses, and of more when memory is short."""
        for replica in self:
            if not replica.gone:
                self._bytes[replica.curriculum_id] = estimated_bytes(replica.state) + replica.beside_bytes
        for replica in self:
            idle = time.monotonic() - replica.used >= self._settings.idle_seconds
            if idle and not replica.state.leases.live and await self._let_go(replica):
                self._evicted_idle += 1
        await self._make_room()

    async def _make_room(self) -> None:
        """Lets go of those used the longest ago until the rest fits; what is in use stays."""
        if sum(self._bytes.values()) <= self._settings.max_memory_bytes:
            return
        async with self._making_room:
            for replica in self:
                if sum(self._bytes.values()) <= self._settings.max_memory_bytes:
                    return
                wanted = replica.called and time.monotonic() - replica.used < self._settings.idle_seconds
                if await self._let_go(replica):
                    self._evicted_for_memory += 1
                    if wanted:
                        self._complain()

    async def _let_go(self, replica: CurriculumReplica) -> bool:
        """Forgets a replica that nothing needs now, after a snapshot if it would return slowly without."""
        if not self._may_go(replica):
            return False
        long_tail = (
            replica.events_since_snapshot >= _TAIL_EVENTS or replica.bytes_since_snapshot >= _TAIL_BYTES
        )
        if not replica.gone:
            used = replica.used
            try:
                if long_tail:
                    await take_snapshot(replica)
                await replica.keep_outline()
            except (LogError, CurriculumError) as error:
                _log.debug("kept in memory", curriculum_id=replica.curriculum_id, why=str(error))
                return False
            if replica.used != used or not self._may_go(replica):
                return False
        self._remove(replica.curriculum_id)
        await replica.close()
        return True

    def _may_go(self, replica: CurriculumReplica) -> bool:
        # While the log is away what is in memory is all there is.
        return (
            self._client.available
            and self._replicas.get(replica.curriculum_id) is replica
            and not self._calls[replica.curriculum_id]
            and not replica.busy
        )

    def _remove(self, curriculum_id: str) -> None:
        self._replicas.pop(curriculum_id, None)
        self._bytes.pop(curriculum_id, None)

    def _complain(self) -> None:
        now = time.monotonic()
        if now - self._complained >= _COMPLAIN_EVERY_SECONDS:
            self._complained = now
            _log.warning(
                "curricula in use do not fit into memory and are loaded again and again; "
                "raise max_memory_bytes, or spread them over more hosts",
                max_memory_bytes=self._settings.max_memory_bytes,
                loaded=len(self._replicas),
            )
