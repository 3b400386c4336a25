"""Outlines: what a list says of a curriculum, kept in a few hundred bytes beside its log.

Whoever lists thousands of curricula reads these instead of loading snapshots and folding logs. An outline is of
one revision; reading it says whether the log has gone on since. It is a convenience and no part of the state:
lost or late, it is made anew by the next replica that has the curriculum in memory.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError

from sampler_service.log.revision import parse_revision, revision_millis

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sampler_service.log.client import LogClient

__all__ = ["Outline", "Outlines"]

# Only forward, and only for the log it is of: a replica that is behind, or whose curriculum was deleted and
# created anew, changes nothing. Milliseconds and numbers fit a double exactly.
_KEEP = """
local log = redis.call('HMGET', KEYS[2], 'incarnation', 'deleted')
if log[1] ~= ARGV[1] or log[2] then return 0 end
local kept = redis.call('HGET', KEYS[1], 'revision')
if kept then
  local ms, number = string.match(kept, '(%d+)-(%d+)')
  local new_ms, new_number = string.match(ARGV[2], '(%d+)-(%d+)')
  ms, number, new_ms, new_number = tonumber(ms), tonumber(number), tonumber(new_ms), tonumber(new_number)
  if new_ms < ms or (new_ms == ms and new_number <= number) then return 0 end
end
redis.call('HSET', KEYS[1], 'revision', ARGV[2], 'payload', ARGV[3])
return 1
"""
# The name the server knows a script by, not a matter of secrecy.
_KEEP_SHA = hashlib.sha1(_KEEP.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Outline:
    """What was kept of a curriculum."""

    revision: str
    """Of which it is."""
    payload: bytes
    behind_since_millis: int | None
    """When the log went on after it; None: it has not, the outline is exact."""


class Outlines:
    """The outlines of all curricula. Made by `LogClient.outlines`."""

    def __init__(self, client: LogClient) -> None:
        self._client = client

    async def keep(self, curriculum_id: str, incarnation: str, revision: str, payload: bytes) -> None:
        """Keep the outline of a revision, unless a later one is there or the log is another by now."""
        parse_revision(revision)
        keys = self._client.keys(curriculum_id)
        arguments = (2, keys.outline, keys.horizon, incarnation, revision, payload)

        async def write(redis: Redis) -> Any:
            try:
                return await redis.execute_command("EVALSHA", _KEEP_SHA, *arguments)  # type: ignore[no-untyped-call]
            except NoScriptError:
                return await redis.execute_command("EVAL", _KEEP, *arguments)  # type: ignore[no-untyped-call]

        await self._client.call(write, keys.outline)

    async def read(self, curriculum_ids: Sequence[str]) -> list[Outline | None]:
        """What is kept of each curriculum. Two round trips; in a Cluster two for each."""
        if not self._client.clustered:
            return await self._read(curriculum_ids, "")
        alone = (self._read([id_], self._client.keys(id_).outline) for id_ in curriculum_ids)
        return [outline for (outline,) in await asyncio.gather(*alone)]

    async def _read(self, curriculum_ids: Sequence[str], node_key: str) -> list[Outline | None]:
        keys = [self._client.keys(id_) for id_ in curriculum_ids]

        async def fetch(redis: Redis) -> list[Outline | None]:
            pipe = redis.pipeline(transaction=False)
            for one in keys:
                pipe.execute_command("HMGET", one.outline, "revision", "payload")
            kept = await pipe.execute() if keys else []
            pipe = redis.pipeline(transaction=False)
            there = [one for one, (revision, _) in zip(keys, kept, strict=True) if revision is not None]
            for one, (revision, _) in zip(keys, kept, strict=True):
                if revision is not None:
                    pipe.execute_command("XRANGE", one.log, b"(" + revision, "+", "COUNT", 1)
            following = iter(await pipe.execute() if there else [])
            return [
                None if revision is None else _outline(revision, payload, next(following))
                for revision, payload in kept
            ]

        return await self._client.call(fetch, node_key)


def _outline(revision: bytes, payload: bytes, following: Sequence[tuple[bytes, Any]]) -> Outline:
    since = revision_millis(following[0][0].decode()) if following else None
    return Outline(revision.decode(), payload, since)
