"""Files of the dashboard hold what the API says: Parquet with types, CSV with names, in the order asked for."""

from __future__ import annotations

import csv
import io
import math
import sys
from collections.abc import AsyncIterator

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
from prometheus_client import CollectorRegistry

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard import create_app
from sampler_service.dashboard.parquet import visits_parquet, write_parquet
from sampler_service.dashboard.tables import VISIT_COLUMNS, write_csv
from tests.browser.simulated_reader import SimulatedCurriculum, SimulatedReader

API = "/api/v1/curricula/trained"
TABLES = (
    "calibration",
    "clusters",
    "estimators",
    "histogram",
    "history",
    "quota_profile",
    "shadow_series",
    "shadows",
    "uncertainty",
)


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    trained = SimulatedCurriculum("trained", 4_000)
    trained.step(12)
    app = create_app(SimulatedReader(trained), metrics_registry=CollectorRegistry())
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://dashboard") as client:
        yield client


async def parquet(http: httpx.AsyncClient, path: str, **parameters: object) -> dict[str, list[object]]:
    answer = await http.get(f"{API}/{path}", params=parameters)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-disposition"].startswith("attachment")
    read: dict[str, list[object]] = pq.read_table(io.BytesIO(answer.content)).to_pydict()
    return read


@pytest.mark.parametrize("table", TABLES)
async def test_a_table_is_the_same_as_csv_and_as_parquet(http: httpx.AsyncClient, table: str) -> None:
    columns = await parquet(http, f"tables/{table}.parquet")
    rows = list(csv.DictReader(io.StringIO((await http.get(f"{API}/tables/{table}.csv")).text)))
    assert list(columns) == list(rows[0])
    for name, values in columns.items():
        for value, row in zip(values, rows, strict=True):
            if value is None:
                assert row[name] in ("", "unseen")
            else:
                assert str(value) == row[name] or float(value) == pytest.approx(float(row[name]), nan_ok=True)


async def test_every_prompt_that_matches_is_in_the_file_in_the_order_asked_for(
    http: httpx.AsyncClient,
) -> None:
    columns = await parquet(http, "prompts.parquet", contains="7", order_by="pass_rate desc")
    page = (
        await http.get(
            f"{API}/prompts", params={"contains": "7", "order_by": "pass_rate desc", "page_size": 1000}
        )
    ).json()
    assert 100 < len(columns["prompt_id"]) < 4_000
    assert columns["prompt_id"][:1000] == page["prompt_ids"]
    assert (np.diff(np.asarray(columns["pass_rate"], dtype=float)) <= 0).all()
    assert {type(value) for value in columns["in_flight"]} == {bool}
    assert {type(value) for value in columns["visits"]} == {int}
    lines = (await http.get(f"{API}/prompts.csv", params={"contains": "7"})).text.splitlines()
    assert len(lines) == len(columns["prompt_id"]) + 1


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("=HYPERLINK(A1)", "'=HYPERLINK(A1)"),
        ("\t@SUM(1)", "'\t@SUM(1)"),
        ("+1\n-IMPORTXML(1)", "'+1\n-IMPORTXML(1)"),
        ("-3+4", "-3+4"),
        ("a=(1)", "a=(1)"),
        ("'quoted'", "'quoted'"),
        (-0.5, "-0.5"),
    ],
)
def test_no_id_runs_as_a_formula_in_a_spreadsheet(cell: object, written: str) -> None:
    assert list(csv.reader(io.StringIO(write_csv([[cell, 1]]), newline=""))) == [[written, "1"]]


async def test_a_file_is_named_after_its_curriculum() -> None:
    reader = SimulatedReader(SimulatedCurriculum('Größe "1"; b', 10))
    app = create_app(reader, metrics_registry=CollectorRegistry())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://dashboard") as http:
        answer = await http.get("/api/v1/curricula/Gr%C3%B6%C3%9Fe%20%221%22%3B%20b/tables/history.csv")
    assert answer.headers["content-disposition"] == (
        'attachment; filename="Gr__e__1___b-history.csv"; '
        "filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%221%22%3B%20b-history.csv"
    )


async def test_a_file_of_no_rows_has_its_columns() -> None:
    table = pq.read_table(io.BytesIO(write_parquet([("a", "b")])))
    assert (table.column_names, table.num_rows) == (["a", "b"], 0)


async def test_one_prompts_visits_are_the_same_as_json_as_csv_and_as_parquet(http: httpx.AsyncClient) -> None:
    prompt_id = (await http.get(f"{API}/prompts", params={"page_size": 1})).json()["prompt_ids"][0]
    asked = {"prompt_id": prompt_id, "most_visits": 1000}
    told = (await http.get(f"{API}/prompt-history", params=asked)).json()
    columns = await parquet(http, "prompt-history.parquet", **asked)
    rows = list(csv.DictReader(io.StringIO((await http.get(f"{API}/prompt-history.csv", params=asked)).text)))
    assert list(columns) == list(rows[0])
    assert len(rows) == len(told["quotas"]) > 2
    for name, column in {**VISIT_COLUMNS, "source": "sources", "status": "statuses"}.items():
        for value, row, json_value in zip(columns[name], rows, told[column], strict=True):
            if isinstance(value, float):
                assert value == pytest.approx(float(row[name]), nan_ok=True)
                assert math.isnan(value) if json_value is None else value == pytest.approx(json_value)
            else:
                assert str(value) == row[name] == str(json_value)


def test_visits_have_their_types_also_where_there_are_none() -> None:
    one = SimulatedCurriculum("trained", 10)
    one.step(12)
    full, empty = (
        pq.read_schema(io.BytesIO(visits_parquet(history)))
        for history in (one.history_of("p"), pb.GetPromptHistoryResponse())
    )
    assert full.equals(empty)
    assert str(full.field("quota").type) == "int32"
    assert str(full.field("status").type) == "string"


async def test_without_pyarrow_the_csv_is_offered(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "sampler_service.dashboard.parquet")
    monkeypatch.delattr("sampler_service.dashboard.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    answer = await http.get(f"{API}/tables/clusters.parquet")
    assert (answer.status_code, answer.json()["error"]["reason"]) == (400, "PARQUET_MISSING")
    assert "CSV" in answer.json()["error"]["message"]


async def test_one_prompts_visits_are_read_and_downloaded(http: httpx.AsyncClient) -> None:
    prompt_id = (await http.get(f"{API}/prompts", params={"page_size": 1})).json()["prompt_ids"][0]
    history = (await http.get(f"{API}/prompt-history", params={"prompt_id": prompt_id})).json()
    assert history["statuses"][-1] == "VISIT_STATUS_OPEN"
    assert history["mean_rewards"][-1] is None
    rows = list(
        csv.DictReader(
            io.StringIO((await http.get(f"{API}/prompt-history.csv", params={"prompt_id": prompt_id})).text)
        )
    )
    assert [int(row["quota"]) for row in rows] == history["quotas"]
    assert [row["status"] for row in rows] == history["statuses"]
    assert (await http.get(f"{API}/prompt-history", params={"prompt_id": "nobody"})).status_code == 404
