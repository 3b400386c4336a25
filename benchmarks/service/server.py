"""The service in a process of its own, with a floor: RPCs that answer a fixed message and do nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import sys
from contextlib import AsyncExitStack

import structlog
from prometheus_client import CollectorRegistry

from benchmarks.service.loop_watch import LoopWatch
from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.log import EmbeddedServer, LogClient, RedisSettings
from sampler_service.replica import ReplicaHost, ReplicaSettings
from sampler_service.replica.allocator import return_memory_early
from sampler_service.rpc.limits import RpcSettings
from sampler_service.rpc.listener import RpcServer

FLOOR = "floor"


class HostWithFloor(ReplicaHost):
    """For the curriculum `floor`, NextBatch and ReportRollouts repeat the last real reply."""

    _batch = pb.NextBatchResponse()
    _report = pb.ReportRolloutsResponse()

    async def next_batch(self, request: pb.NextBatchRequest) -> pb.NextBatchResponse:
        if request.curriculum_id == FLOOR:
            return self._batch
        self._batch = await super().next_batch(request)
        return self._batch

    async def report_rollouts(self, request: pb.ReportRolloutsRequest) -> pb.ReportRolloutsResponse:
        if request.curriculum_id == FLOOR:
            return self._report
        self._report = await super().report_rollouts(request)
        return self._report


async def serve(where: str) -> None:
    """With an embedded log in the folder `where`, or on the log at that URL."""
    # As the service does by default: nothing below warnings, and never into the pipe that nobody reads.
    return_memory_early()
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    async with AsyncExitStack() as stack:
        url = where
        if "://" not in where:
            url = (await stack.enter_async_context(EmbeddedServer(where))).url
        client = await stack.enter_async_context(LogClient(RedisSettings(url=url)))
        host = HostWithFloor(client, ReplicaSettings())
        await host.start()
        server = await RpcServer.start(host, RpcSettings(), CollectorRegistry())
        watch = LoopWatch()
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: print(json.dumps(watch.take()), flush=True))
        stop = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, stop.set)
        gc.collect()
        gc.freeze()  # As the service does.
        print(f"ready grpc={server.address} redis={url}", flush=True)
        await stop.wait()
        watch.stop()
        await server.drain(5.0)
        await host.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
