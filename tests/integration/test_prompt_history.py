"""One prompt's visits through the real service: as they happened, behind a snapshot, after a restore, none made up."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.replica.snapshotting import take_snapshot
from tests.rpc_calls import add, create, new_id, next_batch, pool, refused, report, states
from tests.service_process import RunningService


async def history(service: RunningService, prompt_id: str, **fields: object) -> pb.GetPromptHistoryResponse:
    request = pb.GetPromptHistoryRequest(curriculum_id="math", prompt_id=prompt_id, **fields)  # type: ignore[arg-type]
    return await service.stub.GetPromptHistory(request)


async def step(service: RunningService, policy_version: int, size: int = 4) -> pb.Batch:
    """A batch, all of it reported: the first rollout of each group is right."""
    batch = (
        await service.stub.NextBatch(next_batch(size, policy_version=policy_version, trainer_id="t"))
    ).batch
    groups = [[1.0] + [0.0] * (quota - 1) for quota in batch.quotas]
    await service.stub.ReportRollouts(
        report(batch.prompt_ids, groups, batch.lease_id, policy_version=policy_version)
    )
    return batch


async def test_every_visit_is_told_as_it_was_granted_and_reported(service: RunningService) -> None:
    ids = await pool(service.stub, 12, preset="frontier")
    batches = [await step(service, version) for version in range(9)]
    for prompt_id in ids:
        told = await history(service, prompt_id)
        own = [(b, list(b.prompt_ids).index(prompt_id)) for b in batches if prompt_id in b.prompt_ids]
        assert told.lease_ids == [batch.lease_id for batch, _ in own]
        for column in ("quotas", "pass_rates", "pass_rate_stddevs", "probabilities", "sources"):
            assert list(getattr(told, column)) == [getattr(batch, column)[i] for batch, i in own], column
        assert list(told.rollouts) == list(told.quotas)
        assert list(told.successes) == [1] * len(own)
        assert list(told.mean_rewards) == pytest.approx([1 / batch.quotas[i] for batch, i in own])
        assert set(told.statuses) <= {pb.VISIT_STATUS_REPORTED}
        assert set(told.trainer_ids) <= {"t"}
        state = await states(service.stub, [prompt_id])
        assert (sum(told.outcomes), told.rollouts_counted) == (state.rollouts[0], state.rollouts[0])
        assert (told.visits_found, told.from_revision) == (state.visits[0], "")


async def test_what_is_out_expired_given_back_or_rolled_out_elsewhere_is_called_so(
    service: RunningService,
) -> None:
    await pool(service.stub, 1, preset="uniform-grpo", lease_seconds=0.2)
    expiring = (await service.stub.NextBatch(next_batch(1))).batch
    question = pb.GetCurriculumRequest(curriculum_id="math")
    async with asyncio.timeout(60):
        while (await service.stub.GetCurriculum(question)).curriculum.live_lease_count:
            await asyncio.sleep(0.05)
    strategy = pb.Strategy(preset="uniform-grpo", lease_seconds=3600)
    await service.stub.UpdateCurriculum(
        pb.UpdateCurriculumRequest(request_id=new_id(), curriculum_id="math", strategy=strategy)
    )
    released = (await service.stub.NextBatch(next_batch(1))).batch
    await service.stub.ReleaseBatch(
        pb.ReleaseBatchRequest(request_id=new_id(), curriculum_id="math", lease_id=released.lease_id)
    )
    await service.stub.ReportRollouts(report(["p0"], [[1.0, float("nan")]]))
    open_ = (await service.stub.NextBatch(next_batch(1))).batch
    told = await history(service, "p0")
    assert list(told.statuses) == [
        pb.VISIT_STATUS_EXPIRED,
        pb.VISIT_STATUS_RELEASED,
        pb.VISIT_STATUS_OUTSIDE,
        pb.VISIT_STATUS_OPEN,
    ]
    assert told.lease_ids == [expiring.lease_id, released.lease_id, "", open_.lease_id]
    assert (list(told.rollouts), list(told.outcomes)) == ([0, 0, 2, 0], [0, 0, 1, 0])
    newest = await history(service, "p0", most_visits=1)
    assert (newest.lease_ids, newest.visits_found) == ([open_.lease_id], 4)


async def test_repeats_and_void_grants_are_no_visits(service: RunningService) -> None:
    await pool(service.stub, 4, preset="uniform-grpo")
    batch = (await service.stub.NextBatch(next_batch(4))).batch
    replica = await service.service.host.replica("math")
    columns = {
        name: to_bytes(np.full(4, value), kind)
        for name, value, kind in (
            ("quotas", 1, "i4"),
            ("pass_rates", 0.5, "f4"),
            ("pass_rate_stddevs", 0.1, "f4"),
            ("baselines", 0.5, "f4"),
            ("probabilities", 0.25, "f4"),
            ("sources", 1, "u1"),
        )
    }
    # As another replica would write it that drew the same prompts at the same moment.
    late = log_pb2.BatchGranted(lease_id="void", budget=4, rows=to_bytes(np.arange(4), "i4"), **columns)
    await replica.log.append(
        [log_pb2.Event(request_id=new_id(), batch_granted=late).SerializeToString()], replica.state.revision
    )
    said = report(batch.prompt_ids, [[1.0]] * 4, batch.lease_id)
    await service.stub.ReportRollouts(said)
    (*_, reported) = await replica.log.read("0-0")
    await replica.log.append([reported.payload], reported.id)
    told = await history(service, "p2")
    assert told.lease_ids == [batch.lease_id]
    assert (list(told.rollouts), told.rollouts_counted) == ([1], 1)


async def test_a_trimmed_log_tells_from_where_it_begins_and_what_is_left_of_a_lease_before(
    service: RunningService,
) -> None:
    await pool(service.stub, 8, preset="uniform-grpo")
    for version in range(3):
        await step(service, version, 8)
    held = (await service.stub.NextBatch(next_batch(4, policy_version=3))).batch
    replica = await service.service.host.replica("math")
    assert await take_snapshot(replica)
    horizon = replica.state.revision
    await add(service.stub, ["another"])
    assert await take_snapshot(replica)
    await service.stub.ReportRollouts(report(held.prompt_ids[:1], [[0.0, 0.0]], held.lease_id))
    told = await history(service, held.prompt_ids[0])
    assert told.from_revision == horizon
    # The batch lies before the horizon, but is remembered as long as the state knows it.
    assert held.lease_id in told.lease_ids
    assert told.rollouts[-1] == 2
    assert told.rollouts_counted == 3 * 8 + 2 > sum(told.outcomes)
    unreported = await history(service, held.prompt_ids[1])
    assert unreported.statuses[-1] == pb.VISIT_STATUS_OPEN


async def test_after_a_restore_what_was_undone_is_not_told(service: RunningService) -> None:
    await pool(service.stub, 4, preset="uniform-grpo")
    await step(service, 0)
    kept = {"curriculum_id": "math", "checkpoint_id": "one"}
    await service.stub.CreateCheckpoint(pb.CreateCheckpointRequest(request_id=new_id(), **kept))
    await step(service, 1)
    await service.stub.RestoreCheckpoint(pb.RestoreCheckpointRequest(request_id=new_id(), **kept))
    again = await step(service, 1)
    told = await history(service, "p0")
    assert told.lease_ids == [again.lease_id]
    assert told.rollouts_counted == 2 * sum(told.outcomes)


async def test_a_history_that_cannot_be_told_is_refused(service: RunningService) -> None:
    await create(service.stub)
    unknown = await refused(history(service, "nobody"))
    assert unknown.said == ("NOT_FOUND", "PROMPT_NOT_FOUND", "prompt_id")
    many = await refused(history(service, "nobody", most_visits=1001))
    assert many.said == ("INVALID_ARGUMENT", "INVALID_VISITS", "most_visits")


async def test_prompts_come_in_the_order_of_a_column_page_by_page(service: RunningService) -> None:
    ids = await pool(service.stub, 40, preset="frontier")
    for version in range(5):
        await step(service, version, 6)
    everything = await states(service.stub, ids)

    async def ordered(order: str, **fields: object) -> list[str]:
        found: list[str] = []
        request = pb.ListPromptStatesRequest(curriculum_id="math", page_size=7, order_by=order, **fields)  # type: ignore[arg-type]
        while True:
            page = await service.stub.ListPromptStates(request)
            found += page.prompt_ids
            if not page.next_page_token:
                return found
            request.page_token = page.next_page_token

    for name, column in (
        ("pass_rate", everything.pass_rates),
        ("pass_rate_stddev", everything.pass_rate_stddevs),
        ("visits", everything.visits),
        ("rollouts", everything.rollouts),
        ("last_policy_version", everything.last_policy_versions),
    ):
        rising = [ids[i] for i in np.argsort(np.asarray(column), kind="stable")]
        assert await ordered(name) == rising
        falling = [ids[i] for i in np.argsort(-np.asarray(column, dtype=np.float64), kind="stable")]
        assert await ordered(f"{name} desc") == falling
    where = pb.PromptFilter(id_contains="3")
    assert sorted(await ordered("visits", filter=where)) == sorted(i for i in ids if "3" in i)
    assert await ordered("visits", filter=pb.PromptFilter(id_contains="none such")) == []
    wrong = await refused(ordered("difficulty"))
    assert wrong.said == ("INVALID_ARGUMENT", "INVALID_ORDER", "order_by")
    assert "pass_rate_stddev" in wrong.message


async def test_the_summary_says_how_sure_the_estimates_are_and_what_each_cluster_gets(
    service: RunningService,
) -> None:
    await create(service.stub, preset="uniform-grpo")
    ids = [f"p{i}" for i in range(10)]
    await add(service.stub, ids, clusters=["a"] * 4 + ["b"] * 6)
    question = pb.GetSummaryRequest(curriculum_id="math", bins=10)
    untouched = (await service.stub.GetSummary(question)).summary
    assert untouched.uncertainty.unseen_stddev == pytest.approx(12**-0.5)
    assert sum(untouched.uncertainty.counts) == 0
    assert np.isnan(untouched.uncertainty.mean_stddev)
    assert np.isnan(untouched.clusters[0].recent_share)
    batch = await step(service, 0, 10)
    summary = (await service.stub.GetSummary(question)).summary
    stddevs = np.asarray((await states(service.stub, ids)).pass_rate_stddevs)
    assert summary.uncertainty.mean_stddev == pytest.approx(stddevs.mean(), rel=1e-5)
    assert sum(summary.uncertainty.counts) == 10
    assert summary.uncertainty.counts[int(stddevs[0] * 100)] == 10
    assert np.nanmax(summary.uncertainty.mean_stddevs) == pytest.approx(stddevs[0], rel=1e-5)
    granted = sum(q for i, q in zip(batch.prompt_ids, batch.quotas, strict=True) if i in ids[:4])
    assert [c.recent_share for c in summary.clusters] == pytest.approx(
        [granted / sum(batch.quotas), 1 - granted / sum(batch.quotas)]
    )
    assert summary.lag_seconds >= 0
