"""What takes long on a large pool happens in threads, and comes to the same."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter

import numpy as np
import pytest
from google.protobuf.json_format import ParseDict

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.errors import Exhausted
from sampler_service.curriculum.planner import BatchPlanner
from sampler_service.curriculum.pool_weights import PoolWeights
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.table import PromptTable
from sampler_service.log import LogClient, snapshots
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.workers import heartbeat

LARGE = ReplicaSettings(tick_seconds=3600, background_refresh_prompts=50)
"""Pools of fifty prompts count as large."""


@pytest.fixture
async def host(log_client: LogClient) -> ReplicaHost:
    return ReplicaHost(log_client, LARGE, seed=1)


async def pool(host: ReplicaHost, preset: str, prompts: int = 400) -> None:
    strategy = ParseDict({"preset": preset}, pb.Strategy())
    await host.create_curriculum(
        pb.CreateCurriculumRequest(request_id="create", curriculum_id="math", strategy=strategy)
    )

    async def chunks():
        ids = [f"p{i}" for i in range(prompts)]
        yield pb.AddPromptsRequest(curriculum_id="math", request_id="add", prompt_ids=ids)

    await host.add_prompts(chunks())


async def batch(host: ReplicaHost, request_id: str, size: int = 8) -> pb.Batch:
    request = pb.NextBatchRequest(curriculum_id="math", request_id=request_id, batch_size=size)
    return (await host.next_batch(request)).batch


async def report(host: ReplicaHost, granted: pb.Batch, request_id: str) -> int:
    answer = await host.report_rollouts(
        pb.ReportRolloutsRequest(
            curriculum_id="math",
            request_id=request_id,
            lease_id=granted.lease_id,
            prompt_ids=granted.prompt_ids,
            rollout_counts=granted.quotas,
            rewards=np.arange(sum(granted.quotas)) % 2,
        )
    )
    return answer.accepted


@pytest.mark.parametrize("preset", ["mopps", "difficulty-tracker", "hard-examples", "cures"])
async def test_many_trainers_on_a_large_pool_never_share_a_prompt(host: ReplicaHost, preset: str) -> None:
    await pool(host, preset)
    rollouts = 0

    async def trainer(number: int) -> None:
        nonlocal rollouts
        for step in range(6):
            granted = await batch(host, f"{number}-{step}")
            accepted = await report(host, granted, f"r{number}-{step}")
            rollouts += accepted

    await asyncio.gather(*(trainer(number) for number in range(10)))
    held = await asyncio.gather(*(batch(host, f"last-{number}") for number in range(20)))
    drawn = [id_ for one in held for id_ in one.prompt_ids]
    assert len(drawn) == len(set(drawn))
    replica = await host.replica("math")
    assert replica.state.history.totals["rollouts"] == rollouts
    # Every reservation was settled: what is free can be drawn to the last prompt.
    free = 400 - len(drawn)
    rest = await batch(host, "rest", free)
    assert len(set(rest.prompt_ids) | set(drawn)) == len(rest.prompt_ids) + len(drawn) <= 400
    if len(rest.prompt_ids) == free:
        with pytest.raises(Exhausted):
            await batch(host, "too-much")


async def test_a_caller_that_goes_while_its_batch_is_drawn_leaves_no_reservation(
    host: ReplicaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    await pool(host, "mopps")
    replica = await host.replica("math")
    drawing, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    plan = BatchPlanner.plan

    def slow_plan(self: BatchPlanner, *arguments, **more):
        loop.call_soon_threadsafe(drawing.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(120)
        return plan(self, *arguments, **more)

    monkeypatch.setattr(BatchPlanner, "plan", slow_plan)
    asking = asyncio.create_task(replica.plan(400, 0, equal_quotas=False))
    await drawing.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    monkeypatch.undo()
    # The loop is free meanwhile, and the next one waits for the thread.
    waiting = asyncio.create_task(batch(host, "next", 400))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    go_on.set()
    granted = await waiting
    assert len(granted.prompt_ids) == 400


async def test_after_a_restart_prompts_are_found_by_id_however_they_are_asked_for(
    log_client: LogClient, host: ReplicaHost
) -> None:
    await pool(host, "uniform-grpo")
    await host.close()
    for number, preset in enumerate(("report", "add", "list")):
        again = ReplicaHost(log_client, LARGE, seed=number)
        replica = await again.replica("math")
        assert not replica.state.table.indexed
        if preset == "report":
            request = pb.ReportRolloutsRequest(
                curriculum_id="math",
                request_id="r",
                prompt_ids=["p399", "absent"],
                rollout_counts=[1, 1],
                rewards=[1.0, 1.0],
            )
            assert (await again.report_rollouts(request)).accepted == 1
        elif preset == "add":

            async def chunks():
                ids = ["p7", "new"]
                yield pb.AddPromptsRequest(curriculum_id="math", request_id="more", prompt_ids=ids)

            answer = await again.add_prompts(chunks())
            assert (answer.added, answer.already_present, answer.total) == (1, 1, 401)
        else:
            listed = await again.list_prompt_states(
                pb.ListPromptStatesRequest(
                    curriculum_id="math", filter=pb.PromptFilter(prompt_ids=["p399", "p0"])
                )
            )
            assert list(listed.rollouts) == [1, 0]
        assert replica.state.table.indexed
        await again.close()


async def test_callers_who_never_pause_do_not_keep_the_pool_from_being_weighed_anew(
    host: ReplicaHost,
) -> None:
    await pool(host, "cures")
    replica = await host.replica("math")
    await batch(host, "first")
    policy = pb.AdvancePolicyRequest(curriculum_id="math", request_id="policy", policy_version=1)
    before = replica.planner.weights.weighings
    deadline = asyncio.get_running_loop().time() + 60

    def waiting_for_weights() -> bool:
        weighed = replica.planner.weights.weighings > before
        return not weighed and asyncio.get_running_loop().time() < deadline

    async def trainer(number: int) -> None:
        step = 0
        while waiting_for_weights():
            step += 1
            await report(host, await batch(host, f"{number}-{step}"), f"r{number}-{step}")

    async def advance() -> None:
        await asyncio.sleep(0.01)  # The trainers are under way.
        await host.advance_policy(policy)

    await asyncio.gather(advance(), *(trainer(number) for number in range(4)))
    assert replica.planner.weights.weighings > before


async def test_a_worker_gives_signs_of_life_while_a_large_pool_is_loaded_and_worked_on(
    log_client: LogClient, host: ReplicaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long each part takes: none goes on here before another sign was given."""
    await pool(host, "uniform-grpo")
    checkpoint = pb.CreateCheckpointRequest(curriculum_id="math", request_id="keep", checkpoint_id="kept")
    await host.create_checkpoint(checkpoint)
    await host.close()
    reader, writer = os.pipe()
    monkeypatch.setattr(heartbeat, "_STANDARD_OUTPUT", writer)
    signs = asyncio.create_task(heartbeat.give_signs(0.1))
    loops_thread, seen = threading.get_ident(), Counter[str]()

    def after_another_sign(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def slow(*arguments, **more):
            seen[name] += 1
            assert threading.get_ident() != loops_thread, f"{name} keeps the event loop"
            os.read(reader, 2**20)
            assert os.read(reader, 2**20).startswith(heartbeat.SIGN)
            return original(*arguments, **more)

        monkeypatch.setattr(owner, name, slow)

    parts = [
        (snapshots, "_place"),
        (CurriculumState, "restore"),
        (CurriculumState, "export"),
        (PromptTable, "build_index"),
        (PromptTable, "_hash_ids"),
        (PoolWeights, "weigh_pool"),
    ]
    for owner, name in parts:
        after_another_sign(owner, name)
    try:
        again = ReplicaHost(log_client, LARGE, seed=2)
        granted = await batch(again, "first")
        assert await report(again, granted, "r") > 0
        wanted = pb.PromptFilter(prompt_ids=["p7"])
        listed = await again.list_prompt_states(
            pb.ListPromptStatesRequest(curriculum_id="math", filter=wanted)
        )
        assert listed.prompt_ids == ["p7"]
        await again.create_checkpoint(
            pb.CreateCheckpointRequest(curriculum_id="math", request_id="keep more", checkpoint_id="more")
        )
        await again.restore_checkpoint(
            pb.RestoreCheckpointRequest(curriculum_id="math", request_id="back", checkpoint_id="kept")
        )
        assert len((await batch(again, "second")).prompt_ids) == 8
        # A strategy that chooses by hashes of ids, put in force and loaded.
        await again.update_curriculum(
            pb.UpdateCurriculumRequest(
                curriculum_id="math", request_id="by hashes", strategy=pb.Strategy(preset="cures")
            )
        )
        await again.close()
        once_more = ReplicaHost(log_client, LARGE, seed=3)
        assert len((await batch(once_more, "third")).prompt_ids) == 8
        await once_more.close()
    finally:
        signs.cancel()
        os.close(writer)  # A thread that still waits for a sign waits no longer.
    assert set(seen) == {name for _, name in parts}
    assert seen["_hash_ids"] == 2
    os.close(reader)
