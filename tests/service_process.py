"""The real service for tests: in this process, or as a process of its own that may be killed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.config import ServiceConfig
from sampler_service.server import Service

if TYPE_CHECKING:
    from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceAsyncStub

ROOT = Path(__file__).parents[1]
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


@dataclass
class RunningService:
    """A service in this event loop, and a stub that talks to it over a real socket."""

    service: Service
    channel: grpc.aio.Channel
    stub: CurriculumServiceAsyncStub

    @property
    def target(self) -> str:
        return self.service.rpc.address


@contextlib.asynccontextmanager
async def running_service(config: ServiceConfig) -> AsyncIterator[RunningService]:
    """Starts the service, stops it afterwards."""
    async with (
        Service(config) as service,
        grpc.aio.insecure_channel(service.rpc.address, options=OPTIONS) as channel,
    ):
        yield RunningService(service, channel, CurriculumServiceStub(channel))


class ServiceProcess:
    """`sampler-service serve` on free ports."""

    def __init__(self, *arguments: str, log: Path, environment: dict[str, str] | None = None) -> None:
        self.log = log
        ports = () if "--grpc-port" in arguments else ("--grpc-port", "0", "--http-port", "0")
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sampler_service", "serve", *ports, *arguments],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                env={**_clean_environment(), **(environment or {})},
                start_new_session=True,
            )
        self.ready_line = ""

    def wait_until_ready(self) -> ServiceProcess:
        """Reads the line that says where it listens."""
        assert self.process.stdout is not None
        # The line, or the end of the output if the process dies; pytest's own timeout ends a hang.
        self.ready_line = self.process.stdout.readline()
        assert self.ready_line.startswith("ready "), f"no ready line:\n{self.log.read_text()}"
        return self

    @property
    def target(self) -> str:
        """Address of the API."""
        return self._said("grpc")

    @property
    def http(self) -> str:
        """Address of the dashboard."""
        return self._said("http")

    @property
    def workers(self) -> int:
        """How many processes serve."""
        return int(self._said("workers"))

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """One signal."""
        self.process.send_signal(number)

    def finish(self, timeout_seconds: float = 120.0) -> int:
        """Waits for the end that was asked for; the exit status."""
        status = self.process.wait(timeout_seconds)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def stop(self, timeout_seconds: float = 120.0) -> int:
        """SIGTERM, and SIGKILL if it does not go; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout_seconds)
            except subprocess.TimeoutExpired:
                self.kill()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait()

    def _said(self, name: str) -> str:
        found = re.search(rf"\b{name}=(\S+)", self.ready_line)
        assert found, f"{name} is not in {self.ready_line!r}"
        return found[1]


@contextlib.contextmanager
def service_process(
    *arguments: str, log: Path, environment: dict[str, str] | None = None
) -> Iterator[ServiceProcess]:
    """A ready service process, stopped afterwards."""
    process = ServiceProcess(*arguments, log=log, environment=environment)
    try:
        yield process.wait_until_ready()
    finally:
        process.stop()


def run_command(
    *arguments: str, environment: dict[str, str] | None = None, timeout_seconds: float = 180.0
) -> subprocess.CompletedProcess[str]:
    """`sampler-service …`, to its end."""
    return subprocess.run(
        [sys.executable, "-m", "sampler_service", *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={**_clean_environment(), **(environment or {})},
        timeout=timeout_seconds,
        check=False,
    )


def _clean_environment() -> dict[str, str]:
    """Ours, without settings of the service that a developer may have."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAMPLER_")}
    paths = [str(ROOT), str(ROOT / "proto"), kept.get("PYTHONPATH", "")]
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "COLUMNS": "200"}
