"""Snapshots of one curriculum: columns in shared blocks, a manifest per revision, a head that moves on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import WatchError

from curriculum.v1.log_pb2 import SnapshotColumn, SnapshotManifest
from sampler_service.log.blocks import (
    Column,
    ColumnLayout,
    allocate,
    block_places,
    decode,
    digest,
    encode,
    lay_out,
)
from sampler_service.log.errors import (
    LogLostError,
    SnapshotCorruptError,
    SnapshotFormatError,
    SnapshotMissingError,
    SnapshotterLostError,
)
from sampler_service.log.keys import CurriculumKeys
from sampler_service.log.manifest import FORMAT_VERSION, parse_manifest, seal
from sampler_service.log.revision import START, is_after, latest, next_revision, parse_revision
from sampler_service.log.snapshotter import SnapshotterLock

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sampler_service.log.client import LogClient


T = TypeVar("T")

BATCH_BLOCKS = 32
"""Blocks sent, fetched or dropped in one round trip: 2 MiB."""

_HASH_BLOCKS = 256
_ATTEMPTS = 3


class SnapshotStore:
    """Snapshots of one curriculum. Made by `LogClient.snapshots`.

    Whoever writes (save, trim, collect_garbage) must hold `lock`: every visible change is made in a
    transaction that fails with `SnapshotterLostError` once another process took the lock over.
    Reading needs no lock.
    """

    def __init__(self, client: LogClient, curriculum_id: str, keys: CurriculumKeys | None = None) -> None:
        self.curriculum_id = curriculum_id
        self._client = client
        self._keys = keys or client.keys(curriculum_id)
        self.lock = SnapshotterLock(client, curriculum_id)
        """Held by the one process that may write snapshots."""

    async def head(self) -> str | None:
        """Revision of the newest snapshot, if there is one."""
        value = await self._call(lambda redis: redis.get(self._keys.head))
        return None if value is None else _text(value)

    async def revisions(self) -> list[str]:
        """Revisions of all snapshots kept, oldest first."""
        names = await self._call(lambda redis: redis.hkeys(self._keys.manifests))
        return sorted(map(_text, names), key=parse_revision)

    async def save(
        self, revision: str, columns: Mapping[str, Column], stored: Sequence[SnapshotColumn] = ()
    ) -> SnapshotManifest:
        """Keep the columns as the state at `revision`; the head moves to it if that is forward.

        `stored` are further columns, which an earlier snapshot holds already. `SnapshotCorruptError` if the
        server lost them. The arrays must not change meanwhile. Blocks that the server has already are not sent again.
        O(bytes) of hashing in a thread, O(changed bytes) of traffic. Visible only when complete.
        Raises `LogLostError` when the log no longer holds `revision`.
        """
        self.lock.require_token()
        manifest = await self._send(revision, columns, stored)
        await self._publish(manifest)
        return manifest

    async def send_staged(
        self, revision: str, columns: Mapping[str, Column], sent_some: Callable[[], Awaitable[None]]
    ) -> None:
        """Send columns and manifest without a lock and without a head: see `StagedSnapshot`."""
        manifest = await self._send(revision, columns, (), sent_some)
        await self._call(
            lambda redis: redis.hset(self._keys.manifests, revision, manifest.SerializeToString())
        )
        await sent_some()

    async def manifest(self, revision: str) -> SnapshotManifest:
        """The manifest of a kept snapshot. Raises `SnapshotError`s."""
        stored: bytes | None = await self._call(
            lambda redis: redis.execute_command("HGET", self._keys.manifests, revision)  # type: ignore[no-untyped-call]
        )
        if stored is None:
            raise SnapshotMissingError(f"curriculum {self.curriculum_id!r} has no snapshot {revision}")
        return parse_manifest(stored, self.curriculum_id, revision)

    async def load(
        self, revision: str | None = None, leave: Callable[[SnapshotColumn], bool] | None = None
    ) -> tuple[SnapshotManifest, dict[str, Column]]:
        """The state at `revision` (the newest if None), every block checked against its digest.

        Columns for which `leave` is true are in the manifest only: `fetch` brings them later.
        Raises `SnapshotMissingError`, `SnapshotFormatError`, `SnapshotCorruptError`.
        """
        for attempt in range(_ATTEMPTS):
            wanted = await self.head() if revision is None else revision
            if wanted is None:
                raise SnapshotMissingError(f"curriculum {self.curriculum_id!r} has no snapshot")
            try:
                manifest = await self.manifest(wanted)
                wanted_columns = [one for one in manifest.columns if leave is None or not leave(one)]
                return manifest, await self._fetch(manifest.revision, wanted_columns)
            except (SnapshotCorruptError, SnapshotMissingError):
                # The newest may have been superseded and dropped while we were reading it.
                if revision is not None or attempt == _ATTEMPTS - 1 or await self.head() == wanted:
                    raise
        raise AssertionError("unreachable")

    async def fetch(self, columns: Sequence[SnapshotColumn]) -> list[Column]:
        """Columns of a snapshot that was loaded without them. Raises as `load` does."""
        arrays = await self._fetch("that was loaded before", columns)
        return [arrays[column.name] for column in columns]

    async def trim(self, revision: str) -> int:
        """Drop the log's entries up to and including `revision`; how many. Never beyond the newest snapshot.

        Readers behind it find a `LogGapError`.
        """
        parse_revision(revision)

        async def cut(pipe: Any) -> int:
            head = await pipe.get(self._keys.head)
            if head is None or is_after(revision, _text(head)):
                raise ValueError(
                    f"curriculum {self.curriculum_id!r} cannot be trimmed at {revision}: "
                    f"its newest snapshot is at {'none' if head is None else _text(head)}"
                )
            horizon = await pipe.hget(self._keys.horizon, "revision")
            reached = latest(revision, _text(horizon or START))
            pipe.multi()
            pipe.hset(self._keys.horizon, "revision", reached)
            pipe.execute_command("XTRIM", self._keys.log, "MINID", next_revision(reached))
            replies: list[int] = await pipe.execute()
            return replies[-1]

        return await self.lock.while_held(cut, self._keys.head, self._keys.horizon)

    async def collect_garbage(self, keep: Collection[str]) -> int:
        """Drop the snapshots not in `keep` (the newest always stays) and the blocks none of the others name.

        Returns how many blocks went. A manifest that cannot be read stops it before a block is dropped.
        """

        async def drop_manifests(pipe: Any) -> None:
            head = await pipe.get(self._keys.head)
            names = [_text(name) for name in await pipe.hkeys(self._keys.manifests)]
            gone = [name for name in names if name not in keep and (head is None or name != _text(head))]
            pipe.multi()
            if gone:
                pipe.hdel(self._keys.manifests, *gone)
            await pipe.execute()

        await self.lock.while_held(drop_manifests, self._keys.head, self._keys.manifests)
        named: set[bytes] = set()
        for revision in await self.revisions():
            for column in (await self.manifest(revision)).columns:
                named.update(column.blocks)
        addresses: list[bytes] = await self._call(
            lambda redis: redis.execute_command("HKEYS", self._keys.blocks)  # type: ignore[no-untyped-call]
        )
        orphans = [address for address in addresses if address not in named]
        for batch in _batches(orphans, 1024):

            async def drop(pipe: Any, batch: Sequence[bytes] = batch) -> None:
                pipe.multi()
                pipe.hdel(self._keys.blocks, *batch)
                await pipe.execute()

            await self.lock.while_held(drop)
        return len(orphans)

    async def _call(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        return await self._client.call(operation, self._keys.log)

    async def _send(
        self,
        revision: str,
        columns: Mapping[str, Column],
        stored: Sequence[SnapshotColumn],
        sent_some: Callable[[], Awaitable[None]] | None = None,
    ) -> SnapshotManifest:
        """Send the blocks that the server lacks, in bounded batches; the manifest that names them all."""
        parse_revision(revision)
        layouts = lay_out(columns)
        manifest = SnapshotManifest(
            format_version=FORMAT_VERSION, curriculum_id=self.curriculum_id, revision=revision
        )
        for layout in layouts:
            manifest.columns.add(
                name=layout.name, dtype=layout.dtype, shape=layout.shape, blocks=await _digests(layout)
            )
        for column in stored:
            if await self._absent(set(column.blocks)):
                raise SnapshotCorruptError(f"blocks of column {column.name!r} are missing", column.name)
        wanted = {address for column in manifest.columns for address in column.blocks}
        absent = await self._absent(wanted)

        def missing() -> Iterable[tuple[bytes, memoryview]]:
            for layout, column in zip(layouts, manifest.columns, strict=True):
                for address, raw in zip(column.blocks, layout.blocks(), strict=True):
                    if address in absent:
                        absent.remove(address)
                        yield address, raw

        for batch in _batches(missing(), BATCH_BLOCKS):
            encoded = await asyncio.to_thread(_encode, batch)

            async def put(redis: Redis, encoded: dict[bytes, bytes] = encoded) -> None:
                await redis.execute_command("HSET", self._keys.blocks, *chain(*encoded.items()))  # type: ignore[no-untyped-call]

            await self._call(put)
            if sent_some is not None:
                await sent_some()
        manifest.columns.extend(stored)
        return seal(manifest)

    async def _absent(self, addresses: set[bytes]) -> set[bytes]:
        absent: set[bytes] = set()
        for batch in _batches(sorted(addresses), 1024):

            async def ask(redis: Redis, batch: Sequence[bytes] = batch) -> list[int]:
                pipe = redis.pipeline(transaction=False)
                for address in batch:
                    pipe.hexists(self._keys.blocks, address)
                return await pipe.execute()

            found = await self._call(ask)
            absent.update(address for address, here in zip(batch, found, strict=True) if not here)
        return absent

    async def _publish(self, manifest: SnapshotManifest) -> None:
        async def write(pipe: Any) -> None:
            head = await pipe.get(self._keys.head)
            if not await pipe.execute_command("EXISTS", self._keys.log):
                raise SnapshotterLostError(f"curriculum {self.curriculum_id!r} was deleted")
            await self._require_in_log(pipe, manifest.revision)
            pipe.multi()
            pipe.hset(self._keys.manifests, manifest.revision, manifest.SerializeToString())
            if head is None or is_after(manifest.revision, _text(head)):
                pipe.set(self._keys.head, manifest.revision)
            await pipe.execute()

        try:
            await self.lock.while_held(write, self._keys.head)
        except SnapshotterLostError:
            await self._clear_after_deletion()
            raise

    async def _require_in_log(self, pipe: Any, revision: str) -> None:
        """A state of which the server has lost the log must not come back as a snapshot."""
        if await pipe.execute_command("XRANGE", self._keys.log, revision, revision):
            return
        horizon = await pipe.hget(self._keys.horizon, "revision")
        if is_after(revision, _text(horizon or START)):
            raise LogLostError(
                f"the server lost entry {revision} of curriculum {self.curriculum_id!r}: "
                "the state at it is no longer one of the log"
            )

    async def _clear_after_deletion(self) -> None:
        """Blocks sent while the curriculum was deleted belong to nobody."""

        async def clear(redis: Redis) -> None:
            async with redis.pipeline(transaction=True) as pipe:
                await pipe.watch(self._keys.log)
                if await pipe.execute_command("EXISTS", self._keys.log):
                    return
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.execute_command("UNLINK", self._keys.blocks)
                await pipe.execute()

        try:
            await self._call(clear)
        except WatchError:
            return

    async def _fetch(self, revision: str, wanted: Sequence[SnapshotColumn]) -> dict[str, Column]:
        columns: dict[str, Column] = {}
        places: list[tuple[bytes, memoryview, str, int]] = []
        for column in wanted:
            array = allocate(column.name, column.dtype, column.shape)
            slots = block_places(array)
            if len(slots) != len(column.blocks):
                raise SnapshotFormatError(
                    f"column {column.name!r} of snapshot {revision} has {len(column.blocks)} blocks "
                    f"instead of {len(slots)}"
                )
            columns[column.name] = array
            places += [
                (address, slot, column.name, number)
                for number, (address, slot) in enumerate(zip(column.blocks, slots, strict=True))
            ]
        # Two pages under way: one is checked in a thread while the next travels.
        checking: asyncio.Task[None] | None = None
        try:
            for batch in _batches(places, BATCH_BLOCKS):
                addresses = [address for address, *_ in batch]

                async def get(redis: Redis, addresses: Sequence[bytes] = addresses) -> list[bytes | None]:
                    found: list[bytes | None] = await redis.execute_command(  # type: ignore[no-untyped-call]
                        "HMGET", self._keys.blocks, *addresses
                    )
                    return found

                stored = await self._call(get)
                if checking:
                    await checking
                checking = asyncio.create_task(asyncio.to_thread(_place, batch, stored))
            if checking:
                await checking
        finally:
            if checking and not checking.done():
                checking.cancel()
        return columns


async def _digests(layout: ColumnLayout) -> list[bytes]:
    digests: list[bytes] = []
    for batch in _batches(layout.blocks(), _HASH_BLOCKS):
        digests += await asyncio.to_thread(_digest_all, batch)
    return digests


def _digest_all(batch: Sequence[memoryview]) -> list[bytes]:
    return [digest(raw) for raw in batch]


def _encode(batch: Sequence[tuple[bytes, memoryview]]) -> dict[bytes, bytes]:
    return {address: encode(raw) for address, raw in batch}


def _place(batch: Sequence[tuple[bytes, memoryview, str, int]], stored: Sequence[bytes | None]) -> None:
    for (address, slot, column, number), block in zip(batch, stored, strict=True):
        if block is None:
            raise SnapshotCorruptError(f"block {number} of column {column!r} is missing", column, number)
        decode(block, address, slot, column, number)


def _batches(items: Iterable[T], size: int) -> Iterable[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
