"""Parts of `serve --workers N` that need no process: restarts, ports, figures of several, settings."""

from __future__ import annotations

import asyncio
import contextlib
import io
import socket
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from pydantic import SecretStr, ValidationError

from sampler_service.config import ServiceConfig
from sampler_service.log import RedisSettings
from sampler_service.metrics_exchange import MetricsExchange
from sampler_service.rpc import PortTakenError
from sampler_service.server import WorkerPlace
from sampler_service.workers.assignment import Assignment
from sampler_service.workers.ports import ReservedPorts
from sampler_service.workers.restarts import RestartDelay
from trainer_client.client._channel import Endpoint


def test_a_worker_that_ends_again_and_again_is_restarted_ever_later() -> None:
    delay = RestartDelay(shortest_seconds=0.5, longest_seconds=3.0, steady_seconds=60.0)
    assert [delay.after(1.0) for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert delay.after(61.0) == 0.5
    assert delay.after(1.0) == 1.0


def test_shared_ports_are_one_that_only_our_own_processes_can_listen_on() -> None:
    reserved = ReservedPorts.reserve("127.0.0.1", 0, 3, "shared")
    try:
        (port,) = set(reserved.ports)
        assert len(reserved.ports) == 3
        assert reserved.addresses == f"127.0.0.1:{port}"
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind(("127.0.0.1", port))
        for _ in range(2):
            with socket.socket() as worker:
                worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                worker.bind(("127.0.0.1", port))
                worker.listen()
        with pytest.raises(PortTakenError):
            ReservedPorts.reserve("127.0.0.1", port, 2, "shared")
    finally:
        reserved.release()


def test_separate_ports_are_one_each_and_named_in_order() -> None:
    reserved = ReservedPorts.reserve("127.0.0.1", 0, 3, "separate")
    try:
        assert len(set(reserved.ports)) == 3
        assert reserved.addresses == ",".join(f"127.0.0.1:{port}" for port in reserved.ports)
    finally:
        reserved.release()


def test_separate_ports_beyond_the_last_are_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="grpc_port = 65530 leaves no room for 8 workers"):
        ServiceConfig(grpc_port=65530, workers=8, worker_ports="separate")


def test_an_assignment_passes_whole_secrets_included(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServiceConfig(redis=RedisSettings(password=SecretStr("hush")), grpc_port=7)
    sent = Assignment(config, WorkerPlace(1, 4, Path("here"))).to_bytes()
    fake = io.TextIOWrapper(io.BytesIO(sent + b"what follows is not read"))
    monkeypatch.setattr(sys, "stdin", fake)
    got = Assignment.read()
    assert got.place == WorkerPlace(1, 4, Path("here"))
    assert got.config == config
    assert got.config.redis is not None
    assert got.config.redis.password == SecretStr("hush")


async def test_any_worker_tells_the_figures_of_all_of_them(tmp_path: Path) -> None:
    registries = []
    for number in range(3):
        registry = CollectorRegistry()
        Counter("calls", "Calls.", ["method"], registry=registry).labels("A").inc(number + 1)
        Gauge("memory_bytes", "Memory.", registry=registry).set(10 * number)
        registries.append(registry)
    exchanges = [MetricsExchange(tmp_path, number, registry) for number, registry in enumerate(registries)]
    async with contextlib.AsyncExitStack() as stack:
        for exchange in exchanges:
            await exchange.start()
            stack.push_async_callback(exchange.stop)
        text = generate_latest(await exchanges[1].gather()).decode()
        for number in range(3):
            assert f'calls_total{{method="A",worker="{number}"}} {number + 1}.0' in text
            assert f'memory_bytes{{worker="{number}"}} {10 * number}.0' in text
        assert text.count("# TYPE calls_total counter") == 1
        await exchanges[0].stop()
        left = generate_latest(await exchanges[1].gather()).decode()
        assert 'worker="0"' not in left
        assert 'worker="2"' in left


async def test_a_worker_that_was_killed_leaves_a_socket_that_its_successor_takes_over(tmp_path: Path) -> None:
    registry = CollectorRegistry()
    killed = await asyncio.start_unix_server(lambda reader, writer: None, tmp_path / "0.sock")
    killed.close()
    (tmp_path / "1.sock").touch()
    exchange = MetricsExchange(tmp_path, 0, registry)
    await exchange.start()
    try:
        assert list((await exchange.gather()).collect()) == []
    finally:
        await exchange.stop()


@pytest.mark.parametrize(
    ("target", "spreads", "encrypted"),
    [
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True, False),
        ("ipv4:127.0.0.1:1", False, False),
        ("ipv4:127.0.0.1:1,10.0.0.1:2", True, True),
    ],
)
def test_a_client_with_several_addresses_calls_them_in_turn(
    target: str, spreads: bool, encrypted: bool
) -> None:
    endpoint = Endpoint.make(target, token="hush", tls=None, max_message_bytes=1 << 20)
    assert ("round_robin" in str(dict(endpoint.options)["grpc.service_config"])) is spreads
    assert (endpoint.credentials is not None) is encrypted
