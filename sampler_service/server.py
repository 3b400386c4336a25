"""One service process: log, host, gRPC and dashboard, started in order and stopped in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from sampler_service import tracing
from sampler_service.access import Gate, TokenFileError
from sampler_service.config import ServiceConfig, is_loopback, unknown_variables
from sampler_service.dashboard import DashboardServer, create_app
from sampler_service.host_reader import HostReader, HostWriter
from sampler_service.log import EmbeddedServer, LogClient, LogError, LogUnavailableError, RedisSettings
from sampler_service.logs import configure_logging
from sampler_service.metrics_exchange import MetricsExchange
from sampler_service.open_files import allow_many_files
from sampler_service.replica import ReplicaHost
from sampler_service.replica.allocator import return_memory_early
from sampler_service.rpc import PortTakenError, RpcServer
from sampler_service.rpc.metrics import CurriculumCollector, ResidencyCollector

__all__ = [
    "Service",
    "StartError",
    "WorkerPlace",
    "cannot_listen",
    "check_log_server",
    "on_stop_signals",
    "open_gate",
    "provide_log_server",
    "run",
    "serve",
]

_log = structlog.get_logger(__name__)


class StartError(RuntimeError):
    """The service cannot start; one line for people."""


@dataclass(frozen=True, slots=True)
class WorkerPlace:
    """What a worker knows of those beside it."""

    number: int
    """From 0."""
    workers: int
    """How many there are."""
    exchange: Path
    """Directory where they find each other's figures."""


class Service:
    """A running service. `async with Service(config) as service` starts it; the end drains and stops it.

    With a `place` it is one of several workers: their parent looks after the log's server, and the ports
    are shared.
    """

    def __init__(self, config: ServiceConfig, place: WorkerPlace | None = None) -> None:
        self.config = config
        self.place = place
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
        config, place = self.config, self.place
        gate = open_gate(config, warn=place is None)
        self._trace()
        redis = await provide_log_server(config, self._open)
        if place is None:
            await check_log_server(redis)
        client = LogClient(redis)
        self._open.push_async_callback(client.aclose)
        self.host = ReplicaHost(client, config.replica)
        await self.host.start()
        self._open.push_async_callback(self.host.close)
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self.registry)
        self.registry.register(CurriculumCollector(self.host.statistics))
        self.registry.register(ResidencyCollector(self.host.residency))
        gather = None
        if place is not None:
            exchange = MetricsExchange(place.exchange, place.number, self.registry)
            await exchange.start()
            self._open.push_async_callback(exchange.stop)
            gather = exchange.gather
        # The dashboard comes first and goes last: it shows the service while that drains.
        if config.http_port >= 0:
            app = create_app(
                HostReader(self.host, self._is_draining),
                writer=HostWriter(self.host),
                metrics_registry=self.registry,
                gather_metrics=gather,
                gate=gate,
                settings=config.http,
                local_only=not gate.enabled and not config.insecure,
            )
            try:
                self.dashboard = await DashboardServer.start(
                    app,
                    config.http_host,
                    config.http_port,
                    share_port=place is not None,
                    settings=config.http,
                    tls=config.tls,
                )
            except OSError as error:
                raise cannot_listen(
                    "HTTP", config.http_host, config.http_port, "--http-port", error
                ) from error
            self._open.push_async_callback(self.dashboard.stop)
        try:
            self.rpc = await RpcServer.start(
                self.host,
                config.rpc,
                self.registry,
                host_name=config.grpc_host,
                port=config.grpc_port,
                share_port=place is not None,
                gate=gate,
                tls=config.tls,
            )
        except PortTakenError as error:
            raise cannot_listen("gRPC", config.grpc_host, config.grpc_port, "--grpc-port", error) from error
        self._open.push_async_callback(self._drain)

    def _trace(self) -> None:
        if not tracing.wanted():
            return
        try:
            stop = tracing.configure()
        except tracing.MissingExtraError as error:
            # A cluster may set the variable for everybody: no reason not to serve.
            _log.warning(str(error))
            return
        self._open.push_async_callback(asyncio.to_thread, stop)

    async def _drain(self) -> None:
        self._draining = True
        await self.rpc.drain(self.config.drain_seconds)

    def _is_draining(self) -> bool:
        return self._draining


async def provide_log_server(config: ServiceConfig, open_: AsyncExitStack) -> RedisSettings:
    """Where the log's server is; one of our own, kept alive until `open_` is closed, if none is configured.

    Raises:
        StartError: it does not start.
    """
    if config.redis is not None:
        return config.redis
    embedded = EmbeddedServer(config.data_dir, appendfsync=config.appendfsync)
    try:
        await embedded.start()
    except LogError as error:
        raise StartError(str(error)) from error
    open_.push_async_callback(embedded.stop)
    keeper = asyncio.create_task(_keep_alive(embedded), name="embedded server's keeper")
    open_.push_async_callback(_cancel, keeper)
    return RedisSettings(url=embedded.url)


async def check_log_server(settings: RedisSettings) -> None:
    """Logs what is unwise about the log's server.

    Raises:
        StartError: it cannot be reached, or cannot hold a log.
    """
    async with LogClient(settings) as client:
        try:
            for warning in await client.check_server():
                _log.warning(warning)
        except LogUnavailableError as error:
            raise StartError(
                f"the log's server cannot be reached: {str(error).rstrip('.')}. Start it, or check --redis-url; "
                "without --redis-url the service brings its own"
            ) from error
        except LogError as error:
            raise StartError(str(error)) from error


def open_gate(config: ServiceConfig, *, warn: bool = True) -> Gate:
    """What lets callers in, checked before anything else is started; logs what is unwise.

    Raises:
        StartError: the token file or the files of TLS cannot be used.
    """
    try:
        gate = Gate(config.auth)
        if config.tls.enabled:
            config.tls.read()
    except TokenFileError as error:
        raise StartError(str(error)) from error
    except OSError as error:
        raise StartError(
            f"the files of tls cannot be used: {error.filename or config.tls.cert_file}: {error.strerror}"
        ) from error
    if warn and not (is_loopback(config.grpc_host) and is_loopback(config.http_host)):
        if not gate.enabled:
            _log.warning("open to whoever reaches the ports: insecure is set and no tokens are")
        elif not config.tls.enabled:
            _log.warning("tokens cross the network in the clear unless a proxy adds TLS; see tls.cert_file")
    return gate


def run(config: ServiceConfig) -> int:
    """Serves until SIGTERM or SIGINT; the exit status. A second signal ends the process at once."""
    configure_logging(config.log_level, config.log_format)
    for name in unknown_variables():
        _log.warning("environment variable is not a setting and is ignored", name=name)
    return asyncio.run(serve(Service(config), say=_say))


def _say(service: Service) -> None:
    print(service.ready_line, service.welcome, sep="\n", flush=True)


async def serve(
    service: Service,
    *,
    say: Callable[[Service], None],
    also_until: Coroutine[Any, Any, None] | None = None,
) -> int:
    """Starts the service, calls `say`, and stops it in good order; the exit status.

    Args:
        also_until: something else than a signal that ends it when it returns.
    """
    return_memory_early()
    allow_many_files()
    stopping = on_stop_signals()
    ends: list[asyncio.Task[Any]] = [asyncio.create_task(stopping.wait())]
    if also_until is not None:
        ends.append(asyncio.create_task(also_until))
    starting = asyncio.create_task(service.__aenter__())
    await asyncio.wait((starting, *ends), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        await _cancel(starting)
        return 0
    try:
        await starting
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    # Modules and what start-up made stay for good: full collections need not walk them, 50 ms each time.
    gc.collect()
    gc.freeze()
    say(service)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    _log.info("draining", at_most_seconds=service.config.drain_seconds)
    await service.__aexit__()
    _log.info("stopped")
    return 0


def on_stop_signals(before_the_end: Callable[[], None] | None = None) -> asyncio.Event:
    """An event that SIGTERM and SIGINT set. A second signal ends the process at once, after `before_the_end`."""
    stopping = asyncio.Event()

    def on_signal(number: signal.Signals) -> None:
        if stopping.is_set():
            # Somebody is in a hurry. Nothing acknowledged is lost: the log has it.
            if before_the_end is not None:
                before_the_end()
            sys.stderr.flush()
            os._exit(128 + number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stopping


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


def cannot_listen(what: str, host: str, port: int, option: str, error: OSError) -> StartError:
    """The error for a port that cannot be had, with what to do about it."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if error.errno == errno.EADDRINUSE:
        return StartError(
            f"{what} cannot listen on {address}: another process listens there. "
            f"Stop it, or choose another port ({option}; 0 picks a free one)"
        )
    return StartError(f"{what} cannot listen on {address}: {error.strerror}")


def _address(dashboard: DashboardServer) -> str:
    return dashboard.url.partition("://")[2].rstrip("/")
