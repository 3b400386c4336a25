"""Every route of the app without, with wrong and with insufficient credentials; sign-in, writes, limits."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from functools import partial
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from starlette.routing import Mount

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.access import AuthSettings, Credential, Gate, Role, current_principal
from sampler_service.access import gate as gate_module
from sampler_service.access.credentials import digest
from sampler_service.access.rate import RateLimiter
from sampler_service.dashboard import HttpSettings, ReadError, create_app
from sampler_service.dashboard.guard import required_role
from sampler_service.host_reader import HostReader, HostWriter
from tests.access_tokens import EXPIRED, TEAM_A, TOKENS, auth_settings, bearer
from tests.browser.simulated_reader import SimulatedCurriculum, SimulatedReader

# What answers without credentials. Nothing of a curriculum is among it.
OPEN = {
    "/",
    "/compare",
    "/c/{curriculum_id}",
    "/c/{curriculum_id}/prompt",
    "/static",
    "/healthz",
    "/readyz",
    "/api/v1/session",
}
OF_ALL = {"/api/v1/curricula", "/api/v1/presets", "/api/v1/openapi.json", "/metrics"}
SESSION = "/api/v1/session"
COOKIE = "curriculum_token"


def app_with(**settings: object) -> FastAPI:
    reader = SimulatedReader(SimulatedCurriculum("math", 10), SimulatedCurriculum("team-a.x", 10))
    return create_app(
        reader,
        writer=reader,
        metrics_registry=CollectorRegistry(),
        gate=Gate(auth_settings(refusals_per_minute=1e6)),
        settings=HttpSettings(**settings),  # type: ignore[arg-type]
    )


def client(app: FastAPI, scheme: str = "http") -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app, raise_app_exceptions=False), base_url=f"{scheme}://dashboard"
    )


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    async with client(app_with()) as opened:
        yield opened


def closed_routes() -> Iterator[tuple[str, str]]:
    """Method and path template of every route that is not declared open above."""
    pending = list(app_with().routes)
    while pending:
        route = pending.pop()
        pending += getattr(getattr(route, "original_router", None), "routes", [])
        path = getattr(route, "path", "")
        if not path or path in OPEN:
            continue
        assert not isinstance(route, Mount), f"{path} is mounted: say here whether it is open"
        yield from ((method, path) for method in sorted(getattr(route, "methods", None) or ["GET"]))


def filled(template: str, curriculum_id: str) -> str:
    values = {"curriculum_id": curriculum_id, "prompt_id": "p", "table": "clusters"}
    return re.sub(r"\{(\w+)(?::\w+)?\}", lambda match: values[match[1]], template)


def test_the_routes_of_the_api_are_among_those_that_are_tried():
    paths = {path for _, path in closed_routes()}
    assert len(paths) >= 10
    assert "/metrics" in paths
    assert "/api/v1/curricula/{curriculum_id}/stream" in paths


async def test_no_closed_route_answers_without_a_token_that_is_known(http: httpx.AsyncClient):
    for method, path in closed_routes():
        for headers in ({}, dict(bearer("wrong")), dict(bearer(EXPIRED)), {"cookie": f"{COOKIE}=wrong"}):
            answer = await http.request(method, filled(path, "math"), headers=headers)
            assert answer.status_code == 401, (method, path, headers)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            assert answer.headers["content-security-policy"]


async def test_each_route_answers_the_roles_that_include_the_one_it_is_said_to_need(http: httpx.AsyncClient):
    for method, path in closed_routes():
        needed = required_role(method, path)
        assert needed is not None, f"{method} {path} is open, and not listed above"
        if path.endswith("/stream"):
            continue  # It would go on; that it is closed is tried with the others.
        for role, token in TOKENS.items():
            answer = await http.request(method, filled(path, "math"), headers=dict(bearer(token)), json={})
            if role.includes(needed):
                assert answer.status_code not in (401, 403, 500), (method, path, role)
            else:
                assert answer.status_code == 403, (method, path, role)
                assert answer.json()["error"]["reason"] == "ROLE_TOO_LOW"


async def test_no_route_shows_a_curriculum_outside_the_tokens_scope(http: httpx.AsyncClient):
    for method, path in closed_routes():
        answer = await http.request(method, filled(path, "math"), headers=dict(bearer(TEAM_A)))
        if "{curriculum_id}" in path or path == "/metrics":
            assert answer.status_code == 403, (method, path)
            assert path == "/metrics" or answer.json()["error"]["reason"] == "CURRICULUM_OUT_OF_SCOPE"
        else:
            assert path in OF_ALL, f"{path}: say in this test what a token of one team sees of it"


async def test_a_line_break_in_the_path_opens_nothing(http: httpx.AsyncClient):
    """Patterns that end in `$` take one at the end for nothing: the router's do."""
    for method, path in closed_routes():
        for ending in ("%0A", "%0a%0a", "%0Ax", "%0D%0A", "%0D", "%00", "%0B", "%E2%80%A8", "%1F"):
            answer = await http.request(
                method, filled(path, "math") + ending, headers=dict(bearer(TEAM_A)), json={}
            )
            assert answer.status_code in (400, 403, 404, 405), (method, path, ending, answer.text[:200])
    for path in ("/metrics", "/api/v1/curricula", "/healthz", "/"):
        assert (await http.get(f"{path}%0A")).status_code in (401, 404), path


async def test_an_id_with_a_slash_is_one_segment_and_its_own_scope():
    reader = SimulatedReader(SimulatedCurriculum("team-a.x/1", 10), SimulatedCurriculum("openai/gsm8k", 10))
    only = "the-token-for-one-of-them"
    one = Credential(name="one", sha256=digest(only), role=Role.READ, curricula=("openai/gsm8k",))
    tokens = (*auth_settings().tokens, one)
    app = create_app(
        reader, writer=reader, metrics_registry=CollectorRegistry(), gate=Gate(AuthSettings(tokens=tokens))
    )
    async with client(app) as http:
        for name, theirs, its_own in (("team-a.x%2F1", 200, 403), ("openai%2fgsm8k", 403, 200)):
            for path in (
                f"/{name}",
                f"/{name}/summary",
                f"/{name}/prompts.csv",
                f"/{name}/tables/clusters.csv",
            ):
                for token, status in ((TOKENS[Role.READ], 200), (TEAM_A, theirs), (only, its_own)):
                    answer = await http.get(f"/api/v1/curricula{path}", headers=dict(bearer(token)))
                    assert answer.status_code == status, (path, token, answer.text[:200])
            assert (await http.get(f"/c/{name}")).status_code == 200
        told = await http.get("/api/v1/curricula/openai%2Fgsm8k", headers=dict(bearer(TOKENS[Role.READ])))
        assert told.json()["curriculum_id"] == "openai/gsm8k"
        slashed = await http.get(
            "/api/v1/curricula/team-a.x/1/summary", headers=dict(bearer(TOKENS[Role.READ]))
        )
        assert slashed.status_code == 404


async def test_what_is_read_is_asked_for_again_below_the_paths():
    """The guard goes by paths; whoever finds a way round it still reads nothing of others."""
    mine = Gate(auth_settings()).authenticate(f"Bearer {TEAM_A}", (), "")
    nobody_asked: Any = None
    reader, writer = HostReader(nobody_asked, lambda: False), HostWriter(nobody_asked)
    token = current_principal.set(mine)
    try:
        for call in (
            reader.curriculum("math"),
            reader.summary("math", 0),
            reader.prompt_states(pb.ListPromptStatesRequest(curriculum_id="math")),
            reader.prompt_history("math", "p", 0),
            writer.update_strategy(pb.UpdateCurriculumRequest(curriculum_id="math")),
        ):
            with pytest.raises(ReadError, match="not for 'math'"):
                await call
    finally:
        current_principal.reset(token)


async def test_reading_needs_the_role_read_and_no_more(http: httpx.AsyncClient):
    for role, token in TOKENS.items():
        answer = await http.get("/api/v1/curricula/math/summary", headers=dict(bearer(token)))
        assert answer.status_code == 200, role


async def test_paths_that_are_not_there_are_closed_too(http: httpx.AsyncClient):
    for path in ("/api/v2/anything", "/docs", "/static/../api/v1/curricula", "/metrics/"):
        assert (await http.get(path)).status_code in (401, 404), path
        assert b"curriculum_id" not in (await http.get(path)).content


async def test_open_routes_tell_nothing_of_curricula(http: httpx.AsyncClient):
    for path in ("/", "/c/math", "/c/math/prompt", "/compare", "/healthz", "/readyz", "/static/js/main.js"):
        assert (await http.get(path)).status_code == 200, path
    session = (await http.get(SESSION)).json()
    assert session == {
        "authentication": True, "signed_in": False, "name": "", "role": "", "curricula": []
    }  # fmt: skip


async def test_why_the_service_is_not_ready_is_for_its_log_once_there_are_tokens():
    """It may name a curriculum or the log's server, and probes show no token."""

    class Lagging(SimulatedReader):
        async def ready(self) -> tuple[bool, str]:
            return False, "curriculum 'secret' lags"

    for gate, told in ((None, True), (Gate(auth_settings()), False)):
        app = create_app(Lagging(), metrics_registry=CollectorRegistry(), gate=gate)
        async with client(app) as http:
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.json()["ready"]) == (503, False)
            assert ("secret" in answer.text) == told


async def test_signing_in_keeps_the_token_where_no_script_and_no_other_site_reaches_it(
    http: httpx.AsyncClient,
):
    answer = await http.post(SESSION, json={"token": TOKENS[Role.READ]})
    assert answer.json()["role"] == "read"
    assert TOKENS[Role.READ] not in answer.text
    (cookie,) = answer.headers.get_list("set-cookie")
    for attribute in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"):
        assert attribute in cookie
    assert (await http.get("/api/v1/curricula")).status_code == 200
    assert (await http.get(SESSION)).json()["name"] == "read"

    await http.request("DELETE", SESSION, headers={"content-type": "application/json"})
    assert (await http.get("/api/v1/curricula")).status_code == 401


async def test_over_https_the_cookie_is_bound_to_it():
    async with client(app_with(), "https") as https:
        (cookie,) = (await https.post(SESSION, json={"token": TOKENS[Role.READ]})).headers.get_list(
            "set-cookie"
        )
        assert cookie.startswith(f"__Host-{COOKIE}=")
        assert "Secure" in cookie
        assert (await https.get("/api/v1/curricula")).status_code == 200


@pytest.mark.parametrize(
    "body", [{"token": "wrong"}, {"token": EXPIRED}, {}, {"token": ""}, {"token": "a b"}, []]
)
async def test_signing_in_with_anything_else_sets_no_cookie_and_repeats_nothing(
    http: httpx.AsyncClient, body: object
):
    answer = await http.post(SESSION, json=body)
    assert answer.status_code in (400, 401)
    assert "set-cookie" not in answer.headers
    assert "a b" not in answer.text
    assert EXPIRED not in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example", "content-type": "application/json"},
        {"sec-fetch-site": "cross-site", "content-type": "application/json"},
        {"sec-fetch-site": "same-site", "content-type": "application/json"},
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
    ],
)
async def test_a_write_that_another_site_caused_is_refused(http: httpx.AsyncClient, headers: dict[str, str]):
    content = f'{{"token": "{TOKENS[Role.READ]}"}}'
    answer = await http.post(SESSION, content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["reason"]) == (403, "CROSS_SITE")


async def test_guesses_are_throttled_wherever_they_are_made(monkeypatch: pytest.MonkeyPatch):
    # Permits come back with time, one in a minute: none while this looks.
    monkeypatch.setattr(gate_module, "RateLimiter", partial(RateLimiter, now=lambda: 0.0))
    app = create_app(
        SimulatedReader(),
        metrics_registry=CollectorRegistry(),
        gate=Gate(auth_settings(refusals_per_minute=1)),
    )
    async with client(app) as http:
        wrong = dict(bearer("a-guess"))
        assert (await http.get(SESSION, headers=wrong)).json()["signed_in"] is False
        for answer in (
            await http.get(SESSION, headers=wrong),
            await http.post(SESSION, json={"token": "a-guess"}),
            await http.get("/api/v1/curricula", headers=wrong),
        ):
            assert (answer.status_code, answer.json()["error"]["reason"]) == (429, "TOO_MANY_REFUSALS")
            assert int(answer.headers["retry-after"]) >= 1
        assert (await http.get(SESSION, headers=dict(bearer(TOKENS[Role.READ])))).json()["signed_in"]


async def test_our_own_page_may_write(http: httpx.AsyncClient):
    headers = {"origin": "http://dashboard", "sec-fetch-site": "same-origin"}
    answer = await http.post(SESSION, json={"token": TOKENS[Role.READ]}, headers=headers)
    assert answer.status_code == 200


async def test_a_body_that_is_too_large_is_refused_however_it_comes(http: httpx.AsyncClient):
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" " * 1024

    headers = {"content-type": "application/json"}
    for content in (b" " * 100_000, chunks()):
        answer = await http.post(SESSION, content=content, headers=headers)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (413, "BODY_TOO_LARGE")


async def test_a_caller_that_asks_too_often_is_told_to_wait():
    async with client(app_with(requests_per_second=0.01)) as http:
        headers = dict(bearer(TOKENS[Role.READ]))
        assert (await http.get("/api/v1/curricula", headers=headers)).status_code == 200
        answer = await http.get("/api/v1/curricula", headers=headers)
        assert (answer.status_code, answer.json()["error"]["reason"]) == (429, "TOO_MANY_REQUESTS")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await http.get("/healthz")).status_code == 200


async def test_without_tokens_only_names_of_this_machine_are_answered():
    """Else a page elsewhere could let its own name point to 127.0.0.1 and read everything."""
    app = create_app(SimulatedReader(), metrics_registry=CollectorRegistry(), local_only=True)
    async with client(app) as http:
        for host, status in (
            ("127.0.0.1:8080", 200),
            ("localhost", 200),
            ("[::1]:8080", 200),
            ("evil.example", 403),
            ("localhost.evil.example", 403),
            ("", 403),
        ):
            answer = await http.get("/api/v1/curricula", headers={"host": host})
            assert answer.status_code == status, host
