"""The asyncio client keeps what the blocking one promises."""

from __future__ import annotations

import asyncio
from collections import deque

import pytest

from curriculum.v1 import curriculum_pb2 as pb
from tests.client_patience import why_not_async
from tests.integration.client_fake_service import (
    RunningFake,
    refused,
    stopping,
    unauthenticated,
    unavailable,
)
from trainer_client.client import AsyncCurriculumClient, Report, ReportResult
from trainer_client.exceptions import (
    ClientClosedError,
    InvalidArgumentError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)


@pytest.fixture
def fake():
    running = RunningFake()
    yield running
    running.stop()


async def report(client: AsyncCurriculumClient, number: int, timeout_seconds: float = 60) -> ReportResult:
    return await client.report(
        None,
        [f"p{number}"],
        rewards=[[1.0]],
        curriculum_id="c",
        policy_version=0,
        request_id=f"id-{number}",
        timeout_seconds=timeout_seconds,
    )


async def queue_report(client: AsyncCurriculumClient, number: int) -> None:
    await client.report(
        None,
        [f"p{number}"],
        rewards=[[1.0]],
        curriculum_id="c",
        policy_version=0,
        request_id=f"id-{number}",
        wait=False,
    )


async def test_what_a_stopping_service_cancels_is_asked_again(fake):
    for rpc in ("NextBatch", "ReportRollouts", "StreamRollouts", "WatchSummary"):
        fake.service.failures[rpc] = deque([stopping])
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        batch = await client.next_batch("c", batch_size=2)
        assert (await client.report(batch, rewards=[[1.0], [0.0]], request_id="id-0")).accepted == 2
        again = Report(batch, rewards=[[1.0], [0.0]], request_id="id-1")
        assert [one.accepted async for one in client.stream_reports([again])] == [2]
        assert await anext(client.watch_summary("c")) is not None
    assert fake.service.counted == ["id-0", "id-1"]
    assert not any(fake.service.failures.values())


async def test_every_rpc_of_the_service_goes_over_the_wire(fake, tmp_path):
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        await client.create_curriculum("c", "cures")
        await client.get_curriculum("c")
        listed = [curriculum.curriculum_id async for curriculum in client.list_curricula()]
        assert listed == ["c0", "c1", "c2", "c3"]
        await client.update_curriculum("c", "frontier")
        assert (await client.add_prompts("c", [f"p{i}" for i in range(10_000)])).added == 10_000
        batch = await client.next_batch("c", batch_size=2, run_id="run", step=1)
        assert (await client.report(batch, rewards=[[1, 0], [1, 0, 0]])).accepted == 5
        streamed = [r async for r in client.stream_reports([Report(batch, rewards=[[1, 0], [0, 0, 1]])])]
        assert streamed[0].accepted == 5
        assert (await client.release(batch)).released == 2
        await client.advance_policy("c", 3, kl=0.02)
        await client.create_checkpoint("c", "step-1")
        await client.restore_checkpoint("c", "step-1")
        assert (await client.list_checkpoints("c"))[0].checkpoint_id == "step-1"
        await client.delete_checkpoint("c", "step-1")
        assert [page.prompt_ids async for page in client.prompt_states("c")] == [["a"], ["b"]]
        assert (await client.prompt_history("c", "a")).lease_ids == ["l"]
        assert (await client.summary("c")).prompts == 7
        watch = client.watch_summary("c", timeout_seconds=60)
        assert [(await anext(watch)).prompts for _ in range(4)] == [0, 1, 2, 3]
        assert await client.export_curriculum("c", tmp_path / "c.parquet") == "7"
        assert (tmp_path / "c.parquet").read_bytes() == b"half and half"
        imported = await client.import_curriculum(tmp_path / "c.parquet", curriculum_id="d")
        assert imported.prompt_count == 13
        assert len((await client.replay("c", ["cures", "vcrl"])).replays) == 3
        assert await client.delete_curriculum("c") == "9"
    service = pb.DESCRIPTOR.services_by_name["CurriculumService"]
    assert set(fake.service.calls) == {method.name for method in service.methods}


async def test_a_call_is_retried_with_one_id_and_errors_are_translated(fake):
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        fake.service.failures["NextBatch"] = deque([unavailable] * 8)
        await client.next_batch("c", batch_size=2)
        assert len({request.request_id for request in fake.service.requests["NextBatch"]}) == 1
        fake.service.always["GetCurriculum"] = refused
        with pytest.raises(NotFoundError) as caught:
            await client.get_curriculum("nope")
        assert (caught.value.reason, caught.value.retry_after_seconds) == ("CURRICULUM_NOT_FOUND", 1.5)


async def test_reports_outlive_an_absent_service_in_order(fake):
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        fake.stop()
        await queue_report(client, 0)
        # Once the sender has tried in vain, a deadline that passes is told with the reason.
        away = await why_not_async(lambda seconds: client.flush(timeout_seconds=seconds))
        assert isinstance(away, UnavailableError)
        with pytest.raises(UnavailableError, match="stay in the outbox"):
            await report(client, 1, timeout_seconds=0.5)
        assert client.pending_reports == 2
        fake.start()
        assert await client.flush(timeout_seconds=60) == ()
    assert fake.service.counted == ["id-0", "id-1"]


async def test_a_lost_reply_a_refusal_and_a_wrong_token(fake):
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        fake.service.lost_replies["ReportRollouts"] = 4
        assert (await report(client, 0)).duplicate
        fake.service.failures["ReportRollouts"] = deque([refused, refused])
        with pytest.raises(NotFoundError):
            await report(client, 1)
        await queue_report(client, 2)
        assert [entry.request_id for entry in await client.flush()] == ["id-2"]
        fake.service.always["ReportRollouts"] = unauthenticated
        with pytest.raises(UnauthenticatedError):
            await report(client, 3)
        fake.service.always.clear()
        await client.flush()
    assert fake.service.counted == ["id-0", "id-3"]


async def test_a_broken_stream_is_opened_again_and_counts_each_report_once(fake):
    def reports():
        for number in range(10):
            prompt = "bad" if number == 7 else f"p{number}"
            yield Report(
                None, [prompt], [[1.0]], curriculum_id="c", policy_version=0, request_id=f"id-{number}"
            )

    fake.service.break_stream_after = 4
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        results = [result async for result in client.stream_reports(reports(), max_in_flight=3)]
    assert [result.request_id for result in results] == [f"id-{i}" for i in range(10)]
    assert isinstance(results[7].error, InvalidArgumentError)
    assert fake.service.counted == [f"id-{i}" for i in range(10) if i != 7]


async def test_reports_on_disk_are_sent_by_the_next_client(fake, tmp_path):
    fake.stop()
    client = AsyncCurriculumClient(fake.target, outbox_path=tmp_path / "outbox")
    await queue_report(client, 0)
    await client.close(flush_seconds=0.2)
    with pytest.raises(ClientClosedError):
        await report(client, 1)
    fake.start()
    async with AsyncCurriculumClient(fake.target, outbox_path=tmp_path / "outbox") as successor:
        await successor.flush(timeout_seconds=60)
    assert fake.service.counted == ["id-0"]


async def test_tasks_share_a_client_and_a_lease_is_released_when_its_block_raises(fake):
    async with AsyncCurriculumClient(fake.target, timeout_seconds=60) as client:
        await asyncio.gather(*(report(client, number) for number in range(50)))
        with pytest.raises(ZeroDivisionError):
            async with client.lease("c", batch_size=2):
                raise ZeroDivisionError
    assert sorted(fake.service.counted) == sorted(f"id-{number}" for number in range(50))
    assert fake.service.calls["ReleaseBatch"] == 1
