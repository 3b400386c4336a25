"""Wherever the connection to the log breaks, what is asked again is done once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import LogClient, RedisSettings
from sampler_service.replica import ReplicaHost
from tests.faulty_wire import Fault, FaultyWire
from tests.redis_servers import RedisServer
from tests.replica_calls import QUIET, create, until_answered


@asynccontextmanager
async def host_behind_wire(
    valkey: RedisServer, key_prefix: str
) -> AsyncIterator[tuple[ReplicaHost, FaultyWire]]:
    """A replica whose way to the log can be broken."""
    with TemporaryDirectory(prefix="wire-") as folder:
        wire = await FaultyWire(Path(folder) / "s.sock", valkey.socket_path, late_seconds=1.0).open()
        async with LogClient(RedisSettings(url=wire.url, key_prefix=key_prefix)) as client:
            yield ReplicaHost(client, QUIET, seed=1), wire
        await wire.close()


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
async def test_a_checkpoint_is_kept_wherever_the_connection_breaks(
    valkey: RedisServer, key_prefix: str, fault: Fault
) -> None:
    async with host_behind_wire(valkey, key_prefix) as (host, wire):
        await create(host)
        chunks_before = 0
        while True:
            wire.arm(fault, chunks_before)
            await until_answered(
                lambda name=f"at-{chunks_before}": host.create_checkpoint(
                    pb.CreateCheckpointRequest(curriculum_id="math", request_id=name, checkpoint_id=name)
                )
            )
            if wire.faults_met == chunks_before:
                break  # The last one passed without a break: every place has had its turn.
            chunks_before += 1
        wire.disarm()
        request = pb.ListCheckpointsRequest(curriculum_id="math")
        kept = (await host.list_checkpoints(request)).checkpoints
        assert [checkpoint.checkpoint_id for checkpoint in kept] == [
            f"at-{number}" for number in range(chunks_before + 1)
        ]


@pytest.mark.parametrize("fault", [Fault.LOSE_REQUEST, Fault.LOSE_REPLY])
async def test_a_creation_wherever_the_connection_breaks_is_repeated_until_it_is_done(
    valkey: RedisServer, key_prefix: str, fault: Fault
) -> None:
    async with host_behind_wire(valkey, key_prefix) as (host, wire):
        chunks_before = 0
        while True:
            name = f"at-{chunks_before}"
            creation = pb.CreateCurriculumRequest(request_id=name, curriculum_id=name)
            wire.arm(fault, chunks_before)
            await until_answered(lambda creation=creation: host.create_curriculum(creation))
            if wire.faults_met == chunks_before:
                break  # The last one passed without a break: every place has had its turn.
            chunks_before += 1
        wire.disarm()
        listed = await host.list_curricula(pb.ListCurriculaRequest())
        names = {curriculum.curriculum_id for curriculum in listed.curricula}
        assert names == {f"at-{number}" for number in range(chunks_before + 1)}
