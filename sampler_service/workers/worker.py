"""The worker process: `python -m sampler_service.workers.worker`, started by the supervisor only."""

from __future__ import annotations

import asyncio
import sys

import structlog

from sampler_service.logs import configure_logging
from sampler_service.server import Service, serve
from sampler_service.workers.assignment import Assignment, parent_gone
from sampler_service.workers.heartbeat import give_signs

__all__ = ["main"]


def main() -> int:
    """Serves until SIGTERM or the parent's end; the exit status."""
    assignment = Assignment.read()
    config, place = assignment.config, assignment.place
    configure_logging(config.log_level, config.log_format)
    structlog.contextvars.bind_contextvars(worker=place.number)
    return asyncio.run(_serve(Service(config, place)))


async def _serve(service: Service) -> int:
    longest = service.config.worker_silence_seconds
    # Until the process ends: one that hangs while it drains or closes is silent, too.
    signs = asyncio.create_task(give_signs(longest), name="signs of life") if longest else None
    try:
        return await serve(service, also_until=parent_gone(), say=_say)
    finally:
        if signs is not None:
            signs.cancel()


def _say(service: Service) -> None:
    """For the parent: the line for programs, nothing for people."""
    print(service.ready_line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
