"""`serve --workers N`: equal replica processes on one log, started and watched by a parent."""

from sampler_service.workers.supervisor import run

__all__ = ["run"]
