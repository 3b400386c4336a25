"""Memory that the allocator keeps although nobody uses it, given back to the system."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
from collections.abc import Callable

__all__ = ["give_back_memory", "return_memory_early"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_COLUMN_BYTES = 256 * 1024
# Intermediate results of weighing a pool are made and freed together: a heap that gives them back each time pays
# for fresh pages with three quarters of its time.
_KEPT_BYTES = 4 * 1024 * 1024


def return_memory_early() -> None:
    """Makes freed columns go back to the system at once; for the start of a process. glibc only.

    Left to itself, glibc raises these limits with the largest block ever freed, and the service then holds about
    90 bytes per prompt more than it uses. What a thread keeps for its next small arrays is bounded, but not nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _COLUMN_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


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
