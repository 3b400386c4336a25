"""A snapshot that waits beside a log which does not exist yet, and begins together with it."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from sampler_service.log.blocks import Column
from sampler_service.log.errors import SnapshotMissingError
from sampler_service.log.snapshots import SnapshotStore

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sampler_service.log.client import LogClient


T = TypeVar("T")

IMPORT_REVISION = "0-1"
"""Under which an imported state is kept: before every entry of any log."""

_WAIT_SECONDS = 3600


class StagedSnapshot:
    """Columns on the server that no curriculum names yet. Made by `LogClient.stage`.

    They lie under keys of their own, with an expiry, so that an import that dies leaves nothing behind.
    `CurriculumLog.create` puts them in their place in the transaction that begins the log.
    """

    def __init__(self, client: LogClient, curriculum_id: str) -> None:
        token = secrets.token_hex(8)
        self._client = client
        self._keys = client.keys(curriculum_id)
        base = f"{self._keys.blocks}:import:{token}"
        self._staged = replace(self._keys, blocks=base, manifests=f"{base}:manifests")
        self._store = SnapshotStore(client, curriculum_id, self._staged)

    async def save(self, columns: Mapping[str, Column]) -> None:
        """Send the columns. O(bytes); nothing of it is visible."""
        await self._store.send_staged(IMPORT_REVISION, columns, self._extend)

    async def discard(self) -> None:
        """Remove what was sent."""
        await self._call(lambda redis: redis.execute_command("UNLINK", *self._names))  # type: ignore[no-untyped-call]

    @property
    def _names(self) -> tuple[str, str]:
        return self._staged.blocks, self._staged.manifests

    async def _call(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        return await self._client.call(operation, self._keys.log)

    async def _extend(self) -> None:
        async def expire(redis: Redis) -> None:
            pipe = redis.pipeline(transaction=False)
            for name in self._names:
                pipe.expire(name, _WAIT_SECONDS)
            await pipe.execute()

        await self._call(expire)

    async def prepare(self, redis: Redis) -> None:
        """Before the transaction: make sure that all is there and stays for its duration."""
        for name in self._names:
            if not await redis.expire(name, _WAIT_SECONDS):
                raise SnapshotMissingError("what was sent for the import is gone: the import took too long")

    def enter(self, pipe: Any) -> None:
        """Within the transaction, after the old keys were deleted: put the snapshot in its place."""
        for staged, final in zip(self._names, (self._keys.blocks, self._keys.manifests), strict=True):
            pipe.execute_command("RENAME", staged, final)
            pipe.execute_command("PERSIST", final)
