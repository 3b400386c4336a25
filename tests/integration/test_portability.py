"""Export and import through the real service."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from google.protobuf.json_format import MessageToDict

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.archive import archive_chunks
from sampler_service.config import ServiceConfig
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from sampler_service.log import LogClient, RedisSettings
from tests.redis_servers import running_server, valkey_binary
from tests.rpc_calls import add, create, new_id, next_batch, refused, report
from tests.service_process import RunningService, running_service


async def trained(service: RunningService, steps: int = 5) -> pb.NextBatchRequest:
    """Curriculum `math` with features and history; the request whose batch is still out."""
    await create(service.stub)
    rng = np.random.default_rng(1)
    ids = [f"p{i}" for i in range(60)]
    vectors = rng.standard_normal((60, 4)).astype("<f4")
    await add(
        service.stub,
        ids,
        clusters=["easy", "hard", ""] * 20,
        reference_pass_rates=rng.random(60),
        embeddings=vectors.tobytes(),
        embedding_dim=4,
    )
    for step in range(steps):
        batch = (await service.stub.NextBatch(next_batch(6, policy_version=step))).batch
        groups = [rng.integers(0, 2, quota).astype(float).tolist() for quota in batch.quotas]
        await service.stub.ReportRollouts(
            report(batch.prompt_ids, groups, batch.lease_id, policy_version=step)
        )
    out = next_batch(3, policy_version=steps)
    await service.stub.NextBatch(out)
    return out


async def exported(service: RunningService, **fields: str) -> bytes:
    request = pb.ExportCurriculumRequest(**{"curriculum_id": "math", **fields})
    return b"".join([piece.data async for piece in service.stub.ExportCurriculum(request)])


async def imported(
    service: RunningService, data: bytes, curriculum_id: str = "", request_id: str = ""
) -> pb.ImportCurriculumResponse:
    async def pieces() -> AsyncIterator[pb.ImportCurriculumRequest]:
        yield pb.ImportCurriculumRequest(
            curriculum_id=curriculum_id, request_id=request_id or new_id(), data=data[:1000]
        )
        for start in range(1000, len(data), 50_000):
            yield pb.ImportCurriculumRequest(data=data[start : start + 50_000])

    return await service.stub.ImportCurriculum(pieces())


async def told(service: RunningService, curriculum_id: str = "math") -> tuple[dict[str, object], ...]:
    """Everything the service says of a curriculum, except what names its log."""
    states = await service.stub.ListPromptStates(
        pb.ListPromptStatesRequest(curriculum_id=curriculum_id, page_size=1000)
    )
    summary = (await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id=curriculum_id))).summary
    curriculum = (
        await service.stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=curriculum_id))
    ).curriculum
    for message in (states, summary, curriculum):
        for name in ("revision", "curriculum_id", "update_time", "lag_seconds"):
            if name in message.DESCRIPTOR.fields_by_name:
                message.ClearField(name)
    if summary.history.times_seconds:
        summary.history.times_seconds.pop()  # The open point ends now.
    return MessageToDict(states), MessageToDict(summary), MessageToDict(curriculum)


async def test_an_imported_curriculum_answers_as_the_exported_one_on_another_server(
    service: RunningService, tmp_path: Path
) -> None:
    out = await trained(service)
    before = await told(service)
    data = await exported(service)
    with running_server(valkey_binary()) as other:
        config = ServiceConfig(grpc_port=0, http_port=-1, redis=RedisSettings(url=other.url), drain_seconds=1)
        async with running_service(config) as elsewhere:
            made = await imported(elsewhere, data)
            assert (made.curriculum.curriculum_id, made.curriculum.prompt_count) == ("math", 60)
            assert await told(elsewhere) == before
            # The trainer that moved along: its batch is the one it had, and its report counts.
            again = await elsewhere.stub.NextBatch(out)
            assert again.duplicate
            groups = [[1.0] * quota for quota in again.batch.quotas]
            answer = await elsewhere.stub.ReportRollouts(
                report(again.batch.prompt_ids, groups, again.batch.lease_id, policy_version=5)
            )
            assert answer.accepted == sum(again.batch.quotas)
            following = await elsewhere.stub.NextBatch(next_batch(6, policy_version=5))
            assert len(following.batch.prompt_ids) == 6
            after = await told(elsewhere)
        # A new process reads the same from the log.
        async with running_service(config) as restarted:
            assert await told(restarted) == after


async def test_a_replica_that_folds_the_log_from_its_import_is_bit_equal(
    service: RunningService, service_config: ServiceConfig
) -> None:
    await trained(service)
    await imported(service, await exported(service), "copy")
    told_ = await service.stub.AdvancePolicy(
        pb.AdvancePolicyRequest(curriculum_id="copy", request_id=new_id(), policy_version=9)
    )
    async with running_service(service_config) as late:
        replicas = [await one.service.host.replica("copy", told_.revision) for one in (service, late)]
        assert len({(replica.state.revision, replica.state.digest()) for replica in replicas}) == 1
    # That one took a snapshot as it went; who loads it is equal too, and the imported state is dropped.
    async with running_service(service_config) as later:
        replica = await later.service.host.replica("copy")
        assert replica.state.digest() == replicas[0].state.digest()


async def test_a_copy_and_its_original_go_their_own_ways(service: RunningService) -> None:
    await trained(service)
    before = await told(service)
    made = await imported(service, await exported(service), "copy")
    assert made.curriculum.curriculum_id == "copy"
    assert await told(service, "copy") == before
    await service.stub.ReportRollouts(report(["p0"], [[1.0]], curriculum_id="copy"))
    assert await told(service) == before
    assert await told(service, "copy") != before


async def test_a_checkpoint_can_be_exported(service: RunningService, tmp_path: Path) -> None:
    await trained(service)
    kept = await told(service)
    await service.stub.CreateCheckpoint(
        pb.CreateCheckpointRequest(curriculum_id="math", request_id=new_id(), checkpoint_id="step/5")
    )
    await service.stub.ReportRollouts(report(["p0"], [[1.0]]))
    await imported(service, await exported(service, checkpoint_id="step/5"), "from-step-5")
    assert await told(service, "from-step-5") == kept
    missing = await refused(exported(service, checkpoint_id="nothing"))
    assert missing.said == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND", "checkpoint_id")


async def test_a_repeated_import_gives_the_first_outcome_and_another_is_refused(
    service: RunningService,
) -> None:
    await trained(service)
    data = await exported(service)
    first = await imported(service, data, "copy", "import-1")
    await service.stub.ReportRollouts(report(["p0"], [[1.0]], curriculum_id="copy"))
    again = await imported(service, data, "copy", "import-1")
    assert (first.duplicate, again.duplicate) == (False, True)
    other = await refused(imported(service, data, "copy"))
    assert other.said == ("ALREADY_EXISTS", "CURRICULUM_EXISTS", "curriculum_id")


async def test_what_is_no_export_is_refused_and_leaves_nothing_behind(
    service: RunningService, log_client: LogClient
) -> None:
    await trained(service)
    data = await exported(service)
    keys = await all_keys(log_client)
    foreign = await refused(imported(service, b"prompt_ids,pass_rates\n" * 100, "copy"))
    assert foreign.said == ("INVALID_ARGUMENT", "NOT_AN_EXPORT", "data")
    cut = await refused(imported(service, data[: len(data) // 2], "copy"))
    assert cut.said == ("INVALID_ARGUMENT", "EXPORT_DAMAGED", "data")
    middle = len(data) // 3
    flipped = await refused(
        imported(service, data[:middle] + b"\x00\xff\x00\xff" + data[middle + 4 :], "copy")
    )
    assert flipped.said == ("INVALID_ARGUMENT", "EXPORT_DAMAGED", "data")
    unnamed = await refused(imported(service, data, "no {braces}"))
    assert unnamed.said == ("INVALID_ARGUMENT", "INVALID_ID", "curriculum_id")
    assert await all_keys(log_client) == keys
    listed = await service.stub.ListCurricula(pb.ListCurriculaRequest())
    assert [one.curriculum_id for one in listed.curricula] == ["math"]


async def all_keys(client: LogClient) -> set[bytes]:
    pattern = f"{client.settings.key_prefix}*"
    return set(await client.call(lambda redis: redis.keys(pattern)))


async def test_a_file_whose_digests_are_right_and_whose_state_is_not_is_refused(
    service: RunningService,
) -> None:
    """Whoever makes a file makes its digests, too: it must not get in the way of other curricula."""
    state = CurriculumState("made-up", resolve("uniform-grpo", {}), "uniform-grpo")
    state.history.rollouts_saved = "many"  # type: ignore[assignment]
    refusal = await refused(imported(service, b"".join(archive_chunks(state))))
    assert refusal.said == ("INVALID_ARGUMENT", "EXPORT_DAMAGED", "data")
    assert not (await service.stub.ListCurricula(pb.ListCurriculaRequest())).curricula


async def test_an_import_that_is_broken_off_leaves_no_curriculum_and_no_keys(
    service: RunningService, log_client: LogClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trained(service)
    data = await exported(service)
    keys = await all_keys(log_client)
    from sampler_service.log import CurriculumLog

    async def dies(*_: object) -> str:
        raise asyncio.CancelledError

    monkeypatch.setattr(CurriculumLog, "create", dies)
    with pytest.raises(asyncio.CancelledError):
        async with asyncio.timeout(120):
            await service.service.host.import_curriculum(_pieces(data))
    assert await all_keys(log_client) == keys


async def _pieces(data: bytes) -> AsyncIterator[pb.ImportCurriculumRequest]:
    yield pb.ImportCurriculumRequest(curriculum_id="copy", request_id="r", data=data)


async def test_a_file_over_the_limit_is_refused(service_config: ServiceConfig) -> None:
    small = service_config.replica.model_copy(update={"max_import_bytes": 2**20})
    async with running_service(service_config.model_copy(update={"replica": small})) as service:
        refusal = await refused(imported(service, bytes(2**20 + 1), "copy"))
    assert refusal.said == ("RESOURCE_EXHAUSTED", "IMPORT_TOO_LARGE", "data")


async def test_without_pyarrow_the_service_names_the_extra(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(service.stub)
    for name in [name for name in sys.modules if name.startswith("sampler_service.archive")]:
        monkeypatch.delitem(sys.modules, name)
    import sampler_service

    monkeypatch.delattr(sampler_service, "archive", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for refusal in (await refused(exported(service)), await refused(imported(service, b"PAR1", "copy"))):
        assert refusal.said == ("FAILED_PRECONDITION", "PARQUET_MISSING", "")
        assert "curriculum-sampler[parquet]" in refusal.message


async def test_the_sdk_writes_and_reads_files(service: RunningService, tmp_path: Path) -> None:
    from trainer_client.client import AsyncCurriculumClient, CurriculumClient
    from trainer_client.exceptions import NotFoundError

    await trained(service)
    before = await told(service)
    path = tmp_path / "math.parquet"
    async with AsyncCurriculumClient(service.target) as client:
        revision = await client.export_curriculum("math", path)
        assert (await client.get_curriculum("math")).revision == revision
        made = await client.import_curriculum(path, curriculum_id="copy")
        assert made.prompt_count == 60
        with pytest.raises(NotFoundError):
            await client.export_curriculum("nobody", tmp_path / "nobody.parquet")

    def blocking() -> None:
        with CurriculumClient(service.target) as client:
            client.export_curriculum("copy", tmp_path / "copy.parquet")
            client.import_curriculum(tmp_path / "copy.parquet", curriculum_id="second")

    await asyncio.to_thread(blocking)
    assert await told(service, "second") == before
    assert sorted(found.name for found in tmp_path.glob("*")) == ["copy.parquet", "math.parquet"]
    assert pq.read_table(path, columns=["prompt_ids", "pass_rates"]).num_rows == 60


async def test_the_strategy_lies_in_the_file_for_people(service: RunningService, tmp_path: Path) -> None:
    await trained(service)
    path = tmp_path / "math.parquet"
    path.write_bytes(await exported(service))
    manifest = json.loads(pq.read_metadata(path).metadata[b"curriculum_sampler.manifest"])
    assert (manifest["curriculum_id"], manifest["strategy"]["preset"]) == ("math", "frontier")
