"""`replay` through the real service: from the log's beginning, behind a snapshot, after a restore."""

from __future__ import annotations

import asyncio
import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.cli import app
from sampler_service.cli.calls import console
from sampler_service.replica.snapshotting import take_snapshot
from tests.rpc_calls import add, create, new_id, next_batch, refused, report
from tests.service_process import RunningService
from trainer_client.client import AsyncCurriculumClient


async def train(service: RunningService, steps: range) -> None:
    rng = np.random.default_rng(1)
    for step in steps:
        batch = (await service.stub.NextBatch(next_batch(8, policy_version=step))).batch
        groups = [
            (rng.random(quota) < int(id_[1:]) / 80).astype(float).tolist()
            for id_, quota in zip(batch.prompt_ids, batch.quotas, strict=True)
        ]
        await service.stub.ReportRollouts(
            report(batch.prompt_ids, groups, batch.lease_id, policy_version=step)
        )


async def trained(service: RunningService, steps: int = 6) -> None:
    await create(service.stub, preset="uniform-grpo")
    vectors = np.random.default_rng(0).standard_normal((80, 3)).astype("<f4")
    ids = [f"p{i}" for i in range(80)]
    await add(service.stub, ids, embeddings=vectors.tobytes(), embedding_dim=3)
    await train(service, range(steps))


async def replayed(service: RunningService, *presets: str) -> pb.ReplayCurriculumResponse:
    strategies = [pb.Strategy(preset=preset) for preset in presets]
    return await service.stub.ReplayCurriculum(
        pb.ReplayCurriculumRequest(curriculum_id="math", strategies=strategies)
    )


async def test_the_whole_log_is_replayed_and_nothing_changes(service: RunningService) -> None:
    await trained(service)
    summary = (await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"))).summary
    answer = await replayed(service, "frontier", "cures")
    assert [one.strategy for one in answer.replays] == ["recorded", "frontier", "cures"]
    assert (answer.batches, answer.groups) == (6, 48)
    recorded = answer.replays[0]
    assert math.isclose(recorded.calibration.brier, summary.calibration.brier, rel_tol=1e-5)
    assert math.isclose(answer.mixed_share, summary.mixed_groups / summary.groups)
    assert {one.calibration.predictions for one in answer.replays} == {summary.calibration.predictions}
    again = (await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"))).summary
    for one in (summary, again):
        one.ClearField("lag_seconds")  # A matter of when one asks.
    assert again == summary


async def test_a_trimmed_log_is_replayed_from_the_snapshot_behind_which_it_was_trimmed(
    service: RunningService,
) -> None:
    await trained(service)
    replica = await service.service.host.replica("math")
    assert await take_snapshot(replica)
    await train(service, range(6, 9))
    assert await take_snapshot(replica)
    await train(service, range(9, 11))
    answer = await replayed(service, "frontier")
    assert answer.batches == 5
    assert {one.calibration.predictions for one in answer.replays} == {5 * 64}


async def test_after_a_restore_what_came_before_is_left_out(service: RunningService) -> None:
    await trained(service)
    kept = {"curriculum_id": "math", "checkpoint_id": "six"}
    await service.stub.CreateCheckpoint(pb.CreateCheckpointRequest(request_id=new_id(), **kept))
    await train(service, range(6, 9))
    await service.stub.RestoreCheckpoint(pb.RestoreCheckpointRequest(request_id=new_id(), **kept))
    await train(service, range(6, 8))
    answer = await replayed(service, "frontier", "dapo")
    assert answer.batches == 2
    assert {one.calibration.predictions for one in answer.replays} == {2 * 64}


async def test_an_imported_curriculum_is_replayed_from_its_import(service: RunningService) -> None:
    await trained(service)
    request = pb.ExportCurriculumRequest(curriculum_id="math")
    data = b"".join([piece.data async for piece in service.stub.ExportCurriculum(request)])
    await service.stub.DeleteCurriculum(pb.DeleteCurriculumRequest(curriculum_id="math", request_id=new_id()))
    await service.stub.ImportCurriculum(iter([pb.ImportCurriculumRequest(request_id=new_id(), data=data)]))
    await train(service, range(6, 10))
    assert (await replayed(service, "frontier")).batches == 4


async def test_strategies_that_are_none_are_refused(service: RunningService) -> None:
    await trained(service, 1)
    none = await refused(replayed(service))
    assert none.said == ("INVALID_ARGUMENT", "INVALID_STRATEGIES", "strategies")
    unknown = await refused(replayed(service, "grpo2000"))
    assert unknown.said == ("INVALID_ARGUMENT", "UNKNOWN_PRESET", "strategy.preset")


async def test_the_command_prints_a_table_and_json(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trained(service)
    monkeypatch.setattr(console, "width", 200)  # What COLUMNS said was read when the module was loaded.
    runner = CliRunner(env={"SAMPLER_TARGET": service.target})
    arguments = [
        "replay",
        "math",
        "--strategy",
        "frontier",
        "--strategy",
        '{"preset": "cures", "exploration": 0.3}',
    ]
    shown = await asyncio.to_thread(runner.invoke, app, arguments)
    assert shown.exit_code == 0, shown.output
    assert "6 batches, 48 groups" in shown.output
    rows = [line for line in shown.output.splitlines() if "#" in line]
    assert [row.split()[0] for row in rows] == ["recorded", "frontier", "cures"]
    plain = await asyncio.to_thread(runner.invoke, app, [*arguments, "--json"])
    # The service runs in this process: its log lines may stand around the answer.
    answer, _ = json.JSONDecoder().raw_decode(plain.output[plain.output.index("{\n") :])
    assert len(answer["replays"]) == 3


async def test_the_sdk_replays(service: RunningService) -> None:
    await trained(service, 2)
    async with AsyncCurriculumClient(service.target) as client:
        answer = await client.replay("math", ["frontier", {"preset": "cures"}])
    assert [one.strategy for one in answer.replays] == ["recorded", "frontier", "cures"]
