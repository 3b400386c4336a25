"""The live stream: news at once, one read for all watchers, and an end when the server stops."""

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import httpx
import pytest

from sampler_service.access import Gate, Role, current_principal
from sampler_service.dashboard import DashboardServer, ReadError, create_app
from sampler_service.dashboard.stream import SummaryFeeds
from tests.access_tokens import TOKENS, auth_settings
from tests.browser.simulated_reader import SimulatedCurriculum, SimulatedReader

PATIENCE_SECONDS = 60


@pytest.fixture
def reader() -> SimulatedReader:
    curriculum = SimulatedCurriculum("live", 100)
    curriculum.step()
    return SimulatedReader(curriculum)


@pytest.fixture
async def server(reader: SimulatedReader) -> AsyncIterator[DashboardServer]:
    app = create_app(reader, stream_interval_seconds=0.02, stream_heartbeat_seconds=0.1)
    running = await DashboardServer.start(app)
    yield running
    await running.stop()


async def events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """(event, data) of each frame; comments come as ("", text)."""
    async for frame in frames(response):
        fields = dict(line.split(": ", 1) for line in frame.split("\n"))
        if "event" in fields or "" in fields:
            yield fields.get("event", ""), fields.get("data", "")


async def frames(response: httpx.Response) -> AsyncIterator[str]:
    text = ""
    async for chunk in response.aiter_text():
        text += chunk
        while "\n\n" in text:
            frame, text = text.split("\n\n", 1)
            yield frame


async def named(stream: AsyncIterator[tuple[str, str]], name: str) -> dict:
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for event, data in stream:
            if event == name:
                return json.loads(data)
    raise AssertionError(f"the stream ended before a {name!r} event")


async def test_a_change_arrives_and_silence_is_filled_with_heartbeats(server, reader):
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http,
        http.stream("GET", "/api/v1/curricula/live/stream") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        stream = events(response)
        first = await named(stream, "summary")
        event, _ = await anext(stream)
        assert event == ""
        reader.curricula["live"].step()
        second = await named(stream, "summary")
        assert (first["policy_version"], second["policy_version"]) == (1, 2)
        assert second["revision"] == reader.curricula["live"].revision


async def test_a_failing_read_is_told_once_and_recovery_is_news(server, reader):
    async with (
        httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS) as http,
        http.stream("GET", "/api/v1/curricula/live/stream") as response,
    ):
        stream = events(response)
        await named(stream, "summary")
        reader.failure = ReadError(14, "LOG_UNREACHABLE", "Redis is away")
        problem = await named(stream, "problem")
        assert problem["error"] == {
            "code": "UNAVAILABLE",
            "reason": "LOG_UNREACHABLE",
            "message": "Redis is away",
        }
        event, _ = await anext(stream)
        assert event == ""  # A heartbeat, and not the same problem again.
        reader.failure = None
        assert (await named(stream, "summary"))["policy_version"] == 1


async def test_many_watchers_cost_one_read_per_interval(reader):
    feeds = SummaryFeeds(reader, interval_seconds=0.05, heartbeat_seconds=5)
    watchers = [await feeds.open("live", 20) for _ in range(20)]
    for watcher in watchers:
        await anext(watcher)
    reader.reads = 0
    began = time.monotonic()
    async with asyncio.timeout(PATIENCE_SECONDS):
        while reader.reads < 8:
            await asyncio.sleep(0.01)
    # One for each interval that has begun: twenty times as many if each watcher read for itself.
    assert reader.reads <= (time.monotonic() - began) / 0.05 + 1
    assert feeds.stream_count == 20
    for watcher in watchers:
        await watcher.aclose()
    assert feeds.stream_count == 0
    reader.reads = 0
    await asyncio.sleep(0.2)
    assert reader.reads == 0


async def test_a_slow_watcher_skips_to_the_newest(reader):
    feeds = SummaryFeeds(reader, interval_seconds=0.01, heartbeat_seconds=5)
    watcher = await feeds.open("live", 20)
    await anext(watcher)
    for _ in range(5):
        reader.curricula["live"].step()
        told = reader.reads + 2  # What the first of these two found is out when the second begins.
        async with asyncio.timeout(PATIENCE_SECONDS):
            while reader.reads < told:
                await asyncio.sleep(0.01)
    frame = await anext(watcher)
    assert json.loads(frame.split(b"data: ", 1)[1])["policy_version"] == 6
    await watcher.aclose()


async def test_a_deleted_curriculum_ends_its_stream_with_the_reason(reader):
    feeds = SummaryFeeds(reader, interval_seconds=0.01, heartbeat_seconds=5)
    watcher = await feeds.open("live", 20)
    await anext(watcher)
    del reader.curricula["live"]
    async with asyncio.timeout(PATIENCE_SECONDS):
        rest = [frame async for frame in watcher]
    assert len(rest) == 1
    assert b"CURRICULUM_NOT_FOUND" in rest[0]


async def test_streams_beyond_the_limit_are_refused(reader):
    feeds = SummaryFeeds(reader, max_streams=1)
    watcher = await feeds.open("live", 20)
    await anext(watcher)
    with pytest.raises(ReadError, match="poll /summary instead") as refusal:
        await feeds.open("live", 20)
    assert refusal.value.reason == "TOO_MANY_STREAMS"
    await watcher.aclose()


async def test_stopping_the_server_ends_open_streams_at_once(reader):
    app = create_app(reader, stream_interval_seconds=0.05, stream_heartbeat_seconds=3600)
    server = await DashboardServer.start(app)
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_SECONDS)
        )
        path = "/api/v1/curricula/live/stream"
        streams = [events(await stack.enter_async_context(http.stream("GET", path))) for _ in range(3)]
        for stream in streams:
            await named(stream, "summary")
        # What does not end by itself would be waited for until then.
        server._server.config.timeout_graceful_shutdown = 3600
        async with asyncio.timeout(PATIENCE_SECONDS):
            await server.stop()
        for stream in streams:
            assert [event async for event in stream] == []


async def test_a_port_that_is_taken_is_an_error_and_not_a_silent_exit(server, reader):
    with pytest.raises(OSError, match="in use"):
        await DashboardServer.start(create_app(reader), port=server.port)


async def test_an_answer_does_not_wait_for_an_acknowledgement(server):
    """Nagle's algorithm and a client that delays its acknowledgements would hold each answer for 40 ms."""
    async with httpx.AsyncClient(base_url=server.url) as http:
        await http.get("/healthz")
        connections = server._server.server_state.connections
        assert connections
        for connection in connections:
            accepted = connection.transport.get_extra_info("socket")
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_one_token_leaves_streams_for_the_others(reader):
    feeds = SummaryFeeds(reader, interval_seconds=60, max_streams=3, max_streams_of_a_token=1)
    gate = Gate(auth_settings())
    opened = []

    async def open_as(role: Role) -> None:
        token = current_principal.set(gate.authenticate(f"Bearer {TOKENS[role]}", (), ""))
        try:
            frames = await feeds.open("live", 0)
            await anext(frames)
            opened.append(frames)
        finally:
            current_principal.reset(token)

    await open_as(Role.READ)
    with pytest.raises(ReadError, match="one token"):
        await open_as(Role.READ)
    await open_as(Role.ADMIN)
    await opened[0].aclose()
    await open_as(Role.READ)
    for frames in opened:
        await frames.aclose()
    assert feeds.stream_count == 0
