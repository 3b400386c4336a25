"""Who may write snapshots: a lock with a token, checked inside every transaction that it guards."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import WatchError

from sampler_service.log.errors import SnapshotterLostError

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sampler_service.log.client import LogClient


T = TypeVar("T")

_ATTEMPTS = 5


class SnapshotterLock:
    """The right to write a curriculum's snapshots, for a time.

    Expiry only lets others in; what keeps two holders from harming each other is `while_held`, whose
    transaction fails if the token is not ours at the moment of the change.
    """

    def __init__(self, client: LogClient, curriculum_id: str) -> None:
        self._client = client
        self._curriculum_id = curriculum_id
        self._key = client.keys(curriculum_id).snapshotter
        self._token: bytes | None = None

    async def acquire(self, token: str, ttl_seconds: float) -> bool:
        """Take the lock for a time if it is free or ours already; whether we hold it.

        A token belongs to one process and one curriculum, and is never used by another.
        """
        mine = token.encode()
        millis = max(1, round(ttl_seconds * 1000))
        taken = await self._call(lambda redis: redis.set(self._key, mine, nx=True, px=millis))
        self._token = mine
        if taken:
            return True
        if await self.renew(ttl_seconds):
            return True
        self._token = None
        return False

    async def renew(self, ttl_seconds: float) -> bool:
        """Hold it for `ttl_seconds` from now; False if it is not ours any more."""
        millis = max(1, round(ttl_seconds * 1000))

        async def extend(pipe: Any) -> None:
            pipe.multi()
            pipe.pexpire(self._key, millis)
            await pipe.execute()

        try:
            await self.while_held(extend)
        except SnapshotterLostError:
            return False
        return True

    async def release(self) -> None:
        """Let others have it; nothing happens if it is not ours any more."""
        if self._token is None:
            return

        async def drop(pipe: Any) -> None:
            pipe.multi()
            pipe.execute_command("DEL", self._key)
            await pipe.execute()

        try:
            await self.while_held(drop)
        except SnapshotterLostError:
            pass
        finally:
            self._token = None

    async def _call(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        return await self._client.call(operation, self._key)

    def require_token(self) -> bytes:
        """Our token; `SnapshotterLostError` if the lock was never acquired."""
        if self._token is None:
            raise SnapshotterLostError(
                f"the snapshotter's lock of curriculum {self._curriculum_id!r} is not held: acquire it first"
            )
        return self._token

    async def while_held(self, change: Callable[[Any], Awaitable[T]], *watched: str) -> T:
        """Run `change(pipe)`, which reads, calls `pipe.multi()` and executes: only while we hold the lock.

        It happens wholly or not at all. It runs again when another changed one of the `watched` keys in
        between.
        """
        token = self.require_token()

        async def transact(redis: Redis) -> T:
            async with redis.pipeline(transaction=True) as pipe:
                await pipe.watch(self._key, *watched)
                if await pipe.get(self._key) != token:
                    raise SnapshotterLostError(
                        f"another process writes the snapshots of curriculum {self._curriculum_id!r} now"
                    )
                return await change(pipe)

        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._call(transact)
            except WatchError:
                continue
        try:
            return await self._call(transact)
        except WatchError as error:
            raise SnapshotterLostError(
                f"the snapshots of curriculum {self._curriculum_id!r} are changed by others all the time"
            ) from error
