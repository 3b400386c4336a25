"""The page of HTTP routes, from the dashboard's own OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from docs_reference.markdown import code, prose, table
from sampler_service.dashboard import create_app
from sampler_service.dashboard.guard import needs_all_curricula, required_role
from sampler_service.dashboard.reader import CurriculumReader, StrategyWriter

__all__ = ["http_page"]

_INTRO = """# HTTP routes

What the dashboard asks, and any program may: JSON with the field names of the [messages](rpc.md), every field
present, what is absent or not a number as null. Refusals are `{"error": {"code", "reason", "message", "field"}}`
with the reasons of [the API](../api.md). The same as OpenAPI: `GET /api/v1/openapi.json`.

Where the service has tokens, a route needs the role that stands beside it, and one of a curriculum a token whose
scope has that curriculum; lists show what is in the token's scope. What is open answers without a token. Without
tokens every route is open, to this machine alone unless the service was told otherwise."""

_MORE = {
    "/": "The page: curricula.",
    "/c/{curriculum_id}": "The page: one curriculum. What it shows it asks for by the routes above.",
    "/c/{curriculum_id}/prompt": "The page: one prompt, whose id is in `?id=`.",
    "/compare": "The page: two curricula, `?a=` and `?b=`.",
    "/static": "What the page is made of.",
    "/healthz": "The process answers.",
    "/readyz": "It serves: it has reached its log and does not lag. 503 while not.",
    "/metrics": "Prometheus metrics.",
    "/api/v1/openapi.json": "What stands above, for programs.",
}


def http_page() -> str:
    """Every route with its role and parameters."""
    # Only described, never asked: what it would read from does not matter.
    app = create_app(cast(CurriculumReader, None), writer=cast(StrategyWriter, object()))
    described = app.openapi()["paths"]
    rows = [
        _row(method.upper(), path, route)
        for path, routes in described.items()
        for method, route in routes.items()
    ]
    more = [(code(f"GET {path}"), _role("GET", path), text) for path, text in _MORE.items()]
    routes = table(("route", "role", "", "parameters"), rows)
    return f"{_INTRO}\n\n{routes}\n\n## Page, probes and metrics\n\n{table(('route', 'role', ''), more)}\n"


def _row(method: str, path: str, route: dict[str, Any]) -> tuple[str, str, str, str]:
    text = prose(route.get("description", ""))
    return code(f"{method} {path}"), _role(method, path), text, ", ".join(_parameters(route))


def _role(method: str, path: str) -> str:
    role = required_role(method, path if path != "/static" else "/static/")
    scope = ", of all curricula" if needs_all_curricula(path) else ""
    return "open" if role is None else f"{role}{scope}"


def _parameters(route: dict[str, Any]) -> Iterator[str]:
    for parameter in route.get("parameters", []):
        if parameter["in"] == "query":
            yield code(parameter["name"])
    if "requestBody" in route:
        yield "a body of JSON"
