"""What is measured of one pool, and of one load."""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import redis

from benchmarks.service import latency
from benchmarks.service.load import trainer
from benchmarks.service.process import OPTIONS, Server, running
from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc

__all__ = ["of_pool", "of_trainers"]


def _redis_bytes(server: Server) -> int:
    return int(redis.Redis.from_url(server.redis_url).info("memory")["used_memory_dataset"])


def of_pool(data: Path, prompts: int, options: argparse.Namespace) -> dict[str, Any]:
    """Latency per preset, bytes per prompt on either side, and a start from the log alone."""
    figures: dict[str, Any] = {}
    presets = options.presets.split(",")
    with running(data) as server:
        empty, empty_log = server.resident_bytes(), _redis_bytes(server)
        for number, preset in enumerate(presets):
            seconds = latency.add_prompts(server, preset, preset, prompts)
            figures[preset] = latency.measure(
                server, preset, options.batch, 8, options.rounds, options.think_milliseconds / 1000
            )
            figures[preset]["add_prompts_seconds"] = round(seconds, 2)
            if number == 0:
                figures["replica_bytes_per_prompt"] = round((server.resident_bytes() - empty) / prompts, 1)
                figures["replica_peak_bytes_per_prompt"] = round(
                    (server.resident_bytes("VmHWM") - empty) / prompts, 1
                )
        figures["log_bytes_per_prompt"] = round(
            (_redis_bytes(server) - empty_log) / prompts / len(presets), 1
        )
    started = time.perf_counter()
    with running(data) as server:
        figures["restart_to_ready_seconds"] = round(time.perf_counter() - started, 3)
        channel, stub = server.stub()
        for preset in presets:
            asked = time.perf_counter()
            stub.NextBatch(
                pb.NextBatchRequest(curriculum_id=preset, request_id="cold", batch_size=options.batch)
            )
            figures[preset]["cold_first_batch_seconds"] = round(time.perf_counter() - asked, 3)
        channel.close()
        figures["replica_bytes_per_prompt_after_restart"] = round(
            (server.resident_bytes() - empty) / prompts / len(presets), 1
        )
    return figures


def of_trainers(servers: list[Server], prompts: int, options: argparse.Namespace) -> dict[str, Any]:
    """`options.trainers` trainers, shared out evenly over the servers, each asking as soon as it has reported."""
    latency.add_prompts(servers[0], "shared", "cures", prompts)

    async def load() -> list[tuple[list[float], int]]:
        channels = [grpc.aio.insecure_channel(server.address, options=OPTIONS) for server in servers]
        stubs = [curriculum_pb2_grpc.CurriculumServiceStub(channel) for channel in channels]
        for number, stub in enumerate(stubs):  # Each loads the curriculum before the clock starts.
            await trainer(stub, "shared", f"warm{number}", 64, 8, time.perf_counter() + 0.5)
        until = time.perf_counter() + options.seconds
        results = await asyncio.gather(
            *(
                trainer(stubs[i % len(stubs)], "shared", f"t{i}", 64, 8, until)
                for i in range(options.trainers)
            )
        )
        for channel in channels:
            await channel.close()
        return results

    results = asyncio.run(load())
    steps = np.array([done for _, done in results])
    return {
        "trainers": options.trainers,
        "steps_per_second": round(float(steps.sum()) / options.seconds, 1),
        "batch": latency.percentiles([seconds for times, _ in results for seconds in times]),
        "most_over_least_steps": round(float(steps.max() / max(steps.min(), 1)), 2),
    }
