"""What the C library's heap keeps for itself."""

from __future__ import annotations

import contextlib
import ctypes

__all__ = ["return_memory_early"]

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_BYTES = 256 * 1024


def return_memory_early() -> None:
    """Makes freed columns and messages go back to the system at once. Without effect where there is no glibc.

    Left to itself, glibc raises these limits with the largest block ever freed, and the service then holds about
    90 bytes per prompt more than it uses.
    """
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _BYTES)
        mallopt(_M_TRIM_THRESHOLD, _BYTES)
