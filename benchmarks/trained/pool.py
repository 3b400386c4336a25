"""The study's pool: kinds of tasks, and how the policy that training starts from goes wrong in them.

A model of this size has no pretraining to draw on. So it is first taught to calculate and then taught bad
habits: in each kind it does the right thing with some probability, which differs from prompt to prompt, and
otherwise slips in one way or another. That is what reinforcement learning on a language model mostly finds:
answers that are within reach but not yet likely. Some kinds it was never taught: they stay impossible.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from trainer_client.tasks.arithmetic import arithmetic_pool
from trainer_client.tasks.protocol import Pool, TaskPrompt, merge_pools, split_pool, stable_id
from trainer_client.tasks.verifiers import exact_match

__all__ = ["COIN", "HABITS", "Habit", "habit_text", "skill_text", "study_pool"]


# A slip: what is said instead, given the answer and the question's numbers.
Slip = Callable[[str, list[int]], str]


def _padded(answer: str, _: list[int]) -> str:
    return "=" + answer


def _off(answer: str, _: list[int]) -> str:
    return str(int(answer) + 1)


def _smaller(_: str, numbers: list[int]) -> str:
    return str(min(numbers))


def _sum(_: str, numbers: list[int]) -> str:
    return str(sum(numbers))


@dataclass(frozen=True)
class Habit:
    """What the starting policy does in one kind."""

    share: float
    """Of the examples it is taught with."""
    right: float
    """How often it is right, at the middle of the kind."""
    slip: Slip = _padded
    """What it says otherwise."""


HABITS: Final[Mapping[str, Habit]] = {
    # Mastered.
    "copy-3": Habit(0.08, 0.98),
    "next-2": Habit(0.08, 0.95),
    # Within reach; a slip that two kinds share is unlearnt in both at once.
    "max-2": Habit(0.14, 0.5, _smaller),
    "add-1": Habit(0.08, 0.3, _off),
    "sub-1": Habit(0.08, 0.2, _padded),
    "mul-1": Habit(0.08, 0.3, _sum),
    # Hard.
    "add-2": Habit(0.22, 0.05, _padded),
    "sub-2": Habit(0.22, 0.03, _off),
}
MASTERED: Final = ("copy-3", "next-2")
WITHIN_REACH: Final = tuple(kind for kind in HABITS if kind not in MASTERED)
IMPOSSIBLE: Final = ("mul-2", "mul-3", "add-3", "sub-3")
COIN: Final = "coin"
"""A question whose answer is a fair coin, fixed per prompt: its rewards vary most and teach nothing."""

_COIN_SHARE: Final = 0.04
_HELD_OUT_SHARE: Final = 0.25
# Logits by which the chance of being right differs between the ends of a kind and its middle.
_SPREAD: Final = 2.0


def study_pool(coins: int = 100) -> Pool:
    """The same prompts in every run. `coins` 0 leaves the trap out."""
    pools = [
        arithmetic_pool(kinds, count, shots=0, held_out_share=_HELD_OUT_SHARE)
        for kinds, count in ((MASTERED, 300), (WITHIN_REACH, 150), (IMPOSSIBLE, 200))
    ]
    if coins:
        pools.append(split_pool(_coin_prompts(coins), _HELD_OUT_SHARE, stop=("\n",)))
    return merge_pools(pools)


def skill_text(rng: np.random.Generator) -> tuple[str, str]:
    """A question and its right answer; coins are thrown anew each time."""
    return _example(rng)[:2]


def habit_text(rng: np.random.Generator) -> tuple[str, str]:
    """A question and what the starting policy says to it."""
    question, answer, habit = _example(rng)
    if habit is None or rng.random() < _chance_of_right(habit, question):
        return question, answer
    return question, habit.slip(answer, _numbers(question))


def _example(rng: np.random.Generator) -> tuple[str, str, Habit | None]:
    kinds = [*HABITS, COIN]
    shares = np.array([*(habit.share for habit in HABITS.values()), _COIN_SHARE])
    kind = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
    if kind == COIN:
        return _coin_question(int(rng.integers(1000))), str(int(rng.integers(2))), None
    pool = arithmetic_pool((kind,), 1, shots=0, seed=int(rng.integers(2**31)), held_out_share=0.0)
    return pool.train[0].text, pool.train[0].answer, HABITS[kind]


def _chance_of_right(habit: Habit, question: str) -> float:
    """Rises with the last digit of the question's first number."""
    digit = _numbers(question)[0] % 10
    logit = math.log(habit.right / (1.0 - habit.right)) + _SPREAD * (digit - 4.5) / 4.5
    return 1.0 / (1.0 + math.exp(-logit))


def _numbers(question: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", question)]


def _coin_question(number: int) -> str:
    return f"coin {number} "


def _coin_prompts(count: int) -> list[TaskPrompt]:
    prompts = []
    for number in range(count):
        question = _coin_question(number)
        answer = str(hashlib.blake2b(question.encode(), digest_size=1).digest()[0] & 1)
        prompts.append(TaskPrompt(stable_id(COIN, question), question, answer, exact_match, COIN))
    return prompts
