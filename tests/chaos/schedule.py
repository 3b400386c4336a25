"""Which fault comes when: drawn once, from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from tests.faulty_wire import Fault

HOSTS: Final = 2
WORKERS: Final = 2
"""Of each host."""

_WEIGHTS: Final = {
    "kill a worker": 3,
    "stop a worker": 3,
    "kill a host": 1,
    "end a host": 1,
    "kill a trainer": 4,
    "stop a trainer": 3,
    "kill the log": 2,
    "end the log": 1,
    "freeze the log": 2,
    "cut a host's wire": 3,
    "fault on a host's wire": 6,
}


@dataclass(frozen=True, slots=True)
class Action:
    """One fault."""

    at_seconds: float
    what: str
    host: int
    worker: int
    trainer: int
    seconds: float
    """Until what was stopped goes on, or is started again."""
    fault: Fault
    chunks_before: int


def schedule(seed: int, seconds: float, trainers: int) -> list[Action]:
    """Every kind of fault at least once, in an order, at times and on victims that follow from the seed."""
    chance = random.Random(seed)
    count = max(len(_WEIGHTS), round(seconds / 0.8))
    kinds = list(_WEIGHTS)
    kinds += chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()), k=count - len(kinds))
    chance.shuffle(kinds)
    return [
        Action(
            at_seconds=at,
            what=what,
            host=chance.randrange(HOSTS),
            worker=chance.randrange(WORKERS),
            trainer=chance.randrange(trainers),
            seconds=chance.choice([0.2, 0.5, 1.0, 2.0, 4.0]),
            fault=chance.choice(list(Fault)),
            chunks_before=chance.randrange(12),
        )
        for at, what in zip(sorted(chance.uniform(0, seconds) for _ in kinds), kinds, strict=True)
    ]
