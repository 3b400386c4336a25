"""The clients ask the standard health service without the package that ships its stubs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from trainer_client.client import AsyncCurriculumClient, CurriculumClient, Health
from trainer_client.exceptions import DeadlineError, UnavailableError


@pytest.fixture
def servicer():
    return health.HealthServicer()


@pytest.fixture
def target(servicer):
    server = grpc.server(ThreadPoolExecutor(4))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


async def test_both_clients_read_the_servers_health(servicer, target):
    with CurriculumClient(target) as client:
        assert client.health() is Health.SERVING
        assert client.health("nobody") is Health.SERVICE_UNKNOWN
        servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
        assert client.health() is Health.NOT_SERVING
    async with AsyncCurriculumClient(target) as client:
        assert await client.health() is Health.NOT_SERVING


def test_waiting_ends_when_the_server_has_caught_up_and_says_so_when_it_has_not(servicer, target):
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    with CurriculumClient(target) as client:
        assert client.health() is Health.NOT_SERVING  # And the channel is connected.
        with pytest.raises(DeadlineError, match="NOT_SERVING"):
            client.wait_until_serving(1)
        timer = threading.Timer(0.3, servicer.set, ("", health_pb2.HealthCheckResponse.SERVING))
        timer.start()
        client.wait_until_serving(60)
        timer.join()
    with CurriculumClient("127.0.0.1:1") as client:
        with pytest.raises(UnavailableError):
            client.health()
        with pytest.raises(DeadlineError, match="refused"):
            client.wait_until_serving(1)
