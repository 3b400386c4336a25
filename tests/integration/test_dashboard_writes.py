"""Changing the strategy over HTTP: who may, from where, on what it is based, and what the log says of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.access import Gate, Role
from sampler_service.dashboard import create_app
from sampler_service.host_reader import HostReader, HostWriter
from tests.access_tokens import TEAM_A, TOKENS, auth_settings, bearer
from tests.rpc_calls import create, pool
from tests.service_process import RunningService

STRATEGY = "/api/v1/curricula/math/strategy"
ADMIN = dict(bearer(TOKENS[Role.ADMIN]))


@pytest.fixture
async def http(service: RunningService) -> AsyncIterator[httpx.AsyncClient]:
    host = service.service.host
    app = create_app(
        HostReader(host, lambda: False),
        writer=HostWriter(host),
        metrics_registry=CollectorRegistry(),
        gate=Gate(auth_settings(refusals_per_minute=1e6)),
    )
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        yield client


async def in_force(service: RunningService) -> pb.Curriculum:
    request = pb.GetCurriculumRequest(curriculum_id="math")
    return (await service.stub.GetCurriculum(request)).curriculum


async def test_an_administrator_changes_the_strategy_and_the_log_says_who(
    service: RunningService, http: httpx.AsyncClient
) -> None:
    await pool(service.stub, 4, preset="frontier")
    before = await in_force(service)
    body = {"strategy": {"preset": "cures", "exploration": 0.25}, "etag": before.etag, "request_id": "once"}
    with capture_logs() as lines:
        answer = await http.put(STRATEGY, json=body, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    after = await in_force(service)
    assert (after.strategy.preset, after.strategy.exploration) == ("cures", 0.25)
    assert answer.json()["etag"] == after.etag != before.etag
    (line,) = [line for line in lines if line["event"] == "strategy changed"]
    assert (line["caller"], line["role"], line["curriculum_id"]) == ("admin", "admin", "math")
    assert (line["etag_before"], line["etag"], line["preset"]) == (before.etag, after.etag, "cures")
    assert (await http.put(STRATEGY, json=body, headers=ADMIN)).json()["revision"]
    assert (await in_force(service)).etag == after.etag


async def test_a_strategy_that_is_only_checked_is_answered_as_it_would_be_and_not_logged(
    service: RunningService, http: httpx.AsyncClient
) -> None:
    await pool(service.stub, 4, preset="frontier")
    before = await in_force(service)
    body = {"strategy": {"preset": "dapo"}, "etag": before.etag, "validate_only": True}
    with capture_logs() as lines:
        answer = await http.put(STRATEGY, json=body, headers=ADMIN)
    assert (answer.status_code, answer.json()["strategy"]["preset"]) == (200, "dapo")
    assert answer.json()["revision"] == before.revision
    assert await in_force(service) == before
    assert not [line for line in lines if line["event"] == "strategy changed"]
    body["strategy"] = {"predictor": {"attention": {}}}
    error = (await http.put(STRATEGY, json=body, headers=ADMIN)).json()["error"]
    assert (error["reason"], error["field"]) == ("MISSING_COLUMNS", "strategy.estimator.shared_evidence")
    stale = {**body, "etag": "old", "strategy": {"preset": "dapo"}}
    assert (await http.put(STRATEGY, json=stale, headers=ADMIN)).json()["error"]["reason"] == "ETAG_MISMATCH"
    too_low = await http.put(STRATEGY, json=body, headers=dict(bearer(TOKENS[Role.TRAIN])))
    assert (too_low.status_code, too_low.json()["error"]["reason"]) == (403, "ROLE_TOO_LOW")


async def test_a_change_that_is_based_on_another_strategy_changes_nothing(
    service: RunningService, http: httpx.AsyncClient
) -> None:
    await create(service.stub)
    answer = await http.put(STRATEGY, json={"strategy": {"preset": "dapo"}, "etag": "old"}, headers=ADMIN)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (409, "ETAG_MISMATCH")
    without = await http.put(STRATEGY, json={"strategy": {"preset": "dapo"}}, headers=ADMIN)
    assert without.status_code == 400
    assert (await in_force(service)).strategy.preset == "frontier"


@pytest.mark.parametrize(
    ("strategy", "field"),
    [
        ({"exploration": 3}, "strategy.exploration"),
        ({"preset": "grpo2000"}, "strategy.preset"),
        ({"quota": {"knapsack": {"min": -1}}}, "strategy.quota.knapsack.min"),
        ({"proposal": {"dice": {}}}, "strategy.proposal"),
        ({"explorations": 0.1}, "strategy"),
    ],
)
async def test_what_is_wrong_with_a_strategy_is_said_at_its_field(
    service: RunningService, http: httpx.AsyncClient, strategy: dict[str, object], field: str
) -> None:
    etag = (await create(service.stub)).etag
    answer = await http.put(STRATEGY, json={"strategy": strategy, "etag": etag}, headers=ADMIN)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["field"]) == (400, "INVALID_ARGUMENT", field), error
    assert (await in_force(service)).etag == etag


async def test_only_administrators_of_the_curriculum_may_write(
    service: RunningService, http: httpx.AsyncClient
) -> None:
    etag = (await create(service.stub)).etag
    body = {"strategy": {"preset": "dapo"}, "etag": etag}
    for token, status, reason in (
        (None, 401, "TOKEN_MISSING"),
        (TOKENS[Role.READ], 403, "ROLE_TOO_LOW"),
        (TOKENS[Role.TRAIN], 403, "ROLE_TOO_LOW"),
        (TEAM_A, 403, "CURRICULUM_OUT_OF_SCOPE"),
    ):
        answer = await http.put(STRATEGY, json=body, headers=dict(bearer(token)))
        assert (answer.status_code, answer.json()["error"]["reason"]) == (status, reason)
    assert (await in_force(service)).etag == etag


async def test_a_browser_that_is_signed_in_writes_from_our_page_alone(
    service: RunningService, http: httpx.AsyncClient
) -> None:
    etag = (await create(service.stub)).etag
    await http.post("/api/v1/session", json={"token": TOKENS[Role.ADMIN]})
    body = json.dumps({"strategy": {"preset": "dapo"}, "etag": etag})
    as_json = {"content-type": "application/json"}
    for headers in (
        {"content-type": "text/plain"},
        {**as_json, "origin": "https://evil.example"},
        {**as_json, "sec-fetch-site": "cross-site"},
    ):
        answer = await http.put(STRATEGY, content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "CROSS_SITE")
    assert (await in_force(service)).etag == etag
    own = {**as_json, "origin": "http://dashboard", "sec-fetch-site": "same-origin"}
    assert (await http.put(STRATEGY, content=body, headers=own)).status_code == 200
    assert (await in_force(service)).strategy.preset == "dapo"


async def test_presets_are_spelt_out(http: httpx.AsyncClient) -> None:
    presets = (await http.get("/api/v1/presets", headers=ADMIN)).json()["presets"]
    assert {"frontier", "cures", "uniform-grpo"} <= set(presets)
    assert (
        presets["dapo"]["stopping"] == {"zero_variance": {}} or "zero_variance" in presets["dapo"]["stopping"]
    )
    assert all(preset["preset"] == name and preset["proposal"] for name, preset in presets.items())
