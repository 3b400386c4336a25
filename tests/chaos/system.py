"""The processes of a run: a log server, two hosts of two workers each behind a faulty wire, and trainers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import redis

from sampler_service.log.keys import CurriculumKeys
from tests.chaos.schedule import HOSTS, WORKERS
from tests.chaos.trainer import CURRICULUM
from tests.faulty_wire import Fault, FaultyWire
from tests.ports import free_ports_apart
from tests.redis_servers import RedisServer, lives, valkey_binary
from tests.replicas_under_faults import LogAccount
from tests.service_process import ROOT, ServiceProcess
from tests.worker_processes import worker_pids

T = TypeVar("T")

_LOG_TIMEOUT_SECONDS: Final = 2.0
_ENVIRONMENT: Final = {
    "SAMPLER_REDIS__TIMEOUT_SECONDS": str(_LOG_TIMEOUT_SECONDS),
    # Often enough that faults fall into snapshots and trims, too.
    "SAMPLER_REPLICA__SNAPSHOT_EVENTS": "300",
    "SAMPLER_REPLICA__SNAPSHOT_LOCK_SECONDS": "2",
    "SAMPLER_REPLICA__TICK_SECONDS": "0.2",
    "SAMPLER_WORKER_SILENCE_SECONDS": "5",
    "SAMPLER_DRAIN_SECONDS": "5",
}


class Wires:
    """The hosts' ways to the log server, in an event loop of their own."""

    def __init__(self, folder: Path, server: RedisServer) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.of_host = [
            self.run(
                FaultyWire(
                    folder / f"wire-{host}", server.socket_path, late_seconds=1.5 * _LOG_TIMEOUT_SECONDS
                ).open()
            )
            for host in range(HOSTS)
        ]

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(120)

    def close(self) -> None:
        for wire in self.of_host:
            self.run(wire.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()


class Host:
    """`serve --workers 2`, started again whenever it has ended."""

    def __init__(self, number: int, folder: Path, wire: FaultyWire) -> None:
        self._log = folder / f"host-{number}.log"
        self._wire = wire
        first = free_ports_apart(1)
        self.ports = [first + worker for worker in range(WORKERS)]
        self.may_run = True
        self.starts = 0
        self.process: ServiceProcess | None = None

    def keep_running(self) -> None:
        """Starts it if it is not there and may be; somebody does that to every service."""
        if self.process is not None and self.process.process.poll() is not None:
            self.process.finish()
            self.process = None
        if self.process is None and self.may_run:
            self.starts += 1
            self.process = ServiceProcess(
                *("--redis-url", self._wire.url, "--workers", str(WORKERS), "--worker-ports", "separate"),
                *("--grpc-port", str(self.ports[0]), "--http-port", "-1"),
                log=self._log,
                environment=_ENVIRONMENT,
            )

    def signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.process.poll() is None:
            self.process.send_signal(number)

    def worker(self, number: int) -> int | None:
        """The process id of one of its workers, if it has so many now."""
        if self.process is None or self.process.process.poll() is not None:
            return None
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            pids = worker_pids(self.process)
            return pids[number] if number < len(pids) else None
        return None

    def text(self) -> str:
        """What it has logged in all its lives."""
        return self._log.read_text()


class TrainerProcess:
    """`tests.chaos.trainer`, started again whenever it has died."""

    def __init__(self, name: str, folder: Path, target: str) -> None:
        self.name = name
        self._arguments = (target, str(folder), name)
        self._errors = folder / f"{name}.errors"
        self.may_run = True
        self.starts = 0
        self.process: subprocess.Popen[bytes] | None = None

    def keep_running(self) -> None:
        """One that has died goes on; one that gave up by itself must not have."""
        if self.process is not None and (status := self.process.poll()) is not None:
            assert status in (0, -signal.SIGKILL), f"{self.name}: {status}, {self._errors.read_text()}"
            if status == 0:
                return
            self.process = None
        if self.process is None and self.may_run:
            self.starts += 1
            path = os.pathsep.join([str(ROOT), str(ROOT / "proto")])
            with self._errors.open("ab") as errors:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.trainer", *self._arguments],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stderr=errors,
                    env={**os.environ, "PYTHONPATH": path},
                )

    @property
    def done(self) -> bool:
        return self.process is not None and self.process.poll() == 0


class LogReader:
    """Takes in what is appended, past the hosts, before it is trimmed."""

    def __init__(self, server: RedisServer) -> None:
        self.account = LogAccount(server, CurriculumKeys.of("curriculum:", CURRICULUM))
        self._ending = threading.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self) -> None:
        try:
            while not self._ending.wait(0.05):
                # It is away now and then.
                with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
                    self.account.read_on()
        except BaseException as error:
            self._failed = error
            raise

    def finish(self) -> LogAccount:
        """All of it, when nothing is appended any more."""
        self._ending.set()
        self._thread.join(120)
        assert self._failed is None, f"the log could not be followed: {self._failed}"
        self.account.read_on()
        return self.account


class System:
    """Everything that runs. Close it.

    Args:
        folder: for sockets, so its path must be short.
    """

    def __init__(self, folder: Path, trainers: int) -> None:
        self.folder = folder
        self.server = RedisServer(valkey_binary(), folder / "log", options={"appendfsync": "always"}).start()
        self.wires = Wires(folder, self.server)
        self.reader = LogReader(self.server)
        self.hosts = [Host(number, folder, wire) for number, wire in enumerate(self.wires.of_host)]
        self.targets = [f"127.0.0.1:{port}" for host in self.hosts for port in host.ports]
        self.trainers = [
            # All of them know all workers, and begin with another one.
            TrainerProcess(
                f"t{number}",
                folder,
                "ipv4:" + ",".join(self.targets[number % 4 :] + self.targets[: number % 4]),
            )
            for number in range(trainers)
        ]
        self._stopped: set[int] = set()
        self.log_is_up = True

    def keep_running(self, *, trainers: bool = True) -> None:
        """Starts again what has ended and may run."""
        for one in [*self.hosts, *(self.trainers if trainers else [])]:
            one.keep_running()

    def stop_process(self, pid: int) -> bool:
        """SIGSTOP."""
        try:
            os.kill(pid, signal.SIGSTOP)
        except ProcessLookupError:
            return False
        self._stopped.add(pid)
        return True

    def kill_process(self, pid: int) -> bool:
        """SIGKILL."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def let_go_on(self, pid: int) -> None:
        """SIGCONT."""
        self._stopped.discard(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def arm(self, host: int, fault: Fault, chunks_before: int) -> None:
        self.wires.of_host[host].arm(fault, chunks_before)

    def cut(self, host: int) -> None:
        self.wires.run(self.wires.of_host[host].cut())

    def quiet(self) -> None:
        """No more faults: everything that was stopped goes on, everything that ended is started."""
        for wire in self.wires.of_host:
            wire.disarm()
        for pid in list(self._stopped):
            self.let_go_on(pid)
        if self.log_is_up:
            self.server.thaw()
        else:
            self.server.start()
            self.log_is_up = True
        for one in [*self.hosts, *self.trainers]:
            one.may_run = True

    def close(self) -> None:
        """Ends everything, whatever state it is in."""
        for pid in list(self._stopped):
            self.let_go_on(pid)
        for trainer in self.trainers:
            if trainer.process is not None:
                trainer.process.kill()
                trainer.process.wait()
        workers = [pid for host in self.hosts for n in range(WORKERS) if (pid := host.worker(n)) is not None]
        for host in self.hosts:
            if host.process is not None:
                host.process.kill()
                host.process.finish()
        deadline = time.monotonic() + 60
        while any(map(lives, workers)) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.reader._ending.set()
        self.reader._thread.join(120)
        self.wires.close()
        with contextlib.suppress(ProcessLookupError):
            self.server.kill()
