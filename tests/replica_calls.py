"""What tests of replicas ask of a host: a curriculum, a batch, a report, a digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from google.protobuf import json_format

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import LogUnavailableError
from sampler_service.replica import ReplicaHost, ReplicaSettings

QUIET = ReplicaSettings(tick_seconds=3600)


async def create(
    host: ReplicaHost, preset: str = "uniform-grpo", prompts: int = 50, **strategy: object
) -> None:
    await host.create_curriculum(
        pb.CreateCurriculumRequest(
            request_id="create",
            curriculum_id="math",
            strategy=json_format.ParseDict({"preset": preset, **strategy}, pb.Strategy()),
        )
    )

    async def chunks() -> AsyncIterator[pb.AddPromptsRequest]:
        ids = [f"p{i}" for i in range(prompts)]
        yield pb.AddPromptsRequest(curriculum_id="math", request_id="add", prompt_ids=ids[: prompts // 2])
        yield pb.AddPromptsRequest(prompt_ids=ids[prompts // 2 :])

    if prompts:
        assert (await host.add_prompts(chunks())).total == prompts


async def next_batch(host: ReplicaHost, request_id: str, size: int = 8, **fields: object) -> pb.Batch:
    request = pb.NextBatchRequest(curriculum_id="math", request_id=request_id, batch_size=size, **fields)
    return (await host.next_batch(request)).batch


def report_of(batch: pb.Batch, request_id: str, reward: float = 1.0) -> pb.ReportRolloutsRequest:
    return pb.ReportRolloutsRequest(
        curriculum_id="math",
        request_id=request_id,
        lease_id=batch.lease_id,
        prompt_ids=batch.prompt_ids,
        rollout_counts=batch.quotas,
        rewards=[reward] * sum(batch.quotas),
    )


async def digest(host: ReplicaHost) -> tuple[str, str]:
    replica = await host.replica("math")
    await replica.catch_up()
    return replica.state.revision, replica.state.digest()


async def until_answered(call: Callable[[], Awaitable[object]]) -> None:
    """As a client does; no lock of a dead connection may keep it waiting for long (it would for two minutes)."""
    async with asyncio.timeout(60):
        while True:
            try:
                await call()
            except LogUnavailableError as error:
                await asyncio.sleep(error.retry_after_seconds)
            else:
                return
