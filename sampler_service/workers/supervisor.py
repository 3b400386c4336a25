"""The parent: starts workers, watches them, starts those again that ended, and stops them all."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import structlog

from sampler_service.config import ServiceConfig, unknown_variables
from sampler_service.log import RedisSettings
from sampler_service.logs import configure_logging
from sampler_service.server import (
    StartError,
    WorkerPlace,
    cannot_listen,
    check_log_server,
    on_stop_signals,
    open_gate,
    provide_log_server,
)
from sampler_service.workers.assignment import Assignment
from sampler_service.workers.heartbeat import Silence
from sampler_service.workers.ports import ReservedPorts, kernel_spreads_connections
from sampler_service.workers.restarts import RestartDelay

__all__ = ["Supervisor", "run"]

_log = structlog.get_logger(__name__)

# On top of drain_seconds: the last snapshots of a worker that stops.
_SNAPSHOT_SECONDS: Final = 75.0


class Supervisor:
    """`async with Supervisor(config) as supervisor` returns when every worker serves; the end drains them all."""

    def __init__(self, config: ServiceConfig) -> None:
        self.config = config
        self._open = AsyncExitStack()
        self._grpc: ReservedPorts
        self._http: ReservedPorts | None = None
        self._redis: RedisSettings
        self._exchange: Path
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._keepers: list[asyncio.Task[None]] = []
        self._stopping = False

    async def __aenter__(self) -> Supervisor:
        try:
            await self._start()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._stop()

    @property
    def ready_line(self) -> str:
        """For programs: where the workers listen."""
        http = f" http={self._http.addresses}" if self._http else ""
        return f"ready grpc={self._grpc.addresses}{http} workers={self.config.workers}"

    @property
    def welcome(self) -> str:
        """For people: the same."""
        first = self._http.addresses.partition(",")[0] if self._http else ""
        scheme = "https" if self.config.tls.enabled else "http"
        page = f"dashboard {scheme}://{first}/, " if first else ""
        redis = self.config.redis
        log = f"log on {redis.address}" if redis else f"log in {self.config.data_dir.absolute()}"
        return (
            f"Curriculum sampler is up with {self.config.workers} workers: {page}"
            f"gRPC {self._grpc.addresses}, {log}. Ctrl-C stops it."
        )

    async def _start(self) -> None:
        config = self.config
        open_gate(config)
        kind = config.worker_ports
        if kind == "auto":
            kind = "shared" if kernel_spreads_connections() else "separate"
        self._grpc = self._reserve("gRPC", config.grpc_host, config.grpc_port, "--grpc-port", kind)
        if config.http_port >= 0:
            self._http = self._reserve("HTTP", config.http_host, config.http_port, "--http-port", kind)
        self._redis = await provide_log_server(config, self._open)
        await check_log_server(self._redis)
        # Not in the data directory: its path may be too long for a unix socket.
        self._exchange = Path(
            self._open.enter_context(
                tempfile.TemporaryDirectory(prefix="curriculum-workers-", ignore_cleanup_errors=True)
            )
        )
        ready = [asyncio.get_running_loop().create_future() for _ in range(config.workers)]
        for number, first in enumerate(ready):
            keeper = asyncio.create_task(self._keep_running(number, first), name=f"worker {number}'s keeper")
            self._keepers.append(keeper)
        await asyncio.gather(*ready)

    def _reserve(self, what: str, host: str, port: int, option: str, kind: str) -> ReservedPorts:
        try:
            reserved = ReservedPorts.reserve(
                host, port, self.config.workers, "shared" if kind == "shared" else "separate"
            )
        except OSError as error:
            raise cannot_listen(what, host, port, option, error) from error
        self._open.callback(reserved.release)
        return reserved

    def _assignment(self, number: int) -> Assignment:
        ports = {
            "grpc_port": self._grpc.ports[number],
            "http_port": self._http.ports[number] if self._http else -1,
        }
        config = self.config.model_copy(update={**ports, "redis": self._redis, "workers": 1})
        return Assignment(config, WorkerPlace(number, self.config.workers, self._exchange))

    async def _keep_running(self, number: int, first_ready: asyncio.Future[None]) -> None:
        delay = RestartDelay()
        while not self._stopping:
            began = time.monotonic()
            status = await self._run_once(number, first_ready)
            if self._stopping:
                return
            if not first_ready.done():
                # It has said why on stderr. What cannot start once would not a second time.
                first_ready.set_exception(
                    StartError(f"worker {number} did not start (exit status {status}); see above")
                )
                return
            seconds = delay.after(time.monotonic() - began)
            _log.warning("worker ended, starting it again", worker=number, status=status, in_seconds=seconds)
            await asyncio.sleep(seconds)

    async def _run_once(self, number: int, first_ready: asyncio.Future[None]) -> int:
        """One life of a worker; its exit status, negative for a signal."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "sampler_service.workers.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            # Ctrl-C in a terminal reaches the parent alone, which stops the workers in good order.
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        self._processes[number] = process
        if self._stopping:
            self._signal_one(process, signal.SIGTERM)
        with contextlib.suppress(ConnectionError):
            process.stdin.write(self._assignment(number).to_bytes())
            await process.stdin.drain()
        longest = self.config.worker_silence_seconds
        silence = Silence(longest) if longest else None
        watcher = asyncio.create_task(self._watch(number, process, silence)) if silence else None
        try:
            while line := await process.stdout.readline():
                if silence is not None:
                    silence.broken()
                if line.startswith(b"ready "):
                    _log.info("worker serves", worker=number, pid=process.pid)
                    if not first_ready.done():
                        first_ready.set_result(None)
            return await process.wait()
        finally:
            if watcher is not None:
                watcher.cancel()

    async def _watch(self, number: int, process: asyncio.subprocess.Process, silence: Silence) -> None:
        """Kills a worker that hangs: its keeper then starts it again."""
        while not silence.looked():
            await asyncio.sleep(silence.look_seconds)
        # While all are stopping there is a time limit already, and a long last snapshot is no reason to end one.
        if not self._stopping:
            _log.error(
                "worker hangs, killing it",
                worker=number,
                pid=process.pid,
                silent_seconds=self.config.worker_silence_seconds,
            )
            self._signal_one(process, signal.SIGKILL)

    async def _stop(self) -> None:
        self._stopping = True
        self._signal(signal.SIGTERM)
        running = [asyncio.create_task(process.wait()) for process in self._processes.values()]
        if running:
            await asyncio.wait(running, timeout=self.config.drain_seconds + _SNAPSHOT_SECONDS)
        self._signal(signal.SIGKILL)
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*running, *self._keepers, return_exceptions=True)
        await self._open.aclose()

    def end_at_once(self) -> None:
        """Kills the workers: somebody is in a hurry."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes.values():
            self._signal_one(process, number)

    def _signal_one(self, process: asyncio.subprocess.Process, number: signal.Signals) -> None:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)


def run(config: ServiceConfig) -> int:
    """Serves with `config.workers` processes until SIGTERM or SIGINT; the exit status.

    A second signal ends all of them at once.
    """
    configure_logging(config.log_level, config.log_format)
    for name in unknown_variables():
        _log.warning("environment variable is not a setting and is ignored", name=name)
    return asyncio.run(_run(config))


async def _run(config: ServiceConfig) -> int:
    supervisor = Supervisor(config)
    stopping = on_stop_signals(supervisor.end_at_once)
    starting = asyncio.create_task(supervisor.__aenter__())
    stop = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, stop), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
        with contextlib.suppress(asyncio.CancelledError, StartError):
            await starting
        return 0
    try:
        await starting
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(supervisor.ready_line, supervisor.welcome, sep="\n", flush=True)
    await stop
    _log.info("draining", at_most_seconds=config.drain_seconds, pid=os.getpid())
    await supervisor.__aexit__()
    _log.info("stopped")
    return 0
