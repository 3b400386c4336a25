"""Every wrong request gets the right code, reason and field, and the service answers the next one."""

from __future__ import annotations

import asyncio
import math

import grpc
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.config import ServiceConfig
from sampler_service.rpc import RpcSettings
from tests.rpc_calls import add, create, new_id, next_batch, pool, refused, report, states
from tests.service_process import RunningService, running_service

BAD = "INVALID_ARGUMENT"


async def test_an_unknown_curriculum_is_not_found_whatever_is_asked(service: RunningService) -> None:
    stub = service.stub
    calls = [
        stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id="no")),
        stub.UpdateCurriculum(pb.UpdateCurriculumRequest(request_id=new_id(), curriculum_id="no")),
        stub.DeleteCurriculum(pb.DeleteCurriculumRequest(request_id=new_id(), curriculum_id="no")),
        stub.NextBatch(next_batch(curriculum_id="no")),
        stub.ReportRollouts(report(["a"], [[1.0]], curriculum_id="no")),
        stub.ReleaseBatch(pb.ReleaseBatchRequest(request_id=new_id(), curriculum_id="no", lease_id="x")),
        stub.AdvancePolicy(
            pb.AdvancePolicyRequest(request_id=new_id(), curriculum_id="no", policy_version=1)
        ),
        stub.CreateCheckpoint(
            pb.CreateCheckpointRequest(request_id=new_id(), curriculum_id="no", checkpoint_id="c")
        ),
        stub.RestoreCheckpoint(
            pb.RestoreCheckpointRequest(request_id=new_id(), curriculum_id="no", checkpoint_id="c")
        ),
        stub.DeleteCheckpoint(
            pb.DeleteCheckpointRequest(request_id=new_id(), curriculum_id="no", checkpoint_id="c")
        ),
        stub.ListCheckpoints(pb.ListCheckpointsRequest(curriculum_id="no")),
        stub.ListPromptStates(pb.ListPromptStatesRequest(curriculum_id="no")),
        stub.GetSummary(pb.GetSummaryRequest(curriculum_id="no")),
        add(stub, ["a"], "no"),
    ]
    for call in calls:
        answer = await refused(call)
        assert answer.said == ("NOT_FOUND", "CURRICULUM_NOT_FOUND", "curriculum_id")
        assert answer.domain == "sampler-service"
        assert "'no'" in answer.message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
async def test_a_strategy_of_numbers_that_are_none_is_refused(service: RunningService, value: float) -> None:
    strategy = pb.Strategy(preset="cures")
    strategy.proposal.update({"cures": {"temperature": value}})
    request = pb.CreateCurriculumRequest(request_id=new_id(), curriculum_id="none", strategy=strategy)
    answer = await refused(service.stub.CreateCurriculum(request))
    assert answer.said == (BAD, "INVALID_PARAMETER", "strategy")


async def test_the_name_of_a_trainer_has_an_end(service: RunningService) -> None:
    """It is kept with the lease and in the log: nobody fills those with it."""
    await pool(service.stub)
    answer = await refused(service.stub.NextBatch(next_batch(trainer_id="t" * 257)))
    assert answer.said == (BAD, "TOO_LONG", "trainer_id")
    await service.stub.NextBatch(next_batch(trainer_id="t" * 256))


async def test_an_unknown_prompt_is_not_found_when_read_and_rejected_when_reported(
    service: RunningService,
) -> None:
    ids = await pool(service.stub)
    answer = await refused(states(service.stub, [ids[0], "nobody"]))
    assert answer.said == ("NOT_FOUND", "PROMPT_NOT_FOUND", "filter.prompt_ids[1]")
    done = await service.stub.ReportRollouts(report([ids[0], "nobody"], [[1.0, 0.0], [1.0]]))
    assert done.accepted == 2
    assert [(r.prompt_id, r.rollouts, r.reason) for r in done.rejected] == [("nobody", 1, "PROMPT_NOT_FOUND")]


@pytest.mark.parametrize(
    ("strategy", "reason", "field"),
    [
        ({"preset": "grpo2000"}, "UNKNOWN_PRESET", "strategy.preset"),
        ({"proposal": {"oracle": {}}}, None, "strategy.proposal"),
        ({"proposal": {"cures": {"heat": 1}}}, None, "strategy.proposal.cures.heat"),
        ({"proposal": {"cures": {"temperature": "hot"}}}, None, "strategy.proposal.cures.temperature"),
        ({"exploration": 1.5}, None, "strategy.exploration"),
        ({"exploration": "NaN"}, None, "strategy.exploration"),
        ({"estimator": {"prior": [0, 1]}}, None, "strategy.estimator.prior"),
        ({"predictor": {"oracle": {}}}, None, "strategy.predictor"),
        ({"preset": "cures", "equal_quotas": True}, "IMPOSSIBLE_COMBINATION", "strategy.quota"),
    ],
)
async def test_a_strategy_that_cannot_be_is_refused_with_the_field_at_fault(
    service: RunningService, strategy: dict[str, object], reason: str | None, field: str
) -> None:
    answer = await refused(create(service.stub, **strategy))
    assert answer.code == BAD
    assert answer.reason == reason or (reason is None and answer.reason.isupper())
    assert answer.field == field
    assert not (await service.stub.ListCurricula(pb.ListCurriculaRequest())).curricula


@pytest.mark.parametrize(
    ("name", "reason"), [("", "MISSING_FIELD"), ("a{b}", "INVALID_ID"), ("x" * 300, "TOO_LONG")]
)
async def test_ids_that_cannot_name_a_curriculum_are_refused(
    service: RunningService, name: str, reason: str
) -> None:
    assert (await refused(create(service.stub, name))).said == (BAD, reason, "curriculum_id")


async def test_a_mutation_without_a_request_id_is_refused(service: RunningService) -> None:
    answer = await refused(service.stub.CreateCurriculum(pb.CreateCurriculumRequest(curriculum_id="a")))
    assert answer.said == (BAD, "MISSING_FIELD", "request_id")


async def test_creating_what_exists_is_refused(service: RunningService) -> None:
    await create(service.stub)
    answer = await refused(create(service.stub))
    assert answer.said == ("ALREADY_EXISTS", "CURRICULUM_EXISTS", "curriculum_id")


async def test_one_request_id_for_two_requests_is_refused(service: RunningService) -> None:
    await pool(service.stub)
    first = next_batch(4)
    await service.stub.NextBatch(first)
    again = next_batch(5, request_id=first.request_id)
    answer = await refused(service.stub.NextBatch(again))
    assert (answer.code, answer.field) == (BAD, "request_id")


async def test_a_stale_etag_is_refused(service: RunningService) -> None:
    await create(service.stub)
    request = pb.UpdateCurriculumRequest(
        request_id=new_id(), curriculum_id="math", strategy=pb.Strategy(preset="cures"), etag="old"
    )
    assert (await refused(service.stub.UpdateCurriculum(request))).said == (
        "ABORTED",
        "ETAG_MISMATCH",
        "etag",
    )


async def test_a_strategy_that_needs_what_no_prompt_has_is_refused(service: RunningService) -> None:
    await pool(service.stub)
    request = pb.UpdateCurriculumRequest(
        request_id=new_id(), curriculum_id="math", strategy=pb.Strategy(preset="hard-examples")
    )
    assert (await refused(service.stub.UpdateCurriculum(request))).said == (
        "FAILED_PRECONDITION",
        "MISSING_COLUMNS",
        "strategy.proposal",
    )


async def test_a_batch_from_an_empty_pool_is_refused(service: RunningService) -> None:
    await create(service.stub)
    answer = await refused(service.stub.NextBatch(next_batch(4)))
    assert answer.said[:2] == ("FAILED_PRECONDITION", "EMPTY_POOL")


async def test_a_batch_larger_than_the_pool_is_granted_short_with_a_note(service: RunningService) -> None:
    await pool(service.stub, 3)
    batch = (await service.stub.NextBatch(next_batch(8))).batch
    assert sorted(batch.prompt_ids) == ["p0", "p1", "p2"]
    assert batch.notes


async def test_an_absurdly_large_request_is_granted_what_there_is(service: RunningService) -> None:
    await pool(service.stub, 3)
    batch = (await service.stub.NextBatch(next_batch(2**31 - 1, rollout_budget=2**62))).batch
    assert len(batch.prompt_ids) == 3
    assert all(0 < quota <= 4096 for quota in batch.quotas)
    assert batch.notes


async def test_when_every_prompt_is_out_the_refusal_says_when_to_ask_again(service: RunningService) -> None:
    await pool(service.stub, 3)
    await service.stub.NextBatch(next_batch(3))
    answer = await refused(service.stub.NextBatch(next_batch(1)))
    assert answer.code == "RESOURCE_EXHAUSTED"
    assert answer.reason
    assert answer.retry_after_seconds is not None


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": -1}, "batch_size"),
        ({"rollout_budget": -1}, "rollout_budget"),
        ({"rollout_budget": 1}, "rollout_budget"),
        ({"policy_version": -1}, "policy_version"),
        ({"min_revision": "yesterday"}, "min_revision"),
    ],
)
async def test_a_batch_that_cannot_be_is_refused_with_the_field_at_fault(
    service: RunningService, fields: dict[str, object], field: str
) -> None:
    await pool(service.stub)
    answer = await refused(service.stub.NextBatch(next_batch(**fields)))
    assert (answer.code, answer.field) == (BAD, field)


async def test_a_revision_that_the_log_has_not_reached_is_aborted(service: RunningService) -> None:
    await pool(service.stub)
    answer = await refused(service.stub.NextBatch(next_batch(min_revision="9999999999999-0")))
    assert answer.said == ("ABORTED", "REVISION_NOT_REACHED", "min_revision")
    assert answer.retry_after_seconds is not None


@pytest.mark.parametrize(
    ("fields", "reason", "field"),
    [
        ({"rewards": [1.0, 0.0, 1.0]}, "LENGTH_MISMATCH", "rewards"),
        ({"rollout_counts": [2]}, "LENGTH_MISMATCH", "rollout_counts"),
        ({"rollout_counts": [5, -1]}, "OUT_OF_RANGE", "rollout_counts[1]"),
        ({"statuses": [1]}, "LENGTH_MISMATCH", "statuses"),
        ({"statuses": [1, 1, 99, 1]}, "UNKNOWN_STATUS", "statuses[2]"),
        ({"lengths": [1]}, "LENGTH_MISMATCH", "lengths"),
        ({"gradient_norms": [1.0]}, "LENGTH_MISMATCH", "gradient_norms"),
        ({"prompt_ids": ["p0", "p0"]}, "DUPLICATE_PROMPT", "prompt_ids[1]"),
        ({"prompt_ids": []}, "MISSING_FIELD", "prompt_ids"),
        ({"policy_version": -5}, "INVALID_POLICY_VERSION", "policy_version"),
    ],
)
async def test_a_report_whose_columns_do_not_fit_is_refused_whole(
    service: RunningService, fields: dict[str, object], reason: str, field: str
) -> None:
    await pool(service.stub)
    wrong = report(["p0", "p1"], [[1.0, 0.0], [1.0, 1.0]], **fields)
    assert (await refused(service.stub.ReportRollouts(wrong))).said == (BAD, reason, field)
    assert list((await states(service.stub, ["p0", "p1"])).rollouts) == [0, 0]


async def test_rewards_that_are_no_numbers_are_counted_as_rejected(service: RunningService) -> None:
    await pool(service.stub)
    done = await service.stub.ReportRollouts(report(["p0", "p1"], [[1.0, math.nan, math.inf], [0.0]]))
    assert done.accepted == 2
    assert [(r.prompt_id, r.rollouts, r.reason) for r in done.rejected] == [("p0", 2, "NON_FINITE_REWARD")]
    assert list((await states(service.stub, ["p0", "p1"])).rollouts) == [1, 1]


async def test_a_report_for_a_lease_nobody_has_is_refused(service: RunningService) -> None:
    await pool(service.stub)
    answer = await refused(service.stub.ReportRollouts(report(["p0"], [[1.0]], "no-such-lease")))
    assert answer.said == ("NOT_FOUND", "LEASE_NOT_FOUND", "lease_id")


async def test_prompts_added_twice_are_counted_as_present(service: RunningService) -> None:
    await create(service.stub)
    done = await add(service.stub, ["a", "b", "a"])
    assert (done.added, done.already_present, done.total) == (2, 1, 2)


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"clusters": ["one"]}, "clusters"),
        ({"reference_pass_rates": [0.5]}, "reference_pass_rates"),
        ({"reference_pass_rates": [0.5, 1.5]}, "reference_pass_rates[1]"),
        ({"anchor_pass_rates": [0.5, 0.5]}, "anchor_pass_rates"),
        ({"embeddings": b"1234", "embedding_dim": 4}, "embeddings"),
        ({"embeddings": b"1234", "embedding_dim": 0}, "embedding_dim"),
        ({"prompt_ids": ["a", ""]}, "prompt_ids[1]"),
    ],
)
async def test_prompts_whose_columns_do_not_fit_are_refused(
    service: RunningService, columns: dict[str, object], field: str
) -> None:
    await create(service.stub)
    fields = {"curriculum_id": "math", "request_id": new_id(), "prompt_ids": ["a", "b"]} | columns
    answer = await refused(service.stub.AddPrompts(iter([pb.AddPromptsRequest(**fields)])))
    assert (answer.code, answer.field) == (BAD, field)


async def test_a_stream_of_prompts_without_a_chunk_is_refused(service: RunningService) -> None:
    assert (await refused(service.stub.AddPrompts(iter([])))).code == BAD


async def test_policy_versions_go_forward_and_divergences_are_numbers(service: RunningService) -> None:
    await pool(service.stub)
    for version, kl, field in ((-1, None, "policy_version"), (1, math.nan, "kl"), (1, -0.5, "kl")):
        request = pb.AdvancePolicyRequest(
            curriculum_id="math", request_id=new_id(), policy_version=version, kl=kl
        )
        answer = await refused(service.stub.AdvancePolicy(request))
        assert (answer.code, answer.field) == (BAD, field)


async def test_checkpoints_that_are_not_there_are_not_found(service: RunningService) -> None:
    await pool(service.stub)
    request = pb.RestoreCheckpointRequest(curriculum_id="math", request_id=new_id(), checkpoint_id="step-400")
    answer = await refused(service.stub.RestoreCheckpoint(request))
    assert answer.said == ("NOT_FOUND", "CHECKPOINT_NOT_FOUND", "checkpoint_id")


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListPromptStatesRequest(page_size=-1), "page_size"),
        (pb.ListPromptStatesRequest(page_token="x"), "page_token"),
        (
            pb.ListPromptStatesRequest(filter=pb.PromptFilter(min_pass_rate=0.9, max_pass_rate=0.1)),
            "filter.min_pass_rate",
        ),
    ],
)
async def test_a_page_that_cannot_be_is_refused(
    service: RunningService, request_: pb.ListPromptStatesRequest, field: str
) -> None:
    await pool(service.stub)
    request_.curriculum_id = "math"
    answer = await refused(service.stub.ListPromptStates(request_))
    assert (answer.code, answer.field) == (BAD, field)


@pytest.mark.parametrize("bins", [-1, 7, 10_000])
async def test_bins_that_cannot_be_summed_are_refused(service: RunningService, bins: int) -> None:
    await create(service.stub)
    answer = await refused(service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math", bins=bins)))
    assert answer.said == (BAD, "INVALID_BINS", "bins")


async def test_bytes_that_are_no_message_are_an_invalid_argument(service: RunningService) -> None:
    call = service.channel.unary_unary("/curriculum.v1.CurriculumService/NextBatch")
    answer = await refused(call(b"\xff\xff\xff\xff"))
    assert (answer.code, answer.reason) == (BAD, "MALFORMED_MESSAGE")


async def test_a_method_that_does_not_exist_is_unimplemented(service: RunningService) -> None:
    call = service.channel.unary_unary("/curriculum.v1.CurriculumService/Guess")
    assert (await refused(call(b""))).code == "UNIMPLEMENTED"


async def test_a_message_over_the_limit_is_resource_exhausted(service_config: ServiceConfig) -> None:
    config = service_config.model_copy(update={"rpc": RpcSettings(max_message_bytes=64 * 1024)})
    async with running_service(config) as service:
        await create(service.stub)
        answer = await refused(add(service.stub, [f"prompt-{i:08d}" for i in range(10_000)]))
        assert answer.code == "RESOURCE_EXHAUSTED"
        assert (await add(service.stub, ["small"])).total == 1


async def test_a_refusal_with_a_very_long_name_still_arrives_whole(service: RunningService) -> None:
    await pool(service.stub)
    answer = await refused(states(service.stub, ["ü" * 20_000]))
    assert answer.said == ("NOT_FOUND", "PROMPT_NOT_FOUND", "filter.prompt_ids[0]")


async def test_what_nobody_foresaw_is_internal_with_an_incident_and_no_inside(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_: object) -> None:
        raise ZeroDivisionError("secret inside")

    monkeypatch.setattr(service.service.host, "get_summary", fail)
    answer = await refused(service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math")))
    assert answer.said == ("INTERNAL", "INTERNAL", "")
    assert "incident" in answer.message
    assert "secret" not in answer.message


async def test_a_call_ends_at_its_deadline_and_stops_working(
    service: RunningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def dawdle(_: object) -> None:
        begun.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.set()

    monkeypatch.setattr(service.service.host, "get_summary", dawdle)
    for seconds in (0.2, 2, 20):  # The first may pass before the call has reached a busy service.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"), timeout=seconds)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if begun.is_set():
            break
    assert begun.is_set()
    await asyncio.wait_for(ended.wait(), 60)
