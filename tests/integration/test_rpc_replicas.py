"""Two services on one log: equal at equal revisions, and each reads what was written through the other."""

from __future__ import annotations

import asyncio

import numpy as np

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.config import ServiceConfig
from tests.rpc_calls import new_id, next_batch, pool, report, states
from tests.service_process import RunningService, running_service


async def digest(service: RunningService, revision: str) -> tuple[str, str]:
    """Revision and digest of the whole folded state."""
    replica = await service.service.host.replica("math", revision)
    await replica.catch_up()
    return replica.state.revision, replica.state.digest()


async def train(service: RunningService, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for step in range(steps):
        batch = (await service.stub.NextBatch(next_batch(6, policy_version=step))).batch
        groups = [rng.integers(0, 2, quota).astype(float).tolist() for quota in batch.quotas]
        await service.stub.ReportRollouts(
            report(batch.prompt_ids, groups, batch.lease_id, policy_version=step)
        )


async def test_replicas_that_served_interleaved_trainers_are_bit_equal(service_config: ServiceConfig) -> None:
    async with running_service(service_config) as one, running_service(service_config) as two:
        await pool(one.stub, 200)
        await asyncio.gather(*(train(service, 8, seed) for seed, service in enumerate((one, two, one, two))))
        advanced = await one.stub.AdvancePolicy(
            pb.AdvancePolicyRequest(curriculum_id="math", request_id=new_id(), policy_version=9, kl=0.01)
        )
        mine, yours = await digest(one, advanced.revision), await digest(two, advanced.revision)
        assert mine == yours
        async with running_service(service_config) as late:
            assert await digest(late, advanced.revision) == mine


async def test_no_prompt_is_in_two_live_leases_whoever_granted_them(service_config: ServiceConfig) -> None:
    async with running_service(service_config) as one, running_service(service_config) as two:
        await pool(one.stub, 40)
        asked = [service.stub.NextBatch(next_batch(5)) for service in (one, two) for _ in range(4)]
        granted = [id_ for answer in await asyncio.gather(*asked) for id_ in answer.batch.prompt_ids]
        assert len(granted) == len(set(granted)) == 40


async def test_what_was_written_through_one_is_read_through_the_other(service_config: ServiceConfig) -> None:
    async with running_service(service_config) as one, running_service(service_config) as two:
        ids = await pool(one.stub)
        for count in range(1, 6):
            told = await one.stub.ReportRollouts(report([ids[0]], [[1.0]]))
            seen = await two.stub.ListPromptStates(
                pb.ListPromptStatesRequest(
                    curriculum_id="math",
                    filter=pb.PromptFilter(prompt_ids=[ids[0]]),
                    min_revision=told.revision,
                )
            )
            assert list(seen.rollouts) == [count]


async def test_the_same_request_gets_the_same_batch_from_either(service_config: ServiceConfig) -> None:
    async with running_service(service_config) as one, running_service(service_config) as two:
        await pool(one.stub)
        asked = next_batch(4)
        first, second = await asyncio.gather(one.stub.NextBatch(asked), two.stub.NextBatch(asked))
        assert list(first.batch.prompt_ids) == list(second.batch.prompt_ids)
        assert list(first.batch.quotas) == list(second.batch.quotas)
        assert first.batch.lease_id == second.batch.lease_id
        assert sorted((first.duplicate, second.duplicate)) == [False, True]


async def test_deleting_through_one_is_seen_by_the_other(service_config: ServiceConfig) -> None:
    async with running_service(service_config) as one, running_service(service_config) as two:
        await pool(one.stub)
        await states(two.stub, ["p0"])
        await one.stub.DeleteCurriculum(pb.DeleteCurriculumRequest(request_id=new_id(), curriculum_id="math"))
        await pool(one.stub, 3)
        summary = (await two.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"))).summary
        assert summary.prompts == 3
