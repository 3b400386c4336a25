"""Starts and stops the benchmark's server process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from curriculum.v1 import curriculum_pb2_grpc

OPTIONS = [("grpc.max_receive_message_length", 2**26), ("grpc.max_send_message_length", 2**26)]


@dataclass
class Server:
    """A running server."""

    address: str
    redis_url: str
    process: subprocess.Popen[str]

    def resident_bytes(self, field: str = "VmRSS") -> int:
        """Memory of the process, its Redis not included; `VmHWM` is the most it ever was."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{field}:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"no {field}")

    def loop_figures(self) -> dict[str, float]:
        """How long its event loop was kept, since the last time this was asked."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGUSR1)
        return dict(json.loads(self.process.stdout.readline()))

    def stub(self) -> tuple[grpc.Channel, curriculum_pb2_grpc.CurriculumServiceStub]:
        channel = grpc.insecure_channel(self.address, options=OPTIONS)
        return channel, curriculum_pb2_grpc.CurriculumServiceStub(channel)


@contextmanager
def running(data_dir: Path, redis_url: str = "") -> Iterator[Server]:
    """A service with an embedded log in `data_dir`, or on the log of another."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.service.server", redis_url or str(data_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if not line or line[0] != "ready":
            raise RuntimeError("the server did not start")
        fields = dict(part.split("=", 1) for part in line[1:])
        yield Server(fields["grpc"], fields["redis"], process)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
