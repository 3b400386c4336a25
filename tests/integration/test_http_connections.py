"""A request that does not arrive holds its connection for a while and no longer."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from sampler_service.dashboard import DashboardServer, HttpSettings, connections, create_app
from sampler_service.dashboard.connections import ARRIVAL_SECONDS, PromptConnection
from tests.browser.simulated_reader import SimulatedReader
from tests.service_process import ROOT

HEAD = b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"


class Timer:
    def __init__(self, seconds: float, callback: Callable[..., None]) -> None:
        self.seconds, self.callback, self.cancelled = seconds, callback, False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """Keeps timers instead of waiting, and runs no request."""

    def __init__(self) -> None:
        self.timers: list[Timer] = []

    def call_later(self, seconds: float, callback: Callable[..., None]) -> Timer:
        self.timers.append(Timer(seconds, callback))
        return self.timers[-1]

    def create_task(self, task: Coroutine[Any, Any, None]) -> Any:
        task.close()
        return asyncio.Future(loop=asyncio.get_running_loop())


class Transport:
    def __init__(self) -> None:
        self.aborted = False

    def get_extra_info(self, _: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


async def opened() -> tuple[PromptConnection, Loop, Transport]:
    loop, transport = Loop(), Transport()
    config = uvicorn.Config(create_app(SimulatedReader()), log_config=None)
    connection = PromptConnection(config, ServerState(), {}, loop)  # type: ignore[arg-type]
    connection.connection_made(transport)  # type: ignore[arg-type]
    return connection, loop, transport


@pytest.mark.parametrize("pieces", [[], [b"GET"], [b"GET / HTTP/1.1\r\n", b"x: y\r\n"], [HEAD, b"a", b"b"]])
async def test_one_time_limit_holds_until_the_request_is_there(pieces: list[bytes]):
    connection, loop, transport = await opened()
    for piece in pieces:
        connection.data_received(piece)
    (timer,) = loop.timers
    assert (timer.seconds, timer.cancelled) == (ARRIVAL_SECONDS, False)
    timer.callback()
    assert transport.aborted


@pytest.mark.parametrize(
    "pieces", [[b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"], [HEAD[:9], HEAD[9:], b"ab", b"c"]]
)
async def test_an_answer_may_take_as_long_as_it_likes(pieces: list[bytes]):
    connection, loop, transport = await opened()
    for piece in pieces:
        connection.data_received(piece)
    (timer,) = loop.timers
    assert timer.cancelled
    assert not transport.aborted


async def test_connections_beyond_the_limit_are_closed_and_leave_files_for_others(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(connections, "most_connections", lambda: 2)
    server = await DashboardServer.start(create_app(SimulatedReader()), settings=HttpSettings())
    opened = [await asyncio.open_connection(server.host, server.port) for _ in range(2)]
    try:
        async with asyncio.timeout(120):
            for reader, writer in opened:
                writer.write(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
                assert b" 200 " in await reader.readline()
            reader, writer = await asyncio.open_connection(server.host, server.port)
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read(-1) == b""
            writer.close()
    finally:
        for _, writer in opened:
            writer.close()
        await server.stop()


def test_a_process_may_open_as_many_files_as_the_system_lets_it():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    code = (
        f"import resource as r; r.setrlimit(r.RLIMIT_NOFILE, (256, {hard}));"
        "from sampler_service.open_files import allow_many_files as allow;"
        "from sampler_service.dashboard.connections import most_connections as most;"
        "print(most(), allow(), most())"
    )
    said = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before, files, after = map(int, said.stdout.split())
    assert before == 64
    assert files >= min(soft, 65_536)
    assert after == min(4096, files // 4)


async def test_the_server_closes_connections_that_send_too_slowly(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PromptConnection, "arrival_seconds", 0.05)
    server = await DashboardServer.start(create_app(SimulatedReader()), settings=HttpSettings())
    try:
        for sent in (b"", b"GET / HTTP/1.1\r\nx: ", HEAD.replace(b"/x", b"/api/v1/session")):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            writer.write(sent)
            async with asyncio.timeout(120):
                try:
                    answer = await reader.read(-1)
                except ConnectionResetError:
                    answer = b""
            assert b" 200 " not in answer
            writer.close()
    finally:
        await server.stop()
