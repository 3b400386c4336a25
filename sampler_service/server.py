"""One service process: log, host, gRPC and dashboard, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import sys
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from sampler_service.config import ServiceConfig, unknown_variables
from sampler_service.dashboard import DashboardServer, create_app
from sampler_service.host_reader import HostReader
from sampler_service.log import EmbeddedServer, LogClient, LogError, LogUnavailableError, RedisSettings
from sampler_service.logs import configure_logging
from sampler_service.replica import ReplicaHost
from sampler_service.rpc import PortTakenError, RpcServer
from sampler_service.rpc.metrics import CurriculumCollector

__all__ = ["Service", "StartError", "run"]

_log = structlog.get_logger(__name__)


class StartError(RuntimeError):
    """The service cannot start; one line for people."""


class Service:
    """A running service. `async with Service(config) as service` starts it; the end drains and stops it."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self.host: ReplicaHost
        self.rpc: RpcServer
        self.dashboard: DashboardServer | None = None
        self.registry = CollectorRegistry(auto_describe=False)
        self._open = AsyncExitStack()
        self._draining = False

    async def __aenter__(self) -> Service:
        try:
            await self._start()
        except BaseException:
            await self._open.aclose()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._open.aclose()

    @property
    def ready_line(self) -> str:
        """For programs: where it listens."""
        http = f" http={_address(self.dashboard)}" if self.dashboard else ""
        return f"ready grpc={self.rpc.address}{http}"

    @property
    def welcome(self) -> str:
        """For people: the same."""
        page = f"dashboard {self.dashboard.url}, " if self.dashboard else ""
        redis = self.config.redis
        log = f"log on {redis.address}" if redis else f"log in {self.config.data_dir.absolute()}"
        return f"Curriculum sampler is up: {page}gRPC {self.rpc.address}, {log}. Ctrl-C stops it."

    async def _start(self) -> None:
        config = self.config
        try:
            client = await self._open_log()
            for warning in await client.check_server():
                _log.warning(warning)
        except LogUnavailableError as error:
            raise StartError(
                f"the log's server cannot be reached: {error}. Start it, or check --redis-url; "
                "without --redis-url the service brings its own"
            ) from error
        except LogError as error:
            raise StartError(str(error)) from error
        self.host = ReplicaHost(client, config.replica)
        await self.host.start()
        self._open.push_async_callback(self.host.close)
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
        self.registry.register(CurriculumCollector(self.host.statistics))
        # The dashboard comes first and goes last: it shows the service while that drains.
        if config.http_port >= 0:
            app = create_app(HostReader(self.host, self._is_draining), metrics_registry=self.registry)
            try:
                self.dashboard = await DashboardServer.start(app, config.http_host, config.http_port)
            except OSError as error:
                raise _cannot_listen(
                    "HTTP", config.http_host, config.http_port, "--http-port", error
                ) from error
            self._open.push_async_callback(self.dashboard.stop)
        try:
            self.rpc = await RpcServer.start(
                self.host, config.rpc, self.registry, host_name=config.grpc_host, port=config.grpc_port
            )
        except PortTakenError as error:
            raise _cannot_listen("gRPC", config.grpc_host, config.grpc_port, "--grpc-port", error) from error
        self._open.push_async_callback(self._drain)

    async def _drain(self) -> None:
        self._draining = True
        await self.rpc.drain(self.config.drain_seconds)

    def _is_draining(self) -> bool:
        return self._draining

    async def _open_log(self) -> LogClient:
        settings = self.config.redis
        if settings is None:
            embedded = EmbeddedServer(self.config.data_dir, appendfsync=self.config.appendfsync)
            await embedded.start()
            self._open.push_async_callback(embedded.stop)
            keeper = asyncio.create_task(_keep_alive(embedded), name="embedded server's keeper")
            self._open.push_async_callback(_cancel, keeper)
            settings = RedisSettings(url=embedded.url)
        client = LogClient(settings)
        self._open.push_async_callback(client.aclose)
        return client


def run(config: ServiceConfig) -> int:
    """Serves until SIGTERM or SIGINT; the exit status. A second signal ends the process at once."""
    configure_logging(config.log_level, config.log_format)
    for name in unknown_variables():
        _log.warning("environment variable is not a setting and is ignored", name=name)
    return asyncio.run(_run(config))


async def _run(config: ServiceConfig) -> int:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            # Somebody is in a hurry. Nothing acknowledged is lost: the log has it.
            sys.stderr.flush()
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    service = Service(config)
    starting = asyncio.create_task(service.__aenter__())
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await _cancel(starting)
        return 0
    try:
        await starting
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(service.ready_line, service.welcome, sep="\n", flush=True)
    await stop
    _log.info("draining", at_most_seconds=config.drain_seconds)
    await service.__aexit__()
    _log.info("stopped")
    return 0


async def _keep_alive(embedded: EmbeddedServer) -> None:
    """Starts the embedded server again when it dies under us: an out-of-memory kill, say."""
    while True:
        await embedded.wait()
        # The data directory is ours until `stop`, which cancels this first.
        try:
            await embedded.restart_if_dead()
        except LogError as error:
            _log.error("the embedded server does not start again", why=str(error))
        await asyncio.sleep(1.0)


async def _cancel(task: asyncio.Task[object]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, StartError):
        await task


def _cannot_listen(what: str, host: str, port: int, option: str, error: OSError) -> StartError:
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"{what} cannot listen on {address}: another process listens there. "
            f"Stop it, or choose another port ({option}; 0 picks a free one)"
        )
    return StartError(f"{what} cannot listen on {address}: {error.strerror}")


def _address(dashboard: DashboardServer) -> str:
    return dashboard.url.removeprefix("http://").rstrip("/")
