"""`serve --workers N` under the load of the same trainers, on one curriculum and on one each."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from benchmarks.service import latency
from benchmarks.service.load import trainer
from benchmarks.service.process import OPTIONS, Server
from curriculum.v1 import curriculum_pb2_grpc

__all__ = ["of_workers"]

# A connection each: those of one process would share one, and so one worker.
_OWN = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]


def of_workers(workers: int, data_dir: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Steps per second and processor time of a step, all processes of the service together."""
    figures: dict[str, Any] = {"trainers": options.trainers}
    with _serving(workers, data_dir) as server:
        loads = {
            "one_curriculum": ["shared"] * options.trainers,
            "a_curriculum_each": [f"own-{number}" for number in range(options.trainers)],
        }
        for name, curricula in loads.items():
            for curriculum in dict.fromkeys(curricula):
                prompts = options.method_prompts // len(set(curricula))
                latency.add_prompts(server, curriculum, "cures", prompts)
            asyncio.run(_load(server, curricula, 1.0, "warm"))
            before = _cpu_seconds(server)
            steps = asyncio.run(_load(server, curricula, options.seconds, "measured"))
            figures[name] = {
                "steps_per_second": round(float(steps.sum()) / options.seconds, 1),
                "service_cpu_ms_per_step": round(
                    1000 * (_cpu_seconds(server) - before) / float(steps.sum()), 2
                ),
                "most_over_least_steps": round(float(steps.max() / max(steps.min(), 1)), 2),
            }
    return figures


async def _load(server: Server, curricula: list[str], seconds: float, name: str) -> np.ndarray:
    channels = [grpc.aio.insecure_channel(server.address, options=_OWN) for _ in curricula]
    stubs = [curriculum_pb2_grpc.CurriculumServiceStub(channel) for channel in channels]
    until = time.perf_counter() + seconds
    results = await asyncio.gather(
        *(
            trainer(stub, curriculum, f"{name}-{number}", 64, 8, until)
            for number, (stub, curriculum) in enumerate(zip(stubs, curricula, strict=True))
        )
    )
    for channel in channels:
        await channel.close()
    return np.array([done for _, done in results])


@contextmanager
def _serving(workers: int, data_dir: Path) -> Iterator[Server]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "sampler_service", "serve", "--workers", str(workers)),
            *("--data-dir", str(data_dir), "--grpc-port", "0", "--http-port", "-1", "--log-level", "warning"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        fields = dict(part.split("=", 1) for part in process.stdout.readline().split()[1:])
        yield Server(fields["grpc"], "", process)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=120)


def _cpu_seconds(server: Server) -> float:
    """Of the service's Python processes so far: the parent and its workers, the log's server not."""
    parent = server.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    ticks = 0
    for pid in [str(parent), *children]:
        if b"sampler_service" in Path(f"/proc/{pid}/cmdline").read_bytes():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
