"""Dashboard and alerts: every metric and label that they name is one that the service exposes."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.replica.snapshotting import take_snapshot
from tests.rpc_calls import new_id, next_batch, pool, report
from tests.service_process import RunningService

DEPLOY = Path(__file__).parents[2] / "deploy"
ALERTS = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
DASHBOARD = json.loads((DEPLOY / "grafana" / "curriculum.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

OF_PROMETHEUS = {"up": {"job", "instance"}}
ADDED_BY_PROMETHEUS = {"job", "instance"}


def expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield f"alert {rule['alert']}", rule["expr"]
    for panel in PANELS:
        for target in panel["targets"]:
            text = target["expr"].replace("$__rate_interval", "5m").replace("$curriculum", ".*")
            yield f"panel {panel['title']}", text


def selectors(node: Any) -> Iterator[Any]:
    """Every series that an expression reads."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    elif isinstance(node, promql_parser.MatrixSelector):
        yield node.vector_selector
    else:
        children = [getattr(node, name, None) for name in ("expr", "lhs", "rhs", "param")]
        for child in (*children, *(getattr(node, "args", None) or ())):
            if child is not None and not isinstance(child, str | float):
                yield from selectors(child)


@pytest.fixture
async def exposed(service: RunningService) -> dict[str, set[str]]:
    """Names and labels of all samples, of a service that has done something of everything."""
    await pool(service.stub, preset="uniform-grpo", shadows={"mopps": "mopps"})
    for _ in range(2):
        # Every prompt, the same ones right each time: in the second round predictions differ, as ranks need.
        batch = (await service.stub.NextBatch(next_batch(1000))).batch
        groups = [
            [float(prompt_id[-1] in "02468")] * quota
            for prompt_id, quota in zip(batch.prompt_ids, batch.quotas, strict=True)
        ]
        await service.stub.ReportRollouts(report(batch.prompt_ids, groups, batch.lease_id))
    await service.stub.AdvancePolicy(
        pb.AdvancePolicyRequest(curriculum_id="math", request_id=new_id(), policy_version=1)
    )
    assert await take_snapshot(await service.service.host.replica("math"))
    await shadows_compared(service)
    assert service.service.dashboard is not None
    await asyncio.to_thread(
        urllib.request.urlopen, f"{service.service.dashboard.url}api/v1/curricula", timeout=60
    )
    return labels_by_sample(service.service.registry)


async def shadows_compared(service: RunningService) -> None:
    """Batches, until one has been compared with what a shadow would have drawn."""
    async with asyncio.timeout(120):
        while True:
            batch = (await service.stub.NextBatch(next_batch(4))).batch
            await service.stub.ReportRollouts(
                report(batch.prompt_ids, [[1.0] * n for n in batch.quotas], batch.lease_id)
            )
            answer = await service.stub.GetSummary(pb.GetSummaryRequest(curriculum_id="math"))
            if answer.summary.shadows.compared_batches:
                return
            await asyncio.sleep(0.2)


def labels_by_sample(registry: CollectorRegistry) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for family in registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


async def test_every_metric_and_label_that_is_named_exists(exposed: dict[str, set[str]]):
    checked = 0
    for place, text in expressions():
        for selector in selectors(promql_parser.parse(text)):
            known = OF_PROMETHEUS.get(selector.name, exposed.get(selector.name))
            assert known is not None, f"{place}: the service has no metric {selector.name}"
            named = {matcher.name for matcher in selector.matchers.matchers}
            assert named <= known | ADDED_BY_PROMETHEUS, f"{place}: {selector.name} has no label of {named}"
            checked += 1
    assert checked >= 40


async def test_every_label_that_is_grouped_by_exists(exposed: dict[str, set[str]]):
    known = set().union(*exposed.values()) | ADDED_BY_PROMETHEUS
    for place, text in expressions():
        for names in re.findall(r"\b(?:by|without|on|ignoring) \(([^)]*)\)", text):
            assert {name.strip() for name in names.split(",")} <= known, f"{place}: {names}"


async def test_every_metric_of_ours_is_on_the_dashboard_or_alerted_on(exposed: dict[str, set[str]]):
    text = "\n".join(expression for _, expression in expressions())
    ours = {
        re.sub(r"_(bucket|count|sum|created)$", "", name) for name in exposed
        if name.startswith(("curriculum_", "grpc_server_", "http_")) and not name.endswith("_created")
    }  # fmt: skip
    assert not {name for name in ours if name not in text}


def test_alerts_say_what_happened_and_what_to_do():
    assert len({rule["alert"] for rule in RULES}) == len(RULES) >= 10
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["for"]
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_panels_do_not_overlap_and_have_a_unit():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] == "row" or panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_metrics_page_names_what_is_exposed():
    page = (DEPLOY.parent / "docs" / "operations.md").read_text()
    text = "\n".join(expression for _, expression in expressions())
    for name in set(re.findall(r"\b(?:curriculum|grpc_server|http)_[a-z_]+", text)):
        short = re.sub(r"_(bucket|total|count)$", "", name).removeprefix("curriculum_")
        assert short in page, f"docs/operations.md does not mention {name}"
