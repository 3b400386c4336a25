"""The page of HTTP routes, from the dashboard's own OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from docs_reference.markdown import code, prose, table
from sampler_service.dashboard import create_app
from sampler_service.dashboard.guard import OPEN_PATHS
from sampler_service.dashboard.reader import CurriculumReader, StrategyWriter

__all__ = ["http_page"]

_INTRO = """# HTTP routes

What the dashboard asks, and any program may: JSON with the field names of the [messages](rpc.md), every field
present, what is absent or not a number as null. Refusals are `{"error": {"code", "reason", "message", "field"}}`
with the reasons of [the API](../api.md). The same as OpenAPI: `GET /api/v1/openapi.json`. Where the service has
tokens, those marked open answer without one."""


def http_page() -> str:
    """Every route with its parameters."""
    # Only described, never asked: what it would read from does not matter.
    app = create_app(cast(CurriculumReader, None), writer=cast(StrategyWriter, object()))
    described = app.openapi()["paths"]
    rows = [
        _row(method, path, route) for path, routes in described.items() for method, route in routes.items()
    ]
    probes = [
        (code(f"GET {path}"), text)
        for path, text in (
            ("/healthz", "The process answers. Open."),
            ("/readyz", "It serves: it has reached its log and does not lag. 503 while not. Open."),
            ("/metrics", "Prometheus metrics."),
        )
    ]
    routes = table(("route", "", "parameters"), rows)
    return f"{_INTRO}\n\n{routes}\n\n## Probes and metrics\n\n{table(('route', ''), probes)}\n"


def _row(method: str, path: str, route: dict[str, Any]) -> tuple[str, str, str]:
    opened = " Open." if OPEN_PATHS.fullmatch(path) else ""
    text = prose(route.get("description", "")) + opened
    return code(f"{method.upper()} {path}"), text, ", ".join(_parameters(route))


def _parameters(route: dict[str, Any]) -> Iterator[str]:
    for parameter in route.get("parameters", []):
        if parameter["in"] == "query":
            yield code(parameter["name"])
    if "requestBody" in route:
        yield "a body of JSON"
