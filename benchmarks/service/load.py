"""Many trainers at once, and one stream of reports."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import grpc
import numpy as np

from benchmarks.service.latency import percentiles
from benchmarks.service.process import OPTIONS, Server
from benchmarks.service.server import FLOOR
from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import curriculum_pb2_grpc


async def trainer(
    stub: Any, curriculum: str, name: str, batch: int, group: int, until: float, step_seconds: float = 0.0
) -> tuple[list[float], int]:
    """Asks and reports until then; seconds each batch took, and how many."""
    rng = np.random.default_rng(abs(hash(name)) % 2**32)
    times: list[float] = []
    done = 0
    await asyncio.sleep(step_seconds * rng.random())
    while time.perf_counter() < until:
        started = time.perf_counter()
        answer = await stub.NextBatch(
            pb.NextBatchRequest(
                curriculum_id=curriculum,
                request_id=f"{name}-n{done}",
                trainer_id=name,
                batch_size=batch,
                rollout_budget=batch * group,
            )
        )
        times.append(time.perf_counter() - started)
        granted = answer.batch
        if step_seconds:
            await asyncio.sleep(step_seconds * rng.uniform(0.5, 1.5))
        await stub.ReportRollouts(
            pb.ReportRolloutsRequest(
                curriculum_id=curriculum,
                request_id=f"{name}-r{done}",
                lease_id=granted.lease_id,
                prompt_ids=granted.prompt_ids,
                rollout_counts=granted.quotas,
                rewards=rng.integers(0, 2, sum(granted.quotas)).astype(float).tolist(),
            )
        )
        done += 1
    return times, done


def trainers(
    server: Server,
    curriculum: str,
    count: int,
    seconds: float,
    batch: int = 64,
    run_name: str = "",
    step_seconds: float = 0.0,
) -> dict[str, Any]:
    """`count` trainers in one client process; no error allowed. Runs on one curriculum need different names.

    Args:
        step_seconds: what rolling out and training take a trainer on average, between its batch and its report;
            0 asks for as much as the service can do.
    """
    run_name = f"{run_name}{count}-{step_seconds}"

    async def run(asked: str, seconds: float) -> dict[str, Any]:
        async with grpc.aio.insecure_channel(server.address, options=OPTIONS) as channel:
            stub = curriculum_pb2_grpc.CurriculumServiceStub(channel)
            alone, _ = await trainer(
                stub,
                asked,
                f"{run_name}-alone",
                batch,
                8,
                time.perf_counter() + seconds / 3,
                step_seconds / 8,
            )
            until = time.perf_counter() + seconds
            results = await asyncio.gather(
                *(
                    trainer(stub, asked, f"{run_name}-{i}", batch, 8, until, step_seconds)
                    for i in range(count)
                )
            )
        done = [steps for _, steps in results]
        one, many = percentiles(alone), percentiles([t for times, _ in results for t in times])
        return {
            "alone": one,
            "together": many,
            "p99_over_alone_p50": round(many["p99_ms"] / one["p50_ms"], 1),
            "steps_per_second": round(sum(done) / seconds, 1),
            "most_over_least_steps": round(max(done) / max(min(done), 1), 2),
        }

    measured = asyncio.run(run(curriculum, seconds))
    # The same calls answered by doing nothing: what gRPC, one core and this client make of so many.
    floor = asyncio.run(run(FLOOR, seconds / 2))
    return {
        "trainers": count,
        "step_seconds": step_seconds,
        **measured,
        "floor": floor,
        "p99_over_floor_p99": round(measured["together"]["p99_ms"] / floor["together"]["p99_ms"], 2),
    }


def stream(
    server: Server, curriculum: str, messages: int, prompts: int = 512, group: int = 8
) -> dict[str, Any]:
    """Reports outside any lease on one StreamRollouts, answered in order."""
    rng = np.random.default_rng(0)
    requests = []
    for number in range(messages):
        first = number * prompts % (100_000 - prompts)
        requests.append(
            pb.ReportRolloutsRequest(
                curriculum_id=curriculum,
                request_id=f"stream-{number}",
                prompt_ids=[f"prompt-{i:09d}" for i in range(first, first + prompts)],
                rollout_counts=[group] * prompts,
                rewards=rng.integers(0, 2, prompts * group).astype(float).tolist(),
                policy_version=2**20,
            )
        )

    async def run() -> float:
        async with grpc.aio.insecure_channel(server.address, options=OPTIONS) as channel:
            stub = curriculum_pb2_grpc.CurriculumServiceStub(channel)
            started = time.perf_counter()
            accepted = 0
            async for answer in stub.StreamRollouts(iter(requests)):
                accepted += answer.accepted
            seconds = time.perf_counter() - started
        if accepted != messages * prompts * group:
            raise RuntimeError(f"{accepted} rewards were accepted of {messages * prompts * group}")
        return seconds

    seconds = asyncio.run(run())
    return {
        "messages": messages,
        "rewards": messages * prompts * group,
        "rewards_per_second": round(messages * prompts * group / seconds),
    }
