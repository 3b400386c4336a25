"""The standard health service: NOT_SERVING until the log can be reached, while lagging, and while draining."""

from __future__ import annotations

import asyncio

import structlog
from grpc_health.v1 import health_pb2
from grpc_health.v1._async import HealthServicer

from curriculum.v1 import curriculum_pb2
from sampler_service.replica import ReplicaHost

__all__ = ["SERVICE_NAME", "HealthWatcher"]

SERVICE_NAME = curriculum_pb2.DESCRIPTOR.services_by_name["CurriculumService"].full_name

_log = structlog.get_logger(__name__)


class HealthWatcher:
    """Asks the host again and again, and tells the health service."""

    def __init__(self, host: ReplicaHost) -> None:
        self.servicer = HealthServicer()
        self._host = host
        self._interval_seconds = host.readiness_interval_seconds
        self._task: asyncio.Task[None] | None = None
        self._said: bool | None = None

    async def start(self) -> None:
        """Looks once, then goes on in the background."""
        await self._say(False)
        await self._look()
        self._task = asyncio.create_task(self._keep_looking(), name="health")

    async def drain(self) -> None:
        """NOT_SERVING for good."""
        await self.stop()
        await self.servicer.enter_graceful_shutdown()

    async def stop(self) -> None:
        """Looks no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self._task = None

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._interval_seconds)
            await self._look()

    async def _look(self) -> None:
        try:
            ready, detail = await self._host.ready()
        except Exception:
            # This task has no caller; whatever is wrong, the service is not ready.
            _log.exception("asking for readiness failed")
            ready, detail = False, "asking for readiness failed"
        if ready != self._said:
            if self._said is not None:
                _log.info("ready" if ready else "not ready", detail=detail)
            await self._say(ready)
            self._said = ready

    async def _say(self, ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE_NAME):
            await self.servicer.set(name, status)
