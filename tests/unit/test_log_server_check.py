"""Which servers may hold a log, by what they say of themselves."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from sampler_service.log import LogClient, RedisSettings, ServerUnsuitableError
from sampler_service.log.server_check import check_server
from tests.ports import free_port


class Described:
    """A server of which only its INFO is known; CONFIG is forbidden."""

    def __init__(self, **info: str | int) -> None:
        self._info = {"aof_enabled": 1, "maxmemory_policy": "noeviction", "role": "master"} | info

    async def info(self) -> dict[str, Any]:
        return self._info

    async def config_get(self, pattern: str) -> dict[str, str]:
        raise ResponseError(f"unknown command 'CONFIG', with args beginning with: 'get' '{pattern}'")


async def verdict(**info: str | int) -> list[str]:
    return await check_server(cast("Redis", Described(**info)))


@pytest.mark.parametrize("version", ["2.8.24", "5.0.14", "6.0.16", "6.1.242"])
async def test_a_redis_that_is_too_old_is_refused_with_its_version(version: str) -> None:
    with pytest.raises(ServerUnsuitableError, match=rf"needs Redis 6\.2 or newer.* is Redis {version}"):
        await verdict(redis_version=version)


@pytest.mark.parametrize("version", ["6.2.0", "7.0.15", "7.4.1", "8.2.3", "10.0.0"])
async def test_redis_6_2_and_newer_are_taken(version: str) -> None:
    assert await verdict(redis_version=version) == [
        "the server forbids CONFIG, so appendfsync is unknown: ask its operator."
    ]


async def test_valkey_is_taken_as_the_redis_it_says_it_is_compatible_with() -> None:
    assert len(await verdict(redis_version="7.2.4", valkey_version="7.2.5", server_name="valkey")) == 1


async def test_a_redis_older_than_6_is_refused_at_the_first_word() -> None:
    async def redis_5(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(4096):
            writer.write(b"-ERR unknown command `HELLO`, with args beginning with: `3`, \r\n")
        writer.close()

    port = free_port()
    async with (
        await asyncio.start_server(redis_5, "127.0.0.1", port),
        LogClient(RedisSettings(url=f"redis://127.0.0.1:{port}")) as client,
    ):
        with pytest.raises(ServerUnsuitableError, match=r"needs Redis 6\.2 or newer.*this server is older"):
            await client.check_server()
