"""Memory that the allocator keeps although nobody uses it, given back to the system."""

from __future__ import annotations

import asyncio
import ctypes
import functools
from collections.abc import Callable

__all__ = ["give_back_memory"]


async def give_back_memory() -> None:
    """After a large import or stream of prompts. glibc only; elsewhere nothing happens.

    What streams through in pieces leaves holes all over the heap, which glibc does not return by itself: half
    a gigabyte after a million prompts. Takes some milliseconds, in a thread.
    """
    trim = _trimmer()
    if trim is not None:
        await asyncio.to_thread(trim, 0)


@functools.cache
def _trimmer() -> Callable[[int], int] | None:
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim
