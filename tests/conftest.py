"""Fixtures that many tests share. Servers are real; there is one per test process, so xdist is safe."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterator

# Imported early: its plugin would else do so at the very end, deep in the stack, where the parser of
# CPython 3.11 now and then fails with "AST constructor recursion depth mismatch".
import hypothesis
import pytest

from sampler_service.config import ServiceConfig
from sampler_service.log import LogClient, RedisSettings
from tests.host_programs import in_ci, missing_programs, needs
from tests.redis_servers import RedisServer, binary_of, redis_binary, running_server, valkey_binary
from tests.service_process import RunningService, running_service

# How fast a machine is decides no test; the rest stays as Hypothesis has it, here and under CI.
hypothesis.settings.register_profile(
    "any-speed",
    hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
# And the same examples in every run: `--hypothesis-profile=any-speed` looks for new ones.
hypothesis.settings.register_profile(
    "suite", hypothesis.settings.get_profile("any-speed"), derandomize=True, database=None
)
hypothesis.settings.load_profile("suite")


def pytest_report_header() -> list[str]:
    """Says which tests this machine cannot run, before anything else."""
    effect = "tests that need it will fail" if in_ci() else "tests that need it are left out"
    return [
        f"{marker}: not on this machine, {effect}; {remedy}" for marker, remedy in missing_programs().items()
    ]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Outside CI, leaves out what needs a program that this machine lacks."""
    if in_ci():
        return
    missing = missing_programs()
    left_out = [item for item in items if any(needs(item, marker) for marker in missing)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


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
def redis_6_2() -> Iterator[RedisServer]:
    """The oldest Redis that the log can live on. Shared likewise."""
    with running_server(binary_of("redis_6_2")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_7_4() -> Iterator[RedisServer]:
    """The last line before Redis 8. Shared likewise."""
    with running_server(binary_of("redis_7_4")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_8() -> Iterator[RedisServer]:
    """A Redis of the newest line. Shared likewise."""
    with running_server(binary_of("redis_8")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_8_1() -> Iterator[RedisServer]:
    """The Valkey line before the embedded one's. Shared likewise."""
    with running_server(binary_of("valkey_8_1")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey_9_0() -> Iterator[RedisServer]:
    """The first release of the embedded one's line. Shared likewise."""
    with running_server(binary_of("valkey_9_0")) as server:
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


@pytest.fixture
def service_config(redis_settings: RedisSettings) -> ServiceConfig:
    """A service on the shared server, in this test's name space, on free ports."""
    return ServiceConfig(grpc_port=0, http_port=0, redis=redis_settings, drain_seconds=2.0)


@pytest.fixture
async def service(service_config: ServiceConfig) -> AsyncIterator[RunningService]:
    """The real service in this event loop; calls go over a real socket."""
    async with running_service(service_config) as running:
        yield running
