"""Streams: reports answered in order with refusals in place, summaries when something has changed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import LogUnavailableError
from tests.rpc_calls import add, next_batch, pool, refusal_of, report, states
from tests.service_process import RunningService


async def test_streamed_reports_are_answered_in_order_and_refusals_come_in_place(
    service: RunningService,
) -> None:
    ids = await pool(service.stub, 30)
    requests = [report([id_], [[1.0, 0.0]]) for id_ in ids]
    requests[7].rewards.append(1.0)
    requests[11].lease_id = "nobody's"
    answers = [answer async for answer in service.stub.StreamRollouts(iter(requests))]
    assert [answer.request_id for answer in answers] == [request.request_id for request in requests]
    refused = {i: answer.error for i, answer in enumerate(answers) if answer.HasField("error")}
    assert {i: (error.code, error.reason, error.field) for i, error in refused.items()} == {
        7: (3, "LENGTH_MISMATCH", "rewards"),
        11: (5, "LEASE_NOT_FOUND", "lease_id"),
    }
    counted = (await states(service.stub, ids)).rollouts
    assert [2 if i not in refused else 0 for i in range(30)] == list(counted)


async def test_a_stream_may_wait_for_each_answer_before_it_sends_the_next_report(
    service: RunningService,
) -> None:
    ids = await pool(service.stub)
    stream = service.stub.StreamRollouts()
    for id_ in ids:
        await stream.write(report([id_], [[1.0]]))
        answer = await asyncio.wait_for(stream.read(), 60)
        assert isinstance(answer, pb.ReportRolloutsResponse)
        assert answer.accepted == 1
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_many_more_reports_than_are_worked_on_at_once_all_arrive(service: RunningService) -> None:
    ids = await pool(service.stub)
    requests = [report([ids[i % 20]], [[1.0]]) for i in range(500)]
    answers = [answer async for answer in service.stub.StreamRollouts(iter(requests))]
    assert [answer.request_id for answer in answers] == [request.request_id for request in requests]
    assert sum((await states(service.stub, ids)).rollouts) == 500


async def test_when_the_log_is_away_the_stream_ends_after_what_was_answered(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await pool(service.stub)
    real = service.service.host.report_rollouts

    async def sometimes(request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        if request.prompt_ids[0] == ids[3]:
            raise LogUnavailableError("gone", 2.5)
        return await real(request)

    monkeypatch.setattr(service.service.host, "report_rollouts", sometimes)
    # Written before anything is read: grpc.aio's client reports INTERNAL when the end of a call meets a write.
    stream = service.stub.StreamRollouts()
    for id_ in ids[:4]:
        await stream.write(report([id_], [[1.0]]))
    answers = [await stream.read() for _ in range(3)]
    assert all(isinstance(answer, pb.ReportRolloutsResponse) and answer.accepted == 1 for answer in answers)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stream.read()
    refusal = refusal_of(caught.value)
    assert refusal.said == ("UNAVAILABLE", "LOG_UNAVAILABLE", "")
    assert refusal.retry_after_seconds == 2.5


async def test_a_client_that_leaves_in_the_middle_harms_nobody(service: RunningService) -> None:
    ids = await pool(service.stub)
    stream = service.stub.StreamRollouts()
    await stream.write(report([ids[0]], [[1.0]]))
    await stream.read()
    stream.cancel()
    done = await service.stub.ReportRollouts(report([ids[1]], [[1.0]]))
    assert done.accepted == 1


async def _watch(service: RunningService) -> AsyncIterator[pb.Summary]:
    request = pb.WatchSummaryRequest(curriculum_id="math", interval_seconds=0.1)
    async for answer in service.stub.WatchSummary(request):
        yield answer.summary


async def test_a_watch_tells_the_present_state_and_then_only_changes(service: RunningService) -> None:
    ids = await pool(service.stub)
    watch = _watch(service)
    first = await anext(watch)
    assert first.prompts == 20
    following = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.5)
    assert not following.done()
    await service.stub.ReportRollouts(report([ids[0]], [[1.0, 0.0]]))
    second = await asyncio.wait_for(following, 60)
    assert second.rollouts_spent == 2
    assert second.revision != first.revision
    await watch.aclose()


async def test_a_watch_of_a_curriculum_that_is_deleted_ends_with_not_found(service: RunningService) -> None:
    await pool(service.stub)
    watch = _watch(service)
    await anext(watch)
    await service.stub.DeleteCurriculum(pb.DeleteCurriculumRequest(request_id="d", curriculum_id="math"))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(anext(watch), 60)
    assert refusal_of(caught.value).reason == "CURRICULUM_NOT_FOUND"


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
async def test_a_watch_interval_that_is_no_time_is_refused(service: RunningService, seconds: float) -> None:
    await pool(service.stub)
    request = pb.WatchSummaryRequest(curriculum_id="math", interval_seconds=seconds)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(aiter(service.stub.WatchSummary(request)))
    assert refusal_of(caught.value).said == ("INVALID_ARGUMENT", "OUT_OF_RANGE", "interval_seconds")


async def test_the_same_request_is_answered_the_same_way_whatever_happens_between(
    service: RunningService,
) -> None:
    await pool(service.stub)
    asked = next_batch(4)
    first = await service.stub.NextBatch(asked)
    told = report(first.batch.prompt_ids[:1], [[1.0, 0.0]], first.batch.lease_id)
    one = await service.stub.ReportRollouts(told)
    await add(service.stub, ["later"])
    again, two = await service.stub.NextBatch(asked), await service.stub.ReportRollouts(told)
    assert again.duplicate
    assert two.duplicate
    assert again.batch.prompt_ids == first.batch.prompt_ids
    assert again.batch.quotas == first.batch.quotas
    assert two.directives == one.directives
    assert sum((await states(service.stub, list(told.prompt_ids))).rollouts) == 2
