"""Fixtures that many tests share. Servers are real; there is one per test process, so xdist is safe."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest

from sampler_service.log import LogClient, RedisSettings
from tests.redis_servers import RedisServer, redis_binary, running_server, valkey_binary


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    """The Valkey server that the embedded extra brings. Shared: do not stop it, use `key_prefix`."""
    with running_server(valkey_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_7() -> Iterator[RedisServer]:
    """The system's Redis. Shared likewise."""
    with running_server(redis_binary()) as server:
        yield server


@pytest.fixture(scope="session")
def redis_url(valkey: RedisServer) -> str:
    """URL of the shared Valkey server."""
    return valkey.url


@pytest.fixture
def key_prefix() -> str:
    """A name space on the shared server that no other test uses."""
    return f"test-{uuid.uuid4().hex[:12]}:"


@pytest.fixture
def redis_settings(redis_url: str, key_prefix: str) -> RedisSettings:
    """Settings for the shared server and this test's name space."""
    return RedisSettings(url=redis_url, key_prefix=key_prefix)


@pytest.fixture
async def log_client(redis_settings: RedisSettings) -> AsyncIterator[LogClient]:
    """A connection to the shared server in this test's name space."""
    async with LogClient(redis_settings) as client:
        yield client
