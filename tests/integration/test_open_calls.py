"""What a caller without a token can make the server read and hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc
from sampler_service.access import Role
from sampler_service.config import ServiceConfig
from sampler_service.rpc import RpcSettings
from sampler_service.rpc.open_calls import OpenCalls
from tests.access_tokens import TOKENS, auth_settings, bearer
from tests.rpc_calls import new_id, refused
from tests.service_process import RunningService, running_service

LARGE = 60 * 2**20


@pytest.fixture
async def guarded(service_config: ServiceConfig) -> AsyncIterator[RunningService]:
    rpc = RpcSettings(max_concurrent_calls=8)
    config = service_config.model_copy(update={"auth": auth_settings(), "rpc": rpc})
    async with running_service(config) as running:
        yield running


class CountingProxy:
    """Passes bytes on to a port, and counts those that go there."""

    def __init__(self, target: str) -> None:
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self.sent_bytes = 0
        self.target = ""

    async def __aenter__(self) -> CountingProxy:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.target = f"127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        for task in (
            asyncio.create_task(self._pass_on(reader, far_writer, counted=True)),
            asyncio.create_task(self._pass_on(far_reader, writer, counted=False)),
        ):
            self._tasks.add(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counted: bool
    ) -> None:
        try:
            while data := await reader.read(1 << 16):
                self.sent_bytes += len(data) if counted else 0
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


def large_request() -> pb.NextBatchRequest:
    return pb.NextBatchRequest(curriculum_id="math", request_id=new_id(), trainer_id="t" * LARGE)


@pytest.mark.parametrize("shown", [(), bearer("a-token-that-nobody-made")])
async def test_a_call_without_a_token_that_is_known_is_refused_before_its_message_is_read(
    guarded: RunningService, shown: tuple[tuple[str, str], ...]
):
    async with CountingProxy(guarded.target) as proxy, grpc.aio.insecure_channel(proxy.target) as channel:
        stub = curriculum_pb2_grpc.CurriculumServiceStub(channel)
        refusal = await refused(stub.NextBatch(large_request(), metadata=shown, timeout=60))
        assert refusal.code == "UNAUTHENTICATED"
        # gRPC's window of flow control, which grows on a fast connection: 4 or 8 MiB.
        assert proxy.sent_bytes < LARGE / 2


async def test_one_with_a_token_is_read(guarded: RunningService):
    """The other arm: what the test above looks at would be seen."""
    async with CountingProxy(guarded.target) as proxy, grpc.aio.insecure_channel(proxy.target) as channel:
        stub = curriculum_pb2_grpc.CurriculumServiceStub(channel)
        call = stub.NextBatch(large_request(), metadata=bearer(TOKENS[Role.TRAIN]), timeout=60)
        assert (await refused(call)).code in ("NOT_FOUND", "INVALID_ARGUMENT")
        assert proxy.sent_bytes > LARGE


async def test_strangers_who_watch_its_health_leave_room_for_callers_with_a_token(guarded: RunningService):
    stub = health_pb2_grpc.HealthStub(guarded.channel)
    watching = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(2)]
    for watch in watching:
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(), timeout=30)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "Call again later" in (caught.value.details() or "")
    listed = await guarded.stub.ListCurricula(
        pb.ListCurriculaRequest(), metadata=bearer(TOKENS[Role.READ]), timeout=30
    )
    assert not listed.curricula
    for watch in watching:
        watch.cancel()


class Wrapped(grpc.aio.ServerInterceptor):
    def __init__(self, open_calls: OpenCalls) -> None:
        self._open_calls = open_calls

    async def intercept_service(self, continuation, handler_call_details):  # type: ignore[no-untyped-def]
        return self._open_calls.wrap(await continuation(handler_call_details))


@contextlib.asynccontextmanager
async def health_service(read_seconds: float) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a health service that waits so long for a request."""
    server = grpc.aio.server(interceptors=[Wrapped(OpenCalls(limit=50, read_seconds=read_seconds))])
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def test_a_request_that_never_comes_is_not_waited_for():
    async with health_service(read_seconds=0.2) as channel:
        silent = [channel.stream_stream("/grpc.health.v1.Health/Check")(timeout=60) for _ in range(6)]
        codes = await asyncio.gather(*(call.code() for call in silent))
    assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED}


async def test_a_call_that_ends_without_a_message_is_said_to_have_none():
    async with health_service(read_seconds=60) as channel:
        call = channel.stream_stream("/grpc.health.v1.Health/Check")(timeout=60)
        await call.done_writing()
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_many_who_ask_at_once_are_all_answered():
    async with health_service(read_seconds=60) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answers = await asyncio.gather(
            *(stub.Check(health_pb2.HealthCheckRequest(), timeout=60) for _ in range(40))
        )
    assert {answer.status for answer in answers} == {health_pb2.HealthCheckResponse.SERVING}
