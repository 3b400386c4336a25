"""What is measured of one pool, and of one load."""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Iterable
from contextlib import ExitStack
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

__all__ = ["cpu_seconds", "of_pool", "of_sizes_in_turn", "of_steps", "of_trainers"]


def _redis_bytes(server: Server) -> int:
    return int(redis.Redis.from_url(server.redis_url).info("memory")["used_memory_dataset"])


def of_pool(data: Path, prompts: int, options: argparse.Namespace) -> dict[str, Any]:
    """Latency per preset, bytes per prompt on either side, and a start from the log alone."""
    figures: dict[str, Any] = {"load_average_1min_before": round(os.getloadavg()[0], 1)}
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
    figures["load_average_1min_after"] = round(os.getloadavg()[0], 1)
    return figures


def of_sizes_in_turn(
    folder: Path, sizes: list[int], turns: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Pools of several sizes, each in a process of its own, measured in turn: what else runs hits all alike.

    The ratios are medians over the turns, each of a size's median to that of the first size in the same turn.
    """
    medians: dict[str, list[list[float]]] = {"next": [], "report": [], "next_floor": []}
    with ExitStack() as stack:
        servers = [stack.enter_context(running(folder / str(size))) for size in sizes]
        for server, size in zip(servers, sizes, strict=True):
            latency.add_prompts(server, "turns", "cures", size)
        for turn in range(turns):
            measured = [
                latency.measure(
                    server,
                    "turns",
                    options.batch,
                    8,
                    20,
                    options.think_milliseconds / 1000,
                    seed=turn,
                    settle_seconds=1.0,
                )
                for server in servers
            ]
            for name, listed in medians.items():
                listed.append([one[name]["p50_ms"] for one in measured])
    figures: dict[str, Any] = {"turns": turns, "load_average_1min": round(os.getloadavg()[0], 1)}
    for name, listed in medians.items():
        table = np.array(listed)
        ratios = np.median(table / table[:, :1], axis=0)
        figures[name] = {
            str(size): {"p50_ms": round(float(p50), 3), "ratio": round(float(ratio), 2)}
            for size, p50, ratio in zip(sizes, np.median(table, axis=0), ratios, strict=True)
        }
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


def cpu_seconds(server: Server) -> float:
    """Of the service's process so far."""
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _train(server: Server, curriculum: str, batch: int, steps: Iterable[int]) -> None:
    rng = np.random.default_rng(0)
    channel, stub = server.stub()
    for step in steps:
        version = step // 10
        granted = stub.NextBatch(
            pb.NextBatchRequest(
                curriculum_id=curriculum,
                request_id=f"n{step}",
                batch_size=batch,
                rollout_budget=8 * batch,
                policy_version=version,
            )
        ).batch
        stub.ReportRollouts(
            pb.ReportRolloutsRequest(
                curriculum_id=curriculum,
                request_id=f"r{step}",
                lease_id=granted.lease_id,
                prompt_ids=granted.prompt_ids,
                rollout_counts=granted.quotas,
                rewards=rng.integers(0, 2, sum(granted.quotas)).astype(float).tolist(),
                policy_version=version,
            )
        )
    channel.close()


def of_steps(first: Server, second: Server, prompts: int, batch: int, steps: int) -> dict[str, Any]:
    """What one step of a trainer (a batch, a report of 8 rollouts each) takes of processors and of the log.

    The first replica serves the trainer; the second is asked once at the end and folds what it has missed.
    What the log's server receives is nearly all appended; the commands around it and snapshots are in it too.
    Processor time, so that it does not matter who else computes.
    """
    name = f"steps of {batch}"
    latency.add_prompts(first, name, "cures", prompts)
    channel, stub = second.stub()
    stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=name))
    _train(first, name, batch, range(20))  # Loads, and imports what is imported late.
    stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=name))
    log = redis.Redis.from_url(first.redis_url)

    def reading() -> tuple[float, float, float, float]:
        cpu, received = log.info("cpu"), log.info("stats")["total_net_input_bytes"]
        used = cpu["used_cpu_user"] + cpu["used_cpu_sys"]
        return cpu_seconds(first), cpu_seconds(second), float(used), float(received)

    before = reading()
    _train(first, name, batch, range(20, 20 + steps))
    stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=name))
    served, followed, logged, received = np.subtract(reading(), before) / steps
    channel.close()
    return {
        "service_cpu_ms_per_step": round(1e3 * served, 3),
        "following_replica_cpu_ms_per_step": round(1e3 * followed, 3),
        "log_server_cpu_ms_per_step": round(1e3 * logged, 3),
        "log_bytes_per_step": round(received),
    }
