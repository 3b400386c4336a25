"""Signs of life: a worker's event loop writes them to its parent, which ends a worker that is silent for too long.

A process that has ended is noticed by the kernel. One that is there and does nothing, because its event loop is
blocked or somebody has stopped it, keeps its share of the connections and answers none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final

__all__ = ["SIGN", "Silence", "give_signs"]

SIGN: Final = b"alive\n"
_LOOKS: Final = 10
"""Of the parent, within the longest silence; as often a worker says that it lives, or once a second."""
_LONGEST_START_SECONDS: Final = 120.0
"""Importing everything, on a machine where everybody starts at once."""
_STANDARD_OUTPUT: Final = 1


class Silence:
    """For how long a worker has said nothing, counted in looks of its parent and not by a clock.

    A parent that was stopped itself, with all its workers or alone, has not looked meanwhile: it finds nobody
    guilty of its own silence.

    Args:
        longest_seconds: more than this is too long.
        start_seconds: allowed on top before the first sign.
    """

    def __init__(self, longest_seconds: float, start_seconds: float = _LONGEST_START_SECONDS) -> None:
        self.look_seconds = longest_seconds / _LOOKS
        """How often the parent looks."""
        self._looks_left = _LOOKS + round(start_seconds / self.look_seconds)

    def broken(self) -> None:
        """A sign of life came."""
        self._looks_left = _LOOKS

    def looked(self) -> bool:
        """The parent looks, `look_seconds` after the last time; whether the silence is too long."""
        self._looks_left -= 1
        return self._looks_left < 0


async def give_signs(longest_seconds: float) -> None:
    """Writes signs of life to the standard output, for ever, as often as `Silence(longest_seconds)` needs them."""
    os.set_blocking(_STANDARD_OUTPUT, False)
    while True:
        # A parent that does not read has a full pipe, one that is gone none: neither must block or end us here.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(_STANDARD_OUTPUT, SIGN)
        await asyncio.sleep(min(1.0, longest_seconds / _LOOKS))
