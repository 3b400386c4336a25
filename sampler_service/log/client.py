"""The connection to the log's server, shared by all curricula of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from itertools import compress
from typing import Final, TypeVar

from redis import exceptions as redis_errors
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection

from sampler_service import tracing
from sampler_service.log.backoff import Backoff
from sampler_service.log.cluster import ClusterRouter
from sampler_service.log.connect import RedisSettings, open_redis
from sampler_service.log.curriculum_log import CurriculumLog
from sampler_service.log.errors import (
    LogAccessError,
    LogError,
    LogFullError,
    LogUnavailableError,
    ServerUnsuitableError,
)
from sampler_service.log.keys import CurriculumKeys, index_key
from sampler_service.log.outlines import Outlines
from sampler_service.log.server_check import NEEDED, check_server
from sampler_service.log.snapshots import SnapshotStore
from sampler_service.log.staging import StagedSnapshot

T = TypeVar("T")

_REFUSALS = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.NoPermissionError,
)


_LOST_CONNECTION = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)

_SCRIPT_ERRORS: Final[dict[str, type[Exception]]] = {
    "ACL failure": redis_errors.NoPermissionError,
    "-NOPERM": redis_errors.NoPermissionError,
    "-OOM": redis_errors.OutOfMemoryError,
    "-READONLY": redis_errors.ReadOnlyError,
}

_OUTAGE_CODES: Final = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "CLUSTERDOWN", "MASTERDOWN", "LOADING")


class LogClient:
    """Opens logs and snapshot stores; every command to the server passes `call`.

    Safe for any number of asyncio tasks of one event loop. Close it with `aclose` or `async with`.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self.settings = settings
        self.generation = 0
        """Grows with every new connection: what was known of the server must be checked again."""
        self._backoff = Backoff(probe_seconds=settings.timeout_seconds + settings.connect_timeout_seconds)
        self._slots = asyncio.Semaphore(settings.max_connections)
        self._redis = open_redis(settings, self._greet)

    async def __aenter__(self) -> LogClient:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._redis.aclose()

    @property
    def available(self) -> bool:
        """False from a failure until the server answers again."""
        return self._backoff.available

    @property
    def retry_after_seconds(self) -> float:
        """How long to wait while not available."""
        return self._backoff.retry_after_seconds

    def log(self, curriculum_id: str) -> CurriculumLog:
        """The log of one curriculum, whether it exists or not."""
        return CurriculumLog(self, curriculum_id)

    def snapshots(self, curriculum_id: str) -> SnapshotStore:
        """The snapshots of one curriculum."""
        return SnapshotStore(self, curriculum_id)

    def stage(self, curriculum_id: str) -> StagedSnapshot:
        """Room for a snapshot with which a log will begin."""
        return StagedSnapshot(self, curriculum_id)

    @property
    def outlines(self) -> Outlines:
        """What lists say of curricula."""
        return Outlines(self)

    @property
    def clustered(self) -> bool:
        """Whether curricula lie on several nodes."""
        return isinstance(self._redis, ClusterRouter)

    def keys(self, curriculum_id: str) -> CurriculumKeys:
        """The names of a curriculum's keys on this server."""
        if not curriculum_id:
            raise ValueError("curriculum_id is empty")
        return CurriculumKeys.of(self.settings.key_prefix, curriculum_id)

    @property
    def index(self) -> str:
        """Key of the set of all curricula."""
        return index_key(self.settings.key_prefix)

    async def list_curricula(self) -> list[str]:
        """Ids of all curricula that have a log, sorted. O(curricula)."""
        members: set[bytes] = await self.call(lambda redis: redis.execute_command("SMEMBERS", self.index))  # type: ignore[no-untyped-call]
        ids = sorted(member.decode() for member in members)

        if isinstance(self._redis, ClusterRouter):
            here = await asyncio.gather(*(self.log(curriculum_id).exists() for curriculum_id in ids))
            return list(compress(ids, here))

        async def exist(redis: Redis) -> list[int]:
            pipe = redis.pipeline(transaction=False)
            for curriculum_id in ids:
                pipe.execute_command("EXISTS", self.keys(curriculum_id).log)
            return await pipe.execute()

        found = await self.call(exist) if ids else []
        return list(compress(ids, found))

    async def ping(self) -> None:
        """Return if the server answers, else raise `LogUnavailableError`."""
        await self.call(lambda redis: redis.ping())

    async def check_server(self) -> list[str]:
        """Warnings about the server's settings, in plain words; `ServerUnsuitableError` if it is too old."""
        return await self.call(check_server)

    async def call(self, operation: Callable[[Redis], Awaitable[T]], key: str = "") -> T:
        """Run one operation; redis-py's errors come out as `LogError`s, and feed the back-off.

        In a Cluster it runs on the node that holds `key`: all its keys must lie in one slot.
        """
        self._backoff.admit()
        async with self._slots:
            if not self._backoff.available and self._slots.locked():
                self._backoff.admit()
            try:
                redis = self._redis
                if isinstance(redis, ClusterRouter):
                    redis = await redis.node_of(key or self.index)
                with tracing.span("log", db__system="redis", server__address=self.settings.address):
                    result = await _heeding_cancellation(operation(redis))
            except (redis_errors.RedisError, OSError) as error:
                translated = self._translate(error)
                if isinstance(translated, LogUnavailableError):
                    await self._drop_idle_connections()
                else:
                    self._backoff.succeeded()
                if translated is None:
                    raise
                raise translated from error
            except Exception:
                # The operation's own verdict on what the server answered.
                self._backoff.succeeded()
                raise
        self._backoff.succeeded()
        return result

    def _translate(self, error: Exception) -> LogError | None:
        """The `LogError` for an error of redis-py; none where the operation itself knows what it means."""
        if isinstance(error, redis_errors.WatchError):
            # redis-py says the same of a connection that ended while something was watched, changed or not.
            if not isinstance(error.__context__, _LOST_CONNECTION):
                return None
            error = error.__context__
        text = f"{self.settings.address}: {error}"
        error = _out_of_script(error)
        # redis-py dresses a refused password up as a connection error.
        if isinstance(error, _REFUSALS) or isinstance(error.__cause__, _REFUSALS):
            return LogAccessError(text)
        # Every connection begins with it: redis-py dresses that up likewise.
        if "unknown command" in text and "HELLO" in text:
            return ServerUnsuitableError(f"{self.settings.address}: {NEEDED}; this server is older: {error}")
        if isinstance(error, redis_errors.OutOfMemoryError):
            return LogFullError(f"{text} (raise maxmemory, or move the log to a larger server)")
        if _is_outage(error):
            self._backoff.failed(text)
            return LogUnavailableError(text, self._backoff.retry_after_seconds)
        return LogError(text)

    async def _drop_idle_connections(self) -> None:
        """One dead connection means that the idle ones are dead too: do not let each fail somebody's call."""
        with contextlib.suppress(redis_errors.RedisError, OSError):
            if isinstance(self._redis, ClusterRouter):
                self._redis.forget_map()
                await self._redis.drop_idle_connections()
            else:
                await self._redis.connection_pool.disconnect(inuse_connections=False)

    async def _greet(self, connection: AbstractConnection) -> None:
        await connection.on_connect()
        self.generation += 1


def _out_of_script(error: Exception) -> Exception:
    """The error a command would have raised by itself: servers before Redis 7 wrap it when a script runs it."""
    if not isinstance(error, redis_errors.ResponseError) or "script" not in str(error):
        return error
    for mark, kind in _SCRIPT_ERRORS.items():
        if mark in str(error):
            return kind(str(error))
    for code in _OUTAGE_CODES:
        _, mark, text = str(error).partition(f"-{code} ")
        if mark:
            return redis_errors.ResponseError(f"{code} {text}")
    return error


async def _heeding_cancellation(operation: Awaitable[T]) -> T:
    """Await it, and see to it that a cancellation in the meantime is not lost.

    redis-py sends under `asyncio.wait_for`, which before Python 3.12 swallows one that comes as sending ends.
    """
    task = asyncio.current_task()
    cancelled_before = task.cancelling() if task else 0
    result = await operation
    if task and task.cancelling() > cancelled_before:
        raise asyncio.CancelledError
    return result


def _is_outage(error: Exception) -> bool:
    outages = (
        redis_errors.ConnectionError,
        redis_errors.TimeoutError,
        redis_errors.ReadOnlyError,
        redis_errors.ClusterError,
        redis_errors.RedisClusterException,
        redis_errors.TryAgainError,
        redis_errors.AskError,
        OSError,
    )
    if isinstance(error, outages):
        return True
    return str(error).startswith(_OUTAGE_CODES)
