"""Around every HTTP request: an id that the log and the answer share, and figures."""

from __future__ import annotations

import re
import secrets
import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Telemetry"]

_log = structlog.get_logger(__name__)

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_HEADER = "x-request-id"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class Telemetry:
    """Plain ASGI, so that streams pass through unbuffered.

    Metrics: `http_requests_total` by method, route and status, `http_request_duration_seconds` by method and
    route until the answer begins (streams go on for hours). Routes are templates, so no id becomes a label.
    """

    def __init__(self, app: ASGIApp, *, registry: CollectorRegistry) -> None:
        self.app = app
        labels = ("method", "route")
        self._requests = Counter(
            "http_requests_total", "Requests that were answered.", (*labels, "status"), registry=registry
        )
        self._seconds = Histogram(
            "http_request_duration_seconds",
            "Until the answer began.",
            labels,
            buckets=_SECONDS,
            registry=registry,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(_HEADER, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        began = time.perf_counter()

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[_HEADER] = request_id
                self._note(scope, message["status"], time.perf_counter() - began)
            await send(message)

        with structlog.contextvars.bound_contextvars(http_request_id=request_id):
            await self.app(scope, receive, send_and_note)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        # The router leaves the route it chose in the scope; what it never saw was refused before.
        route = getattr(scope.get("route"), "path", "") or ("refused" if status < 404 else "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "OTHER"
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(method, route).observe(seconds)
        _log.debug("http request", route=route, status=status, milliseconds=round(seconds * 1000, 3))


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
