"""Many trainers with long steps, a connection each, on one process."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import grpc

from benchmarks.growth.measures import cpu_seconds
from benchmarks.service import latency
from benchmarks.service.load import trainer
from benchmarks.service.process import OPTIONS, Server
from curriculum.v1 import curriculum_pb2_grpc

__all__ = ["of_connections"]

# Those of one process would share a connection else.
_OWN: Final = [*OPTIONS, ("grpc.use_local_subchannel_pool", 1)]
_BATCH: Final = 512
_GROUP: Final = 8
_STEP_SECONDS: Final = 30.0


def of_connections(server: Server, count: int, prompts: int, seconds: float) -> dict[str, Any]:
    """Memory per connection, and what a batch takes when `count` trainers ask every half minute each."""
    latency.add_prompts(server, "connections", "cures", prompts)

    async def load() -> tuple[int, float, list[tuple[list[float], int]]]:
        channels = [grpc.aio.insecure_channel(server.address, options=_OWN) for _ in range(count + 1)]
        stubs = [curriculum_pb2_grpc.CurriculumServiceStub(channel) for channel in channels]
        # The pool is weighed, and what is imported late is there.
        await trainer(stubs[-1], "connections", "warm", _BATCH, _GROUP, time.perf_counter() + 0.5)
        before = server.resident_bytes()
        for channel in channels:
            await channel.channel_ready()
        connected = server.resident_bytes() - before
        used, until = cpu_seconds(server), time.perf_counter() + seconds
        results = await asyncio.gather(
            *(
                trainer(stub, "connections", f"t{i}", _BATCH, _GROUP, until, _STEP_SECONDS)
                for i, stub in enumerate(stubs[:count])
            )
        )
        used = cpu_seconds(server) - used
        for channel in channels:
            await channel.close()
        return connected, used, results

    connected, used, results = asyncio.run(load())
    steps = sum(done for _, done in results)
    return {
        "connections": count,
        "step_seconds": _STEP_SECONDS,
        "resident_kb_per_connection": round(connected / count / 1024, 1),
        "steps": steps,
        "batch": latency.percentiles([one for times, _ in results for one in times]),
        "service_cpu_ms_per_step": round(1e3 * used / steps, 2),
    }
