"""The log's server goes away under a running service, and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.config import ServiceConfig
from sampler_service.log import RedisSettings
from tests.redis_servers import RedisServer, running_server, valkey_binary
from tests.rpc_calls import new_id, next_batch, pool, refused, report, states
from tests.service_process import RunningService, running_service


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """One that this test may kill."""
    with running_server(valkey_binary(), options={"appendfsync": "always"}) as running:
        yield running


def config_for(server: RedisServer) -> ServiceConfig:
    return ServiceConfig(grpc_port=0, http_port=-1, redis=RedisSettings(url=server.url), drain_seconds=1.0)


async def wait_for_health(service: RunningService, wanted: str, timeout_seconds: float = 120.0) -> None:
    stub = health_pb2_grpc.HealthStub(service.channel)
    deadline = time.monotonic() + timeout_seconds
    name = ""
    while time.monotonic() < deadline:
        answer = await stub.Check(health_pb2.HealthCheckRequest())
        name = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        if name == wanted:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"health is {name}, not {wanted}")


async def until_accepted(
    service: RunningService, request: pb.ReportRolloutsRequest, timeout_seconds: float = 120.0
) -> pb.ReportRolloutsResponse:
    """Sends the same report again as long as the log is away, as the SDK does."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            return await service.stub.ReportRollouts(request)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


async def test_while_the_log_is_away_writes_are_unavailable_and_reads_are_marked_stale(
    server: RedisServer,
) -> None:
    async with running_service(config_for(server)) as service:
        ids = await pool(service.stub)
        batch = (await service.stub.NextBatch(next_batch(4))).batch
        server.kill()
        told = report(batch.prompt_ids, [[1.0, 0.0]] * 4, batch.lease_id)
        calls = (
            service.stub.NextBatch(next_batch(4)),
            service.stub.ReportRollouts(told),
            service.stub.AdvancePolicy(
                pb.AdvancePolicyRequest(curriculum_id="math", request_id=new_id(), policy_version=1)
            ),
            service.stub.ListCurricula(pb.ListCurriculaRequest()),
        )
        for call in calls:
            answer = await refused(call)
            assert answer.said == ("UNAVAILABLE", "LOG_UNAVAILABLE", "")
            assert answer.retry_after_seconds is not None
            assert answer.retry_after_seconds > 0
        summary = (await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"))).summary
        assert summary.stale
        assert summary.prompts == 20
        assert (await states(service.stub, ids)).stale
        asked = pb.GetCurriculumRequest(curriculum_id="math")
        assert (await service.stub.GetCurriculum(asked)).curriculum.stale
        await wait_for_health(service, "NOT_SERVING")

        server.start()
        done = await until_accepted(service, told)
        assert done.accepted == 8
        await wait_for_health(service, "SERVING")
        page = await states(service.stub, ids)
        assert (sum(page.rollouts), page.stale) == (8, False)
        assert not (await service.stub.GetCurriculum(asked)).curriculum.stale
        assert not (await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"))).summary.stale


async def test_a_report_whose_answer_was_lost_counts_once_when_it_is_sent_again(server: RedisServer) -> None:
    async with running_service(config_for(server)) as service:
        ids = await pool(service.stub)
        reports = [report([id_], [[1.0, 0.0, 1.0]]) for id_ in ids]
        sending = [asyncio.ensure_future(until_accepted(service, one)) for one in reports]
        await asyncio.sleep(0.002)
        server.kill()
        await asyncio.sleep(0.3)
        server.start()
        answers = await asyncio.gather(*sending)
        assert all(answer.accepted == 3 for answer in answers)
        assert list((await states(service.stub, ids)).rollouts) == [3] * 20


async def test_a_server_that_was_wiped_is_told_apart_from_one_that_is_away(server: RedisServer) -> None:
    async with running_service(config_for(server)) as service:
        await pool(service.stub)
        server.stop()
        server.wipe()
        server.start()
        deadline = time.monotonic() + 120
        while True:
            answer = await refused(service.stub.NextBatch(next_batch(4)))
            if answer.code != "UNAVAILABLE" or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.1)
        assert answer.said == ("NOT_FOUND", "CURRICULUM_NOT_FOUND", "curriculum_id")
