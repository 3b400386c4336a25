"""A strategy checked without being set: refused as setting it would be, answered as it would be, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from curriculum.v1 import curriculum_pb2 as pb
from tests.rpc_calls import add, create, new_id, pool, refused
from tests.service_process import RunningService

WRONG: list[dict[str, Any]] = [
    {"preset": "grpo2000"},
    {"exploration": 7},
    {"quota": {"knapsack": {"min": -1}}},
    {"proposal": {"dice": {}}},
    {"equal_quotas": True, "quota": {"knapsack": {}}},
    {"equal_quotas": True, "quota": {"fixed": {}}, "stopping": {"balanced": {}}},
    {"shadows": {"one": {"exploration": 7}}},
]
NOT_FOR_THIS_POOL: list[dict[str, Any]] = [
    {"predictor": {"attention": {}}},
    {"cluster_source": {"k_means": {}}},
    {"proposal": {"hardest": {}}},
    {"clusters": {"thompson": {}}},
    {"shadows": {"one": {"predictor": {"anchors": {}}}}},
]


def update(
    strategy: dict[str, Any], *, request_id: str = "", validate_only: bool = True, **fields: str
) -> pb.UpdateCurriculumRequest:
    return pb.UpdateCurriculumRequest(
        curriculum_id="math",
        request_id=request_id,
        strategy=ParseDict(strategy, pb.Strategy()),
        validate_only=validate_only,
        **fields,
    )


def creation(
    strategy: dict[str, Any], *, request_id: str = "", validate_only: bool = True
) -> pb.CreateCurriculumRequest:
    return pb.CreateCurriculumRequest(
        curriculum_id="math",
        request_id=request_id,
        strategy=ParseDict(strategy, pb.Strategy()),
        validate_only=validate_only,
    )


async def in_force(service: RunningService) -> pb.Curriculum:
    return (await service.stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id="math"))).curriculum


@pytest.mark.parametrize("strategy", [*WRONG, *NOT_FOR_THIS_POOL], ids=str)
async def test_an_update_is_refused_by_a_check_in_the_words_of_setting_it(
    service: RunningService, strategy: dict[str, Any]
) -> None:
    await pool(service.stub, 4)
    before = await in_force(service)
    checked = await refused(service.stub.UpdateCurriculum(update(strategy)))
    assert checked.field.startswith("strategy")
    assert await in_force(service) == before
    setting = update(strategy, request_id=new_id(), validate_only=False)
    assert await refused(service.stub.UpdateCurriculum(setting)) == checked


@pytest.mark.parametrize("strategy", WRONG, ids=str)
async def test_a_creation_is_refused_by_a_check_in_the_words_of_creating_it(
    service: RunningService, strategy: dict[str, Any]
) -> None:
    checked = await refused(service.stub.CreateCurriculum(creation(strategy)))
    assert checked.field.startswith("strategy")
    creating = creation(strategy, request_id=new_id(), validate_only=False)
    assert await refused(service.stub.CreateCurriculum(creating)) == checked


async def test_what_the_prompts_have_is_looked_at(service: RunningService) -> None:
    await create(service.stub)
    assert (await service.stub.UpdateCurriculum(update({"proposal": {"hardest": {}}}))).curriculum.etag
    await add(service.stub, ["a", "b"], clusters=["easy", "hard"], reference_pass_rates=[0.2, 0.9])
    for fits in ({"proposal": {"hardest": {}}}, {"clusters": {"thompson": {}}}):
        assert (await service.stub.UpdateCurriculum(update(fits))).curriculum.etag
    without = await refused(service.stub.UpdateCurriculum(update({"predictor": {"attention": {}}})))
    assert without.said == ("FAILED_PRECONDITION", "MISSING_COLUMNS", "strategy.estimator.shared_evidence")


async def test_a_checked_update_answers_what_setting_it_comes_to_and_writes_nothing(
    service: RunningService,
) -> None:
    await pool(service.stub, 4, preset="cures")
    before = await in_force(service)
    wanted = {"preset": "dapo", "exploration": 0.25}
    answer = await service.stub.UpdateCurriculum(update(wanted, request_id="the same"))
    assert not answer.duplicate
    assert answer.curriculum.revision == before.revision
    assert answer.curriculum.prompt_count == 4
    assert await in_force(service) == before
    log = service.service.host._client.log("math")
    assert await log.last_id() == before.revision, "nothing was appended"

    # Not remembered under its id: the same id, for another request, is new.
    set_ = await service.stub.UpdateCurriculum(update(wanted, request_id="the same", validate_only=False))
    assert not set_.duplicate
    assert set_.curriculum.strategy == answer.curriculum.strategy
    assert set_.curriculum.etag == answer.curriculum.etag != before.etag
    assert set_.curriculum.revision != before.revision


async def test_a_checked_update_that_is_based_on_another_strategy_is_aborted(service: RunningService) -> None:
    await create(service.stub)
    checked = await refused(service.stub.UpdateCurriculum(update({"preset": "dapo"}, etag="old")))
    assert checked.said == ("ABORTED", "ETAG_MISMATCH", "etag")
    etag = (await in_force(service)).etag
    assert (
        await service.stub.UpdateCurriculum(update({"preset": "dapo"}, etag=etag))
    ).curriculum.etag != etag


async def test_a_checked_creation_answers_what_creating_it_comes_to_and_creates_nothing(
    service: RunningService,
) -> None:
    answer = (await service.stub.CreateCurriculum(creation({"preset": "vcrl"}, request_id="once"))).curriculum
    assert (answer.curriculum_id, answer.revision, answer.prompt_count) == ("math", "", 0)
    assert not answer.HasField("create_time")
    missing = await refused(service.stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id="math")))
    assert missing.reason == "CURRICULUM_NOT_FOUND"
    assert not (await service.stub.ListCurricula(pb.ListCurriculaRequest())).curricula
    made = await service.stub.CreateCurriculum(
        creation({"preset": "vcrl"}, request_id="once", validate_only=False)
    )
    assert not made.duplicate
    assert (made.curriculum.strategy, made.curriculum.etag) == (answer.strategy, answer.etag)


async def test_a_checked_creation_of_what_exists_is_refused(service: RunningService) -> None:
    await create(service.stub)
    checked = await refused(service.stub.CreateCurriculum(creation({})))
    assert checked.said == ("ALREADY_EXISTS", "CURRICULUM_EXISTS", "curriculum_id")


async def test_a_checked_update_of_what_is_not_there_is_refused(service: RunningService) -> None:
    checked = await refused(service.stub.UpdateCurriculum(update({})))
    assert checked.said == ("NOT_FOUND", "CURRICULUM_NOT_FOUND", "curriculum_id")


async def test_only_what_changes_something_needs_a_request_id(service: RunningService) -> None:
    for setting in (
        service.stub.CreateCurriculum(creation({}, validate_only=False)),
        service.stub.UpdateCurriculum(update({}, validate_only=False)),
    ):
        assert (await refused(setting)).said == ("INVALID_ARGUMENT", "MISSING_FIELD", "request_id")
