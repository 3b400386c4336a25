"""What a parent tells a worker, over the worker's standard input: no secret in arguments or environment."""

from __future__ import annotations

import asyncio
import os
import pickle
import struct
import sys
from dataclasses import dataclass

from sampler_service.config import ServiceConfig
from sampler_service.server import WorkerPlace

__all__ = ["Assignment", "parent_gone"]


@dataclass(frozen=True, slots=True)
class Assignment:
    """One worker's configuration and its place among the others.

    Pickled: it passes from a parent to its own child only, and must carry secrets that JSON would mask.
    """

    config: ServiceConfig
    place: WorkerPlace

    def to_bytes(self) -> bytes:
        """For the worker's standard input."""
        payload = pickle.dumps(self)
        return struct.pack("!Q", len(payload)) + payload

    @classmethod
    def read(cls) -> Assignment:
        """From our standard input; it stays open until the parent ends."""
        (size,) = struct.unpack("!Q", sys.stdin.buffer.read(8))
        assignment = pickle.loads(sys.stdin.buffer.read(size))
        if not isinstance(assignment, cls):
            raise TypeError(f"the parent sent a {type(assignment).__name__}, not an assignment")
        return assignment


async def parent_gone() -> None:
    """Returns when the parent has ended, however it did: the kernel then closes our standard input."""
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    descriptor = sys.stdin.fileno()

    def on_readable() -> None:
        if not os.read(descriptor, 4096):
            gone.set()

    loop.add_reader(descriptor, on_readable)
    try:
        await gone.wait()
    finally:
        loop.remove_reader(descriptor)
