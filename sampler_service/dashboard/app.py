"""The dashboard's application: page, API, live stream, probes and metrics."""

from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import Scope

from sampler_service.access import AuthSettings, Gate
from sampler_service.dashboard.api import create_router
from sampler_service.dashboard.downloads import create_downloads
from sampler_service.dashboard.encoding import dump_json
from sampler_service.dashboard.errors import install_error_handlers
from sampler_service.dashboard.guard import Guard
from sampler_service.dashboard.reader import CurriculumReader, StrategyWriter
from sampler_service.dashboard.security import SecurityHeaders
from sampler_service.dashboard.session import create_session_router
from sampler_service.dashboard.settings import HttpSettings
from sampler_service.dashboard.stream import SummaryFeeds
from sampler_service.dashboard.telemetry import Telemetry
from sampler_service.dashboard.writes import create_writes

STATIC_DIR = Path(__file__).parent / "static"


class _Static(StaticFiles):
    """Files that browsers keep but ask about: an upgraded service never meets an old page."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.setdefault("cache-control", "no-cache")
        return response


def create_app(
    reader: CurriculumReader,
    *,
    writer: StrategyWriter | None = None,
    metrics_registry: CollectorRegistry | None = None,
    gather_metrics: Callable[[], Awaitable[CollectorRegistry]] | None = None,
    gate: Gate | None = None,
    settings: HttpSettings | None = None,
    local_only: bool = False,
    stream_interval_seconds: float = 1.0,
    stream_heartbeat_seconds: float = 15.0,
) -> FastAPI:
    """The dashboard over `reader`; without a `writer` it changes nothing.

    `metrics_registry` is what /metrics exposes (the process's default registry when None), unless
    `gather_metrics` fetches it anew for each request, from several processes. Without a `gate` everybody may
    see everything; `local_only` then refuses other names than this machine's. Live streams look for news
    every `stream_interval_seconds`. Whoever runs the app calls `app.state.feeds.close()` before it
    stops the HTTP server, as `DashboardServer` does: open streams would hold the server up otherwise.
    """
    app = FastAPI(
        title="Curriculum sampler",
        summary="The dashboard's API: reads, and the strategy.",
        version=_version(),
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # FastAPI's own pages load scripts from another host.
        redoc_url=None,
    )
    gate = gate or Gate(AuthSettings())
    settings = settings or HttpSettings()
    feeds = SummaryFeeds(
        reader,
        interval_seconds=stream_interval_seconds,
        heartbeat_seconds=stream_heartbeat_seconds,
        is_current=gate.is_current,
    )
    app.state.feeds = feeds
    app.add_middleware(GZipMiddleware, minimum_size=1024, compresslevel=5)
    app.add_middleware(Guard, gate=gate, settings=settings, local_only=local_only)
    app.add_middleware(SecurityHeaders)
    if metrics_registry is not None:
        app.add_middleware(Telemetry, registry=metrics_registry)
    install_error_handlers(app)
    app.include_router(create_session_router(gate, settings))
    app.include_router(create_router(reader, feeds))
    app.include_router(create_downloads(reader))
    if writer is not None:
        app.include_router(create_writes(writer))
    registry = metrics_registry if metrics_registry is not None else REGISTRY
    _add_probes(app, reader, registry, gather_metrics, tell_why=not gate.enabled)
    _add_page(app)
    return app


def _add_probes(
    app: FastAPI,
    reader: CurriculumReader,
    registry: CollectorRegistry,
    gather: Callable[[], Awaitable[CollectorRegistry]] | None,
    tell_why: bool,
) -> None:
    @app.api_route("/healthz", methods=["GET", "HEAD"], include_in_schema=False)
    async def healthz() -> Response:
        return Response("ok\n", media_type="text/plain", headers={"cache-control": "no-store"})

    @app.api_route("/readyz", methods=["GET", "HEAD"], include_in_schema=False)
    async def readyz() -> Response:
        ready, detail = await reader.ready()
        if not (ready or tell_why):
            # It may name a curriculum, or the log's server; whoever asks has shown no token.
            detail = "the service's log says why"
        body = dump_json({"ready": ready, "detail": detail})
        headers = {"cache-control": "no-store"}
        return Response(body, 200 if ready else 503, headers, media_type="application/json")

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        exposed = registry if gather is None else await gather()
        return Response(encode(exposed), headers={"content-type": content_type, "cache-control": "no-store"})


def _add_page(app: FastAPI) -> None:
    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/compare", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/c/{curriculum_id}", methods=["GET", "HEAD"], include_in_schema=False)
    @app.api_route("/c/{curriculum_id}/prompt", methods=["GET", "HEAD"], include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(STATIC_DIR / "index.html", headers={"cache-control": "no-cache"})

    app.mount("/static", _Static(directory=STATIC_DIR), name="static")


def _version() -> str:
    try:
        return version("curriculum-sampler")
    except PackageNotFoundError:
        return "0"
