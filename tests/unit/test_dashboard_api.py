"""The HTTP API translates: parameters into reads, messages into JSON and CSV, errors into statuses."""

import csv
import io
from collections.abc import AsyncIterator
from urllib.parse import quote

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard import ReadError, create_app
from tests.browser.simulated_reader import CLUSTERS, SimulatedCurriculum, SimulatedReader

API = "/api/v1/curricula"


@pytest.fixture
def reader() -> SimulatedReader:
    trained = SimulatedCurriculum("trained", 2_500)
    trained.step(12)
    return SimulatedReader(trained, SimulatedCurriculum("untouched", 10))


@pytest.fixture
async def http(reader: SimulatedReader) -> AsyncIterator[httpx.AsyncClient]:
    registry = CollectorRegistry()
    Counter("curriculum_reports", "Reports.", registry=registry).inc(3)
    transport = httpx.ASGITransport(create_app(reader, metrics_registry=registry), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        yield client


async def test_curricula_are_listed_a_page_at_a_time(http):
    first = (await http.get(API, params={"page_size": 1})).json()
    second = (await http.get(API, params={"page_size": 1, "page_token": first["next_page_token"]})).json()
    assert [c["curriculum_id"] for c in first["curricula"] + second["curricula"]] == ["trained", "untouched"]
    assert second["next_page_token"] == ""


async def test_one_curriculum_shows_its_strategy_spelt_out(http):
    curriculum = (await http.get(f"{API}/trained")).json()
    assert curriculum["prompt_count"] == 2_500
    assert curriculum["strategy"]["quota"] == {"frontier": {"min": 2, "max": 32}}


async def test_the_summary_is_the_readers_in_the_bins_asked_for(http, reader):
    summary = (await http.get(f"{API}/trained/summary", params={"bins": 10})).json()
    expected = reader.curricula["trained"].summary(10)
    assert summary["difficulty_histogram"]["counts"] == list(expected.difficulty_histogram.counts)
    assert summary["rollouts_spent"] == expected.rollouts_spent
    assert summary["history"]["briers"][0] is None


async def test_prompts_are_filtered_by_pass_rate_cluster_and_text(http):
    parameters = {"min_pass_rate": 0.2, "max_pass_rate": 0.6, "cluster": CLUSTERS[1], "contains": "1"}
    page = (await http.get(f"{API}/trained/prompts", params=parameters)).json()
    assert 0 < len(page["prompt_ids"]) <= 50
    assert all(0.2 <= rate <= 0.6 for rate in page["pass_rates"])
    assert set(page["clusters"]) == {CLUSTERS[1]}
    assert all("1" in prompt_id for prompt_id in page["prompt_ids"])


async def test_a_prompts_id_may_hold_slashes_spaces_and_any_letter(http, reader):
    prompt_id = reader.curricula["trained"].prompt_ids[4]
    assert "/" in prompt_id
    assert "单" in prompt_id
    for path in (quote(prompt_id), quote(prompt_id, safe="")):
        row = (await http.get(f"{API}/trained/prompts/{path}")).json()
        assert (row["prompt_id"], row["rollouts"], row["in_flight"]) == (prompt_id, 8, False)


async def test_a_prompt_called_dot_dot_is_found_by_the_filter(http, reader):
    reader.curricula["trained"].prompt_ids[7] = ".."
    page = (await http.get(f"{API}/trained/prompts", params={"prompt_id": ".."})).json()
    assert page["prompt_ids"] == [".."]


@pytest.mark.parametrize(
    ("path", "status", "reason", "names"),
    [
        ("/absent/summary", 404, "CURRICULUM_NOT_FOUND", "absent"),
        ("/absent", 404, "CURRICULUM_NOT_FOUND", "absent"),
        ("/absent/stream", 404, "CURRICULUM_NOT_FOUND", "absent"),
        ("/trained/prompts/absent", 404, "PROMPT_NOT_FOUND", "absent"),
        ("/trained/summary?bins=121", 400, "INVALID_PARAMETER", "bins"),
        ("/trained/summary?bins=many", 400, "INVALID_PARAMETER", "many"),
        ("/trained/prompts?page_size=0", 400, "INVALID_PARAMETER", "page_size"),
        ("/trained/prompts?min_pass_rate=nan", 400, "INVALID_PARAMETER", "min_pass_rate"),
        ("/trained/prompts?min_pass_rate=0.7&max_pass_rate=0.2", 400, "EMPTY_PASS_RATE_RANGE", "0.7"),
        ("/trained/tables/secrets.csv", 400, "INVALID_PARAMETER", "secrets"),
        ("/trained/nothing/here", 404, "NO_SUCH_ROUTE", "/nothing/here"),
    ],
)
async def test_a_refusal_says_what_was_wrong_in_one_shape(http, path, status, reason, names):
    response = await http.get(API + path)
    error = response.json()["error"]
    assert (response.status_code, error["reason"]) == (status, reason)
    assert names in error["message"]


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        (3, 400, "INVALID_ARGUMENT"),
        (5, 404, "NOT_FOUND"),
        (8, 429, "RESOURCE_EXHAUSTED"),
        (14, 503, "UNAVAILABLE"),
        (99, 500, "UNKNOWN"),
    ],
)
async def test_a_grpc_code_becomes_its_http_status(http, reader, code, status, name):
    reader.failure = ReadError(code, "A_REASON", "what to do")
    response = await http.get(f"{API}/trained/summary")
    assert response.status_code == status
    assert response.json() == {"error": {"code": name, "reason": "A_REASON", "message": "what to do"}}
    assert ("retry-after" in response.headers) == (status in (429, 503))


async def test_a_bug_below_is_a_500_that_tells_nothing_of_the_inside(http, reader):
    reader.failure = RuntimeError("password=hunter2")  # type: ignore[assignment]
    response = await http.get(f"{API}/trained/summary")
    assert response.status_code == 500
    assert response.json()["error"]["reason"] == "INTERNAL"
    assert "hunter2" not in response.text
    assert response.headers["x-content-type-options"] == "nosniff"


async def test_writing_is_refused(http):
    response = await http.post(f"{API}/trained/summary", json={})
    assert (response.status_code, response.json()["error"]["reason"]) == (405, "METHOD_NOT_ALLOWED")


@pytest.mark.parametrize(
    "table", ["calibration", "clusters", "estimators", "histogram", "history", "quota_profile"]
)
async def test_every_part_of_the_summary_downloads_as_csv(http, table):
    response = await http.get(f"{API}/trained/tables/{table}.csv")
    rows = list(csv.reader(io.StringIO(response.text)))
    assert f'-{table}.csv"' in response.headers["content-disposition"]
    assert len(rows) > 1
    assert {len(row) for row in rows} == {len(rows[0])}


async def test_the_history_as_csv_holds_the_histogram_of_every_point(http, reader):
    rows = list(csv.DictReader(io.StringIO((await http.get(f"{API}/trained/tables/history.csv")).text)))
    history = reader.curricula["trained"].summary(0).history
    assert [int(row["policy_version"]) for row in rows] == list(history.policy_versions)
    last = [int(rows[-1][f"histogram_bin_{i}"]) for i in range(history.histogram_bins)]
    assert last == list(history.histogram_counts[-history.histogram_bins :])


async def test_the_prompts_csv_holds_every_page(http, reader):
    response = await http.get(f"{API}/trained/prompts.csv", params={"contains": "add"})
    rows = list(csv.DictReader(io.StringIO(response.text)))
    expected = [i for i in reader.curricula["trained"].prompt_ids if "add" in i]
    assert [row["prompt_id"] for row in rows] == expected
    whole = list(csv.reader(io.StringIO((await http.get(f"{API}/trained/prompts.csv")).text)))
    assert len(whole) == 1 + 2_500


async def test_probes_tell_alive_from_ready(http, reader):
    assert (await http.get("/healthz")).status_code == 200
    assert (await http.get("/readyz")).json() == {"ready": True, "detail": ""}
    reader.failure = ReadError(14, "LOG_UNREACHABLE", "Redis is away")
    assert (await http.get("/healthz")).status_code == 200
    response = await http.get("/readyz")
    assert (response.status_code, response.json()["detail"]) == (503, "Redis is away")


async def test_metrics_are_those_of_the_given_registry(http):
    response = await http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "curriculum_reports_total 3.0" in response.text


@pytest.mark.parametrize("path", ["/", "/c/trained", "/static/js/main.js", "/healthz", API, f"{API}/absent"])
async def test_every_response_keeps_the_page_to_its_own_origin(http, path):
    headers = (await http.get(path)).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http:" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"


async def test_large_answers_are_compressed(http):
    assert (await http.get(f"{API}/trained/summary")).headers["content-encoding"] == "gzip"


async def test_openapi_describes_every_route_in_the_shape_that_is_sent(http):
    document = (await http.get("/api/v1/openapi.json")).json()
    summary = document["paths"][API + "/{curriculum_id}/summary"]["get"]
    schema = summary["responses"]["200"]["content"]["application/json"]["schema"]
    assert set(schema["properties"]) == {field.name for field in pb.Summary.DESCRIPTOR.fields}
    assert schema["properties"]["prompts"] == {"type": "integer"}
    assert len(document["paths"]) == 14


async def test_no_page_of_the_framework_loads_scripts_from_elsewhere(http):
    for path in ("/docs", "/redoc"):
        assert (await http.get(path)).status_code == 404


async def test_requests_are_counted_by_route_and_carry_an_id(reader):
    registry = CollectorRegistry()
    transport = httpx.ASGITransport(create_app(reader, metrics_registry=registry), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as http:
        first = await http.get(f"{API}/trained/summary")
        await http.get(f"{API}/nobody/summary")
        await http.get("/no/such/path")
        assert len(first.headers["x-request-id"]) == 16
        kept = await http.get("/healthz", headers={"x-request-id": "of-the-proxy.1"})
        assert kept.headers["x-request-id"] == "of-the-proxy.1"
        forged = await http.get("/healthz", headers={"x-request-id": 'a" injected=1'})
        assert forged.headers["x-request-id"] != 'a" injected=1'

    def count(route: str, status: str) -> float | None:
        labels = {"method": "GET", "route": route, "status": status}
        return registry.get_sample_value("http_requests_total", labels)

    assert count(f"{API}/{{curriculum_id}}/summary", "200") == 1
    assert count(f"{API}/{{curriculum_id}}/summary", "404") == 1
    assert count("unknown", "404") == 1
    duration = {"method": "GET", "route": "/healthz"}
    assert registry.get_sample_value("http_request_duration_seconds_count", duration) == 2
