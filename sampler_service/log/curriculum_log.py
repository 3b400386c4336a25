"""The log of one curriculum: a Redis stream that is appended to, read, and trimmed behind a snapshot."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from redis.exceptions import NoScriptError, WatchError

from sampler_service.log.errors import (
    LogExistsError,
    LogGapError,
    LogLostError,
    LogMissingError,
    LogReplacedError,
    LogUnavailableError,
)
from sampler_service.log.revision import START, is_after, latest, parse_revision, revision_millis

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sampler_service.log.client import LogClient
    from sampler_service.log.staging import StagedSnapshot


T = TypeVar("T")

PAGE_ENTRIES = 256
"""Entries read in one round trip unless told otherwise."""

TOMBSTONE_SECONDS = 7 * 24 * 3600
"""How long a deletion is remembered, so that it is not taken for loss of data."""

_HORIZON_FIELDS = ("incarnation", "revision", "deleted")

# The write path in one command: a transaction of the same commands costs the client four times their sending.
_APPEND = """
local horizon = redis.call('HMGET', KEYS[2], 'incarnation', 'revision', 'deleted')
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local added = {}
for i = 4, #ARGV do
  added[#added + 1] = redis.call('XADD', KEYS[1], 'NOMKSTREAM', '*', ARGV[3], ARGV[i])
end
return {horizon, page, added}
"""
# The name the server knows a script by, not a matter of secrecy.
_APPEND_SHA = hashlib.sha1(_APPEND.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the log."""

    id: str
    """Its revision."""
    payload: bytes

    @property
    def millis(self) -> int:
        """When it was appended: the server's clock, milliseconds since 1970."""
        return revision_millis(self.id)


@dataclass(frozen=True, slots=True)
class AppendResult:
    """What an append did. In log order `foreign` comes before `own`, with nothing in between."""

    foreign: list[Entry]
    """Entries of others since the caller's position."""
    own: list[str]
    """Revisions of the payloads, in order."""
    horizon: str
    """Revision up to which the log is trimmed."""


@dataclass(frozen=True, slots=True)
class _Horizon:
    incarnation: str
    revision: str
    deleted: bool

    @classmethod
    def of(cls, reply: Sequence[bytes | None]) -> _Horizon:
        incarnation, revision, deleted = reply
        return cls((incarnation or b"").decode(), (revision or START.encode()).decode(), deleted is not None)


class CurriculumLog:
    """Ordered, durable events of one curriculum. Made by `LogClient.log`.

    Entries carry the log's incarnation in the name of their one field (which the server stores once per
    node, not per entry), so that a write meant for a deleted log never reaches its successor.

    Every method may raise `LogUnavailableError`. After each new connection the last revision seen is looked
    up again; if the server lost it, the call raises `LogLostError`.
    """

    def __init__(self, client: LogClient, curriculum_id: str) -> None:
        self.curriculum_id = curriculum_id
        self._client = client
        self._keys = client.keys(curriculum_id)
        self._incarnation = ""
        self._seen = START
        self._verified_generation = -1

    @property
    def seen(self) -> str:
        """The furthest revision this object has passed on."""
        return self._seen

    async def keep_outline(self, revision: str, payload: bytes) -> None:
        """Keep what lists say of the curriculum at `revision`, unless they know a later one."""
        if self._incarnation:
            await self._client.outlines.keep(self.curriculum_id, self._incarnation, revision, payload)

    def forget(self) -> None:
        """Begin anew, as after `LogLostError` or `LogReplacedError`: nothing is known of the log."""
        self._incarnation = ""
        self._seen = START
        self._verified_generation = -1

    async def create(self, payload: bytes, staged: StagedSnapshot | None = None) -> str:
        """Begin the log with one entry, and a snapshot if one was staged; the entry's revision.

        All of it or nothing. `LogExistsError` if there is a log already.
        """
        incarnation = secrets.token_hex(6)
        await self._client.call(
            lambda redis: redis.sadd(self._client.index, self.curriculum_id), self._client.index
        )

        async def begin(redis: Redis) -> str:
            if staged is not None:
                await staged.prepare(redis)
            async with redis.pipeline(transaction=True) as pipe:
                await pipe.watch(self._keys.log)
                if await pipe.execute_command("EXISTS", self._keys.log):
                    raise LogExistsError(f"curriculum {self.curriculum_id!r} exists already")
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.execute_command("DEL", self._keys.horizon, *self._keys.data())
                pipe.hset(self._keys.horizon, mapping={"incarnation": incarnation, "revision": START})
                if staged is not None:
                    staged.enter(pipe)
                pipe.execute_command("XADD", self._keys.log, "*", _field(incarnation), payload)
                replies: list[Any] = await pipe.execute()
                return _text(replies[-1])

        try:
            revision = await self._call(begin)
        except WatchError as error:
            raise LogExistsError(
                f"curriculum {self.curriculum_id!r} was created by another at this moment"
            ) from error
        self.forget()
        self._incarnation = incarnation
        self._saw(revision)
        return revision

    async def append(self, payloads: Sequence[bytes], after: str) -> AppendResult:
        """Append the payloads, in order and without others in between, and read what came since `after`.

        One atomic round trip; further ones only if more than `PAGE_ENTRIES` entries of others came since.
        If the reply is lost (`LogUnavailableError`) the entries may be in the log: repeat with the same
        request ids. Raises `LogMissingError`, `LogReplacedError`, `LogGapError`, `LogLostError`; the last two
        carry the revisions of what this call wrote.
        """
        parse_revision(after)
        await self._open()
        field = _field(self._incarnation)

        arguments = (2, self._keys.log, self._keys.horizon, f"({after}", PAGE_ENTRIES, field, *payloads)

        async def transact(redis: Redis) -> list[Any]:
            try:
                return await redis.execute_command("EVALSHA", _APPEND_SHA, *arguments)  # type: ignore[no-untyped-call,no-any-return]
            except NoScriptError:
                return await redis.execute_command("EVAL", _APPEND, *arguments)  # type: ignore[no-untyped-call,no-any-return]

        reply, page, added = await self._checked(transact, after)
        horizon = _Horizon.of(reply)
        self._require(horizon)
        if any(revision is None for revision in added):
            raise self._gone(horizon)
        own = [_text(revision) for revision in added]
        if is_after(horizon.revision, after):
            raise LogGapError(self.curriculum_id, after, horizon.revision, own)
        foreign = self._entries(
            [(key, dict(zip(fields[::2], fields[1::2], strict=True))) for key, fields in page]
        )
        if len(page) == PAGE_ENTRIES:
            foreign += await self._rest(_text(page[-1][0]), own)
        self._saw(own[-1] if own else (foreign[-1].id if foreign else after))
        return AppendResult(foreign, own, horizon.revision)

    async def read(self, after: str, count: int = PAGE_ENTRIES) -> list[Entry]:
        """At most `count` entries after `after`; empty at the log's end. Raises as `append` does."""
        parse_revision(after)
        await self._open()
        position = after
        while True:
            horizon, page = await self._page(position, "+", count)
            if is_after(horizon.revision, position):
                raise LogGapError(self.curriculum_id, after, horizon.revision)
            entries = self._entries(page)
            if entries or len(page) < count:
                break
            position = _text(page[-1][0])
        if not page:
            await self._require_present()
        if entries:
            self._saw(entries[-1].id)
        return entries

    async def last_id(self) -> str:
        """Revision of the newest entry; of the horizon if all are trimmed."""
        await self._open()

        async def newest(redis: Redis) -> list[Any]:
            pipe = redis.pipeline(transaction=True)
            pipe.execute_command("HMGET", self._keys.horizon, *_HORIZON_FIELDS)
            pipe.execute_command("XREVRANGE", self._keys.log, "+", "-", "COUNT", 1)
            return await pipe.execute()

        reply, page = await self._checked(newest)
        horizon = _Horizon.of(reply)
        self._require(horizon)
        return _text(page[0][0]) if page else horizon.revision

    async def horizon(self) -> str:
        """Revision up to which the log is trimmed; `START` if it is whole."""
        await self._open()
        reply = await self._call(
            lambda redis: redis.execute_command("HMGET", self._keys.horizon, *_HORIZON_FIELDS)  # type: ignore[no-untyped-call]
        )
        horizon = _Horizon.of(reply)
        self._require(horizon)
        return horizon.revision

    async def length(self) -> int:
        """Entries in the stream, trimmed ones not counted."""
        size: int = await self._call(lambda redis: redis.xlen(self._keys.log))
        return size

    async def exists(self) -> bool:
        """Whether the curriculum has a log."""
        return bool(await self._call(lambda redis: redis.exists(self._keys.log)))

    async def delete(self) -> bool:
        """Remove log and snapshots for good; whether there was one.

        Reading or appending then raises `LogMissingError`, here and in other processes.
        """

        async def remove(redis: Redis) -> bool:
            async with redis.pipeline(transaction=True) as pipe:
                # Watched, so that a deletion on its way for long does not meet what was created since.
                await pipe.watch(self._keys.horizon)
                there = bool(await pipe.execute_command("EXISTS", self._keys.log))
                pipe.multi()  # type: ignore[no-untyped-call]
                pipe.execute_command("UNLINK", *self._keys.data())
                pipe.hset(self._keys.horizon, mapping={"deleted": "1"})
                pipe.expire(self._keys.horizon, TOMBSTONE_SECONDS)
                await pipe.execute()
                return there

        try:
            existed = await self._call(remove)
        except WatchError as error:
            raise LogUnavailableError(
                f"curriculum {self.curriculum_id!r} changed while it was deleted: try again", 0.1
            ) from error
        await self._client.call(
            lambda redis: redis.srem(self._client.index, self.curriculum_id), self._client.index
        )
        self.forget()
        return existed

    async def _call(self, operation: Callable[[Redis], Awaitable[T]]) -> T:
        return await self._client.call(operation, self._keys.log)

    async def _open(self) -> None:
        """Learn which incarnation of the log this is."""
        if self._incarnation:
            return
        reply = await self._call(
            lambda redis: redis.execute_command("HMGET", self._keys.horizon, *_HORIZON_FIELDS)  # type: ignore[no-untyped-call]
        )
        horizon = _Horizon.of(reply)
        if not horizon.incarnation or horizon.deleted:
            raise LogMissingError(f"curriculum {self.curriculum_id!r} does not exist")
        self._incarnation = horizon.incarnation

    async def _page(self, after: str, end: str, count: int) -> tuple[_Horizon, list[Any]]:
        async def fetch(redis: Redis) -> list[Any]:
            pipe = redis.pipeline(transaction=True)
            pipe.execute_command("HMGET", self._keys.horizon, *_HORIZON_FIELDS)
            pipe.execute_command("XRANGE", self._keys.log, f"({after}", end, "COUNT", count)
            return await pipe.execute()

        reply, page = await self._checked(fetch, after)
        horizon = _Horizon.of(reply)
        self._require(horizon)
        return horizon, page

    async def _rest(self, position: str, own: list[str]) -> list[Entry]:
        """The entries between `position` and our own, page by page."""
        end = f"({own[0]}" if own else "+"
        entries: list[Entry] = []
        while True:
            horizon, page = await self._page(position, end, PAGE_ENTRIES)
            if is_after(horizon.revision, position):
                raise LogGapError(self.curriculum_id, position, horizon.revision, own)
            entries += self._entries(page)
            if len(page) < PAGE_ENTRIES:
                return entries
            position = _text(page[-1][0])

    async def _checked(self, operation: Callable[[Redis], Awaitable[T]], after: str = START) -> T:
        """Run it, and make sure that before and after it the server still had what we had seen."""
        self._saw(after)
        if self._verified_generation != self._client.generation:
            await self._verify()
        generation = self._client.generation
        result = await self._call(operation)
        if generation != self._client.generation:
            await self._verify()
        return result

    async def _verify(self) -> None:
        generation, seen = self._client.generation, self._seen

        async def look(redis: Redis) -> list[Any]:
            pipe = redis.pipeline(transaction=True)
            pipe.execute_command("HMGET", self._keys.horizon, *_HORIZON_FIELDS)
            pipe.execute_command("XRANGE", self._keys.log, seen, seen)
            return await pipe.execute()

        if seen != START:
            reply, page = await self._call(look)
            horizon = _Horizon.of(reply)
            self._require(horizon)
            if not page and is_after(seen, horizon.revision):
                raise LogLostError(
                    f"the server lost entry {seen} of curriculum {self.curriculum_id!r}, "
                    "which it had acknowledged: load snapshot and log again"
                )
        self._verified_generation = generation

    def _require(self, horizon: _Horizon) -> None:
        if horizon.deleted or not horizon.incarnation:
            raise self._gone(horizon)
        if self._incarnation and horizon.incarnation != self._incarnation:
            raise LogReplacedError(f"curriculum {self.curriculum_id!r} was deleted and created anew")

    def _gone(self, horizon: _Horizon) -> LogLostError | LogMissingError:
        if horizon.deleted or not self._incarnation:
            return LogMissingError(f"curriculum {self.curriculum_id!r} was deleted")
        return LogLostError(
            f"the server has no trace of curriculum {self.curriculum_id!r}, which it had at {self._seen}: "
            "it was wiped or restored from an older state"
        )

    async def _require_present(self) -> None:
        if not await self.exists():
            raise self._gone(_Horizon(self._incarnation, START, False))

    def _entries(self, page: Sequence[tuple[bytes, dict[bytes, bytes] | None]]) -> list[Entry]:
        """The entries of this incarnation; others were meant for a deleted log."""
        field = _field(self._incarnation)
        return [Entry(_text(key), fields[field]) for key, fields in page if fields and field in fields]

    def _saw(self, revision: str) -> None:
        self._seen = latest(self._seen, revision)


def _field(incarnation: str) -> bytes:
    return b"e" + incarnation.encode()


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
