"""Embeddings of a curriculum whose strategy reads none lie in the log's server, not in the service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest
from google.protobuf.json_format import ParseDict

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.config import ServiceConfig
from sampler_service.curriculum.embeddings import EmbeddingColumn
from sampler_service.replica.snapshotting import take_snapshot
from tests.rpc_calls import create, new_id, next_batch, refused, report
from tests.service_process import RunningService, running_service

DIM, BLOCK = 2048, 1024
SIZE = 2 * BLOCK + 30
VECTORS = np.random.default_rng(0).standard_normal((SIZE, DIM)).astype(np.float16)


async def chunks(half: bool, request_id: str = "all") -> AsyncIterator[pb.AddPromptsRequest]:
    for start in range(0, SIZE, 200):
        part = VECTORS[start : start + 200]
        yield pb.AddPromptsRequest(
            curriculum_id="math",
            request_id=request_id,
            prompt_ids=[f"p{i}" for i in range(start, start + len(part))],
            embeddings=part.astype("<f2" if half else "<f4").tobytes(),
            embedding_dim=DIM,
            embedding_type=pb.EMBEDDING_TYPE_FLOAT16 if half else pb.EMBEDDING_TYPE_FLOAT32,
        )


async def column(service: RunningService) -> EmbeddingColumn:
    embeddings = (await service.service.host.replica("math")).state.table.embeddings
    assert embeddings is not None
    return embeddings


async def digest(service: RunningService) -> tuple[str, str]:
    replica = await service.service.host.replica("math")
    await replica.catch_up()
    return replica.state.revision, replica.state.digest()


async def update(service: RunningService, preset: str) -> None:
    await service.stub.UpdateCurriculum(
        pb.UpdateCurriculumRequest(
            curriculum_id="math", request_id=new_id(), strategy=ParseDict({"preset": preset}, pb.Strategy())
        )
    )


@pytest.mark.parametrize("half", [True, False])
async def test_they_leave_memory_with_a_snapshot_and_come_back_when_a_strategy_reads_them(
    service: RunningService, service_config: ServiceConfig, half: bool
) -> None:
    await create(service.stub, preset="cures")
    assert (await service.stub.AddPrompts(chunks(half))).added == SIZE
    before = await digest(service)
    replica = await service.service.host.replica("math")
    assert await take_snapshot(replica)
    assert (await column(service)).away_rows == 2 * BLOCK
    assert await digest(service) == before
    async with running_service(service_config) as other:
        assert await digest(other) == before
        assert (await column(other)).away_rows == 2 * BLOCK, "a start does not load them either"
        # The strategy changes through one replica, both fetch what it reads.
        await update(service, "frontier")
        batch = (await other.stub.NextBatch(next_batch(8))).batch
        groups = [[1.0, 0.0] * (quota // 2) + [1.0] * (quota % 2) for quota in batch.quotas]
        await other.stub.ReportRollouts(report(batch.prompt_ids, groups, batch.lease_id))
        assert await digest(service) == await digest(other)
        for one in (service, other):
            embeddings = await column(one)
            assert embeddings.away_rows == 0
            np.testing.assert_array_equal(embeddings[:SIZE], VECTORS)
        await update(other, "cures")
        assert await take_snapshot(await other.service.host.replica("math"))
        assert (await column(other)).away_rows == 2 * BLOCK


async def test_checkpoints_and_exports_hold_what_is_away(service: RunningService) -> None:
    await create(service.stub, preset="cures")
    await service.stub.AddPrompts(chunks(True))
    replica = await service.service.host.replica("math")
    assert await take_snapshot(replica)
    kept = pb.CreateCheckpointRequest(curriculum_id="math", request_id=new_id(), checkpoint_id="one")
    await service.stub.CreateCheckpoint(kept)
    for checkpoint_id in ("", "one"):
        request = pb.ExportCurriculumRequest(curriculum_id="math", checkpoint_id=checkpoint_id)
        data = b"".join([piece.data async for piece in service.stub.ExportCurriculum(request)])
        name = f"copy{checkpoint_id}"
        piece = pb.ImportCurriculumRequest(curriculum_id=name, request_id=new_id(), data=data)
        await service.stub.ImportCurriculum(iter([piece]))
        copy = (await service.service.host.replica(name)).state.table.embeddings
        assert copy is not None
        assert copy.away_rows == 2 * BLOCK
        assert copy.digest() == (await column(service)).digest()
    await service.stub.RestoreCheckpoint(
        pb.RestoreCheckpointRequest(curriculum_id="math", request_id=new_id(), checkpoint_id="one")
    )
    assert (await column(service)).away_rows == 2 * BLOCK
    await update(service, "frontier")
    np.testing.assert_array_equal((await column(service))[:SIZE], VECTORS)


async def test_memory_stays_bounded_while_prompts_stream_in(service_config: ServiceConfig) -> None:
    small = service_config.replica.model_copy(update={"snapshot_bytes": 2**20, "tick_seconds": 3600.0})
    async with running_service(service_config.model_copy(update={"replica": small})) as service:
        await create(service.stub, preset="cures")
        await service.stub.AddPrompts(chunks(True))
        embeddings = await column(service)
        # Nobody but the stream itself took snapshots: it waited for them.
        assert embeddings.away_rows >= BLOCK
        replica = await service.service.host.replica("math")
        assert replica.bytes_since_snapshot <= 2 * 2**20 + 200 * DIM * 2


async def test_a_stream_that_broke_off_is_resumed(service: RunningService) -> None:
    await create(service.stub, preset="cures")

    async def broken() -> AsyncIterator[pb.AddPromptsRequest]:
        number = 0
        async for chunk in chunks(True):
            number += 1
            if number > 3:
                raise ConnectionError("the trainer's host went away")
            yield chunk

    with pytest.raises((asyncio.CancelledError, grpc.aio.AioRpcError)):
        await service.stub.AddPrompts(broken())
    answer = await service.stub.AddPrompts(chunks(True))
    assert answer.total == SIZE
    np.testing.assert_array_equal((await column(service))[:SIZE], VECTORS)


async def test_an_unknown_type_or_a_length_that_does_not_fit_it_is_refused(service: RunningService) -> None:
    await create(service.stub)
    chunk = pb.AddPromptsRequest(
        curriculum_id="math", request_id="a", prompt_ids=["p"], embeddings=bytes(8), embedding_dim=4
    )
    short = await refused(service.stub.AddPrompts(iter([chunk])))
    assert short.said == ("INVALID_ARGUMENT", "LENGTH_MISMATCH", "embeddings")
    chunk.embedding_type = 9  # type: ignore[assignment]
    unknown = await refused(service.stub.AddPrompts(iter([chunk])))
    assert unknown.said == ("INVALID_ARGUMENT", "OUT_OF_RANGE", "embedding_type")
    chunk.embedding_type = pb.EMBEDDING_TYPE_FLOAT16
    assert (await service.stub.AddPrompts(iter([chunk]))).added == 1
