"""Every RPC, as the descriptor lists them, without, with wrong and with insufficient credentials."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from functools import partial

import grpc
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.access import Role
from sampler_service.access import gate as gate_module
from sampler_service.access.rate import RateLimiter
from sampler_service.config import ServiceConfig
from sampler_service.rpc import RpcSettings
from sampler_service.rpc.roles import METHOD_ROLES
from tests.access_tokens import EXPIRED, RPCS, TEAM_A, TOKENS, auth_settings, bearer, call_any
from tests.rpc_calls import new_id, refusal_of, refused
from tests.service_process import RunningService, running_service

OF_ALL = {"ListCurricula"}


@pytest.fixture
async def guarded(service_config: ServiceConfig) -> AsyncIterator[RunningService]:
    config = service_config.model_copy(update={"auth": auth_settings(refusals_per_minute=1e6)})
    async with running_service(config) as running:
        for name in ("math", "team-a.x", "team-a.y"):
            await running.stub.CreateCurriculum(
                pb.CreateCurriculumRequest(curriculum_id=name, request_id=new_id()),
                metadata=bearer(TOKENS[Role.ADMIN]),
            )
        yield running


def test_every_rpc_declares_the_role_it_needs():
    assert set(METHOD_ROLES) == set(RPCS), "add the RPC to sampler_service/rpc/roles.py"


async def test_no_rpc_answers_without_a_token_that_is_known(guarded: RunningService):
    for rpc in RPCS:
        for token, reason in (
            (None, "TOKEN_MISSING"),
            ("", "TOKEN_MALFORMED"),
            ("a-wrong-one", "TOKEN_UNKNOWN"),
            (EXPIRED, "TOKEN_EXPIRED"),
        ):
            refusal = await refused(call_any(guarded.channel, rpc, token=token))
            assert (refusal.code, refusal.reason) == ("UNAUTHENTICATED", reason), (rpc, token)


async def test_each_rpc_answers_the_roles_that_include_its_own_and_no_other(guarded: RunningService):
    for rpc in RPCS:
        for role, token in TOKENS.items():
            try:
                await call_any(guarded.channel, rpc, token=token, curriculum_id="nobody")
                said = ("OK", "")
            except grpc.aio.AioRpcError as error:
                refusal = refusal_of(error)
                said = (refusal.code, refusal.reason)
            if role.includes(METHOD_ROLES[rpc]):
                assert said[0] not in ("UNAUTHENTICATED", "PERMISSION_DENIED", "INTERNAL"), (rpc, role, said)
            else:
                assert said == ("PERMISSION_DENIED", "ROLE_TOO_LOW"), (rpc, role)


@pytest.mark.parametrize("curriculum_id", ["math", "is-not-there", "team-a", ""])
async def test_no_rpc_reaches_a_curriculum_outside_the_tokens_scope(
    guarded: RunningService, curriculum_id: str
):
    """The same answer whether it is there or not: a token tells its holder nothing of others."""
    for rpc in set(RPCS) - OF_ALL:
        refusal = await refused(call_any(guarded.channel, rpc, token=TEAM_A, curriculum_id=curriculum_id))
        assert refusal.said == ("PERMISSION_DENIED", "CURRICULUM_OUT_OF_SCOPE", "curriculum_id"), rpc


async def test_a_list_shows_the_tokens_own_curricula_page_by_page(guarded: RunningService):
    async def page(token: str, page_token: str = "") -> pb.ListCurriculaResponse:
        request = pb.ListCurriculaRequest(page_size=1, page_token=page_token)
        return await guarded.stub.ListCurricula(request, metadata=bearer(token))

    first = await page(TEAM_A)
    second = await page(TEAM_A, first.next_page_token)
    assert [one.curriculum_id for one in (*first.curricula, *second.curricula)] == ["team-a.x", "team-a.y"]
    assert second.next_page_token == ""
    assert (await page(TOKENS[Role.READ])).curricula[0].curriculum_id == "math"


async def test_a_stream_is_checked_report_by_report(guarded: RunningService):
    def report(curriculum_id: str) -> pb.ReportRolloutsRequest:
        return pb.ReportRolloutsRequest(curriculum_id=curriculum_id, request_id=new_id())

    call = guarded.stub.StreamRollouts(
        iter([report("team-a.x"), report("math")]), metadata=bearer(TEAM_A), timeout=120
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [answer async for answer in call]
    assert refusal_of(caught.value).reason == "CURRICULUM_OUT_OF_SCOPE"


async def test_what_is_imported_is_not_named_by_its_file(guarded: RunningService):
    """An import without an id takes the one in the file, which nobody has looked at yet."""
    admin = bearer(TOKENS[Role.ADMIN])
    pieces = [
        piece.data
        async for piece in guarded.stub.ExportCurriculum(
            pb.ExportCurriculumRequest(curriculum_id="math"), metadata=admin
        )
    ]
    await guarded.stub.DeleteCurriculum(
        pb.DeleteCurriculumRequest(curriculum_id="math", request_id=new_id()), metadata=admin
    )

    def requests(first: str, most: int | None = None) -> Iterator[pb.ImportCurriculumRequest]:
        for number, data in enumerate(pieces[:most]):
            yield pb.ImportCurriculumRequest(
                curriculum_id=first if number == 0 else "",
                request_id="import" if number == 0 else "",
                data=data,
            )

    for name in ("", "math"):
        # One piece: gRPC's asyncio client may say INTERNAL when it is refused in the middle of sending.
        refusal = await refused(guarded.stub.ImportCurriculum(requests(name, 1), metadata=bearer(TEAM_A)))
        assert refusal.said == ("PERMISSION_DENIED", "CURRICULUM_OUT_OF_SCOPE", "curriculum_id")
    made = await guarded.stub.ImportCurriculum(requests("team-a.copy"), metadata=bearer(TEAM_A))
    assert made.curriculum.curriculum_id == "team-a.copy"


async def test_prompts_cannot_be_smuggled_in_by_a_later_chunk(guarded: RunningService):
    chunks = [
        pb.AddPromptsRequest(curriculum_id="team-a.x", request_id="c", prompt_ids=["a"]),
        pb.AddPromptsRequest(curriculum_id="math", request_id="c", prompt_ids=["b"]),
    ]
    refusal = await refused(guarded.stub.AddPrompts(iter(chunks), metadata=bearer(TEAM_A)))
    assert refusal.code == "PERMISSION_DENIED"


async def test_health_and_reflection_need_no_token(guarded: RunningService):
    """Probes have none, and what reflection tells is in the repository."""
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    answer = await health_pb2_grpc.HealthStub(guarded.channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_guesses_are_throttled_and_good_tokens_are_not(
    service_config: ServiceConfig, monkeypatch: pytest.MonkeyPatch
):
    # Permits come back with time, one in twelve seconds: none while this looks.
    monkeypatch.setattr(gate_module, "RateLimiter", partial(RateLimiter, now=lambda: 0.0))
    config = service_config.model_copy(update={"auth": auth_settings(refusals_per_minute=5)})
    async with running_service(config) as running:
        reasons = [
            (await refused(call_any(running.channel, "GetSummary", token="a-guess"))).reason for _ in range(7)
        ]
        assert reasons == ["TOKEN_UNKNOWN"] * 5 + ["TOO_MANY_REFUSALS"] * 2
        await call_any(running.channel, "ListCurricula", token=TOKENS[Role.READ])


async def test_a_caller_has_its_calls_per_second_and_others_have_theirs(service_config: ServiceConfig):
    limits = {"auth": auth_settings(), "rpc": RpcSettings(max_calls_per_second=0.01)}
    async with running_service(service_config.model_copy(update=limits)) as running:
        await call_any(running.channel, "ListCurricula", token=TOKENS[Role.READ])
        refusal = await refused(call_any(running.channel, "ListCurricula", token=TOKENS[Role.READ]))
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        assert refusal.retry_after_seconds is not None
        await call_any(running.channel, "ListCurricula", token=TOKENS[Role.TRAIN])


async def answered(running: RunningService) -> bool:
    try:
        await call_any(running.channel, "ListCurricula", token=TOKENS[Role.READ])
    except grpc.aio.AioRpcError as error:
        return refusal_of(error).reason != "TOO_MANY_CALLS"
    return True


async def test_one_token_leaves_room_for_the_others(service_config: ServiceConfig):
    """Else whoever may only read could open as many watches as there are calls, and nobody else would train."""
    limits = {"auth": auth_settings(), "rpc": RpcSettings(max_concurrent_calls=8)}
    async with running_service(service_config.model_copy(update=limits)) as running:
        request = pb.CreateCurriculumRequest(curriculum_id="math", request_id=new_id())
        await running.stub.CreateCurriculum(request, metadata=bearer(TOKENS[Role.ADMIN]), timeout=120)
        watches = [
            running.stub.WatchSummary(
                pb.WatchSummaryRequest(curriculum_id="math"), metadata=bearer(TOKENS[Role.READ])
            )
            for _ in range(4)
        ]
        for watch in watches:
            assert await watch.read() is not grpc.aio.EOF
        refusal = await refused(call_any(running.channel, "ListCurricula", token=TOKENS[Role.READ]))
        assert (refusal.code, refusal.reason) == ("RESOURCE_EXHAUSTED", "TOO_MANY_CALLS")
        await call_any(running.channel, "ListCurricula", token=TOKENS[Role.TRAIN])
        for watch in watches:
            watch.cancel()
        async with asyncio.timeout(120):
            while not await answered(running):
                await asyncio.sleep(0.05)
