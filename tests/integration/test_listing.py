"""Lists of many curricula: exact or marked, and nothing is loaded for them."""

from __future__ import annotations

import asyncio
import time

import pytest

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.fold_version import FOLD_VERSION
from sampler_service.curriculum.state import CurriculumState
from sampler_service.log import LogClient, revision_millis
from sampler_service.replica import CurriculumStatistics, ReplicaHost, ReplicaSettings
from sampler_service.replica import host as host_module
from sampler_service.replica.calls import administration
from sampler_service.replica.curriculum_replica import CurriculumReplica

QUIET = ReplicaSettings(tick_seconds=3600)
NAMES = [f"c{i}" for i in range(12)]


async def create(host: ReplicaHost, name: str) -> None:
    await host.create_curriculum(
        pb.CreateCurriculumRequest(
            request_id="create", curriculum_id=name, strategy=pb.Strategy(preset="uniform-grpo")
        )
    )

    async def chunks():  # type: ignore[no-untyped-def]
        yield pb.AddPromptsRequest(curriculum_id=name, request_id="add", prompt_ids=["a", "b", "c"])

    await host.add_prompts(chunks())


async def report(host: ReplicaHost, name: str, request_id: str) -> None:
    request = pb.ReportRolloutsRequest(
        curriculum_id=name,
        request_id=request_id,
        prompt_ids=["a"],
        rollout_counts=[4],
        rewards=[1.0, 0.0, 1.0, 1.0],
    )
    assert (await host.report_rollouts(request)).accepted == 4


async def listed(host: ReplicaHost, **request: object) -> dict[str, pb.Curriculum]:
    answer = await host.list_curricula(pb.ListCurriculaRequest(**request))
    return {one.curriculum_id: one for one in answer.curricula}


@pytest.fixture
async def left(log_client: LogClient) -> None:
    """Curricula that a replica had in memory, and that nobody has now."""
    host = ReplicaHost(log_client, QUIET, seed=1)
    for name in NAMES:
        await create(host, name)
        await report(host, name, "r")
    await host.close()


async def test_a_list_of_curricula_that_nobody_has_in_memory_loads_none(
    log_client: LogClient, left: None
) -> None:
    host = ReplicaHost(log_client, QUIET, seed=2)
    everything = await listed(host)
    assert sorted(everything) == sorted(NAMES)
    for one in everything.values():
        assert (one.prompt_count, one.rollout_count, one.stale) == (3, 4, False)
        assert one.strategy.preset == "uniform-grpo"
    assert host.residency().loads == 0
    # It is what asking for one says.
    for name in NAMES[:2]:
        asked = await host.get_curriculum(pb.GetCurriculumRequest(curriculum_id=name))
        assert everything[name] == asked.curriculum


async def test_summaries_come_with_the_list_when_asked_for(log_client: LogClient, left: None) -> None:
    host = ReplicaHost(log_client, QUIET, seed=2)
    answer = await host.list_curricula(pb.ListCurriculaRequest(summaries=True, page_size=5))
    assert [one.curriculum_id for one in answer.summaries] == [one.curriculum_id for one in answer.curricula]
    assert host.residency().loads == 0
    brief = answer.summaries[0]
    whole = (await host.get_summary(pb.GetSummaryRequest(curriculum_id=brief.curriculum_id, bins=10))).summary
    assert brief.difficulty_histogram == whole.difficulty_histogram
    assert brief.rollouts_spent == whole.rollouts_spent == 4
    assert brief.effective_prompt_ratio == whole.effective_prompt_ratio == 1.0
    assert str(brief.calibration.brier) == str(whole.calibration.brier)
    assert brief.live_leases == whole.live_leases == 0
    assert not (await host.list_curricula(pb.ListCurriculaRequest())).summaries


async def test_what_another_replica_has_written_a_moment_ago_is_marked(
    log_client: LogClient, left: None
) -> None:
    writer, reader = (ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2))
    await report(writer, "c3", "more")
    one = (await listed(reader))["c3"]
    assert (one.rollout_count, one.stale) == (4, True)
    assert reader.residency().loads == 0
    # The replica that has it knows better, and tells the others.
    assert (await listed(writer))["c3"].rollout_count == 8
    one = (await listed(reader))["c3"]
    assert (one.rollout_count, one.stale) == (8, False)


async def test_what_a_killed_replica_left_behind_is_loaded_once(
    log_client: LogClient, left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, reader = (ReplicaHost(log_client, QUIET, seed=seed) for seed in (1, 2))
    await report(killed, "c3", "more")
    monkeypatch.setattr(administration, "_FOLLOWED_SECONDS", 0.0)
    one = (await listed(reader))["c3"]
    assert (one.rollout_count, one.stale) == (8, False)
    assert reader.residency().loads == 1
    third = ReplicaHost(log_client, QUIET, seed=3)
    assert (await listed(third))["c3"].rollout_count == 8
    assert third.residency().loads == 0


async def test_logs_from_before_there_were_outlines_are_listed_exactly(log_client: LogClient) -> None:
    created = ReplicaHost(log_client, QUIET, seed=1)
    await create(created, "old")
    reader = ReplicaHost(log_client, QUIET, seed=2)
    one = (await listed(reader))["old"]
    assert (one.prompt_count, one.stale) == (3, False)
    again = ReplicaHost(log_client, QUIET, seed=3)
    assert (await listed(again))["old"] == one
    assert again.residency().loads == 0


async def test_an_outline_goes_only_forward_and_not_to_another_log(log_client: LogClient, left: None) -> None:
    host = ReplicaHost(log_client, QUIET, seed=1)
    replica = await host.replica("c1")
    (before,) = await log_client.outlines.read(["c1"])
    assert before is not None
    assert revision_millis(before.revision) <= time.time() * 1000 + 60_000
    await replica.log.keep_outline("1-0", b"of long ago")
    assert await log_client.outlines.read(["c1"]) == [before]
    await host.delete_curriculum(pb.DeleteCurriculumRequest(request_id="d", curriculum_id="c1"))
    await replica.log.keep_outline("9999999999999-0", b"of the deleted one")
    assert await log_client.outlines.read(["c1"]) == [None]
    await create(host, "c1")
    await replica.log.keep_outline("9999999999999-0", b"of the deleted one")
    assert await log_client.outlines.read(["c1"]) == [None]
    assert (await listed(host))["c1"].rollout_count == 0


async def test_housekeeping_tells_of_what_happened(log_client: LogClient) -> None:
    host = ReplicaHost(log_client, ReplicaSettings(tick_seconds=0.05), seed=1)
    await host.start()
    try:
        await create(host, "math")
        deadline = time.monotonic() + 60
        revision = (await host.replica("math")).state.revision
        while (outline := (await log_client.outlines.read(["math"]))[0]) is None or (
            outline.revision != revision
        ):
            assert time.monotonic() < deadline, "no outline was kept"
            await asyncio.sleep(0.02)
    finally:
        await host.close()


async def test_a_curriculum_that_cannot_be_loaded_does_not_spoil_the_list(
    log_client: LogClient, left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newer release wrote to it: it is listed as it was, the others as they are."""
    event = log_pb2.Event(
        request_id="newer", strategy_updated=log_pb2.StrategyUpdated(fold_version=FOLD_VERSION + 1)
    )
    await log_client.log("c5").append([event.SerializeToString()], "0-0")
    monkeypatch.setattr(administration, "_FOLLOWED_SECONDS", 0.0)
    everything = await listed(ReplicaHost(log_client, QUIET, seed=2))
    assert len(everything) == len(NAMES)
    assert everything["c5"].stale
    assert everything["c5"].rollout_count == 4


async def test_a_curriculum_whose_state_is_unsound_spoils_neither_the_list_nor_the_metrics(
    log_client: LogClient, left: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of ours, or a file that somebody made up: the other curricula go on."""
    host = ReplicaHost(log_client, QUIET)
    for name in NAMES[:3]:
        await report(host, name, "later")
    true_outline, true_figures = administration.outline, host_module.statistics_of

    def outline(state: CurriculumState) -> pb.ListCurriculaResponse:
        if state.curriculum_id == NAMES[1]:
            raise TypeError("no number")
        return true_outline(state)

    def figures(replica: CurriculumReplica) -> CurriculumStatistics:
        if replica.curriculum_id == NAMES[1]:
            raise TypeError("no number")
        return true_figures(replica)

    monkeypatch.setattr(administration, "outline", outline)
    monkeypatch.setattr(host_module, "statistics_of", figures)
    curricula = await listed(host)
    assert sorted(curricula) == sorted(NAMES)
    assert curricula[NAMES[1]].stale
    assert not curricula[NAMES[0]].stale
    assert {one.curriculum_id for one in host.statistics()} == {NAMES[0], NAMES[2]}
    await host.close()
