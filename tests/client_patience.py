"""Calls of the client that are meant to fail, with as short a deadline as leaves time for the reason."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from trainer_client.exceptions import CurriculumError, DeadlineError

_SHORTEST_SECONDS = 0.5
_LONGEST_SECONDS = 60.0


def why_not(call: Callable[[float], object]) -> CurriculumError:
    """The error of `call(timeout_seconds)`. If time runs out before anything was heard, it is given more of it."""
    seconds = _SHORTEST_SECONDS
    while True:
        with pytest.raises(CurriculumError) as caught:
            call(seconds)
        if not isinstance(caught.value, DeadlineError) or seconds >= _LONGEST_SECONDS:
            return caught.value
        seconds *= 4


async def why_not_async(call: Callable[[float], Awaitable[object]]) -> CurriculumError:
    """`why_not` for the asyncio client."""
    seconds = _SHORTEST_SECONDS
    while True:
        with pytest.raises(CurriculumError) as caught:
            await call(seconds)
        if not isinstance(caught.value, DeadlineError) or seconds >= _LONGEST_SECONDS:
            return caught.value
        seconds *= 4
