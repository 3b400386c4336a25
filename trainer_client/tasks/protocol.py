"""Prompts, pools of them, and the verifier protocol."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainer_client.trainer_errors import DataError


class VerifierError(Exception):
    """The verifier failed or took too long: says nothing about the completion."""


class Verifier(Protocol):
    """Turns a completion into a reward."""

    def __call__(self, completion: str, answer: str) -> float:
        """Reward, by convention in [0, 1]; raises VerifierError where it cannot tell."""
        ...


# Role (system, user, assistant) and content.
Message = tuple[str, str]


@dataclass(frozen=True)
class TaskPrompt:
    """One prompt with what is needed to judge its completions.

    text: what the model reads, but for the chat template; messages: a conversation instead of it.
    features: named numbers that may say something about its difficulty.
    reference_pass_rate, anchor_pass_rates: what reference models made of it, where that is known.
    """

    prompt_id: str
    text: str
    answer: str
    verifier: Verifier
    cluster: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    system_prompt: str = ""
    reference_pass_rate: float | None = None
    anchor_pass_rates: tuple[float, float] | None = None

    def reward(self, completion: str) -> float:
        """Reward of a completion; raises VerifierError where the verifier fails."""
        return self.verifier(completion, self.answer)


@dataclass(frozen=True)
class Pool:
    """Prompts to train on and prompts held out, disjoint, with what ends a completion."""

    train: tuple[TaskPrompt, ...]
    held_out: tuple[TaskPrompt, ...]
    stop: tuple[str, ...] = ()

    def embeddings(self) -> NDArray[np.float32]:
        """Features of the training prompts as one matrix [N, D]; columns in name order, absent = 0.

        D is 0 when no prompt has features. Columns are scaled to a largest magnitude of 1.
        """
        names = sorted({name for prompt in self.train for name in prompt.features})
        matrix = np.array(
            [[prompt.features.get(name, 0.0) for name in names] for prompt in self.train], dtype=np.float32
        ).reshape(len(self.train), len(names))
        scale: NDArray[np.float32] = np.abs(matrix).max(axis=0, initial=0.0)
        scale[scale == 0] = 1
        return (matrix / scale).astype(np.float32)


def stable_id(prefix: str, text: str) -> str:
    """An id that depends on the text alone: the same prompt has the same id in every run."""
    digest = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    return f"{prefix}/{digest}" if prefix else digest


def is_held_out(prompt_id: str, share: float) -> bool:
    """Whether a prompt belongs to the held-out split: decided by its id, so it never changes sides."""
    digest = hashlib.blake2b(prompt_id.encode(), digest_size=8, person=b"held-out").digest()
    return int.from_bytes(digest, "big") < share * 2.0**64


def split_pool(prompts: Iterable[TaskPrompt], held_out_share: float, stop: Sequence[str] = ()) -> Pool:
    """Splits by id; a prompt that occurs twice is kept once.

    Raises DataError when none is left to train on.
    """
    unique = {prompt.prompt_id: prompt for prompt in prompts}
    train = tuple(p for p in unique.values() if not is_held_out(p.prompt_id, held_out_share))
    if not train:
        raise DataError(
            f"tasks: no prompt to train on out of {len(unique)}; "
            f"give more prompts or a smaller held_out_share (now {held_out_share})"
        )
    held_out = tuple(p for p in unique.values() if is_held_out(p.prompt_id, held_out_share))
    return Pool(train, held_out, tuple(stop))


def given_pool(train: Sequence[TaskPrompt], held_out: Sequence[TaskPrompt], stop: Sequence[str] = ()) -> Pool:
    """A pool whose held-out prompts were given apart; one that is in both is a DataError."""
    texts = {(prompt.text, prompt.messages) for prompt in train}
    both = [prompt.prompt_id for prompt in held_out if (prompt.text, prompt.messages) in texts]
    if both:
        raise DataError(
            f"tasks: {len(both)} prompt(s) are both trained on and held out, for instance {both[0]!r}; remove them"
        )
    same = {prompt.prompt_id for prompt in train} & {prompt.prompt_id for prompt in held_out}
    if same:
        raise DataError(
            f"tasks: id {min(same)!r} is given to a prompt to train on and to another that is held out; "
            "set id_column: null where the ids merely count the rows of each file"
        )
    return Pool(tuple(train), tuple(held_out), tuple(stop))


def merge_pools(pools: Sequence[Pool]) -> Pool:
    """One pool out of several; an id in two of them is a DataError, so is a different stop."""
    stops = {pool.stop for pool in pools}
    if len(stops) > 1:
        raise DataError(f"tasks: all tasks of a pool must end on the same stop strings, got {sorted(stops)}")
    train = tuple(prompt for pool in pools for prompt in pool.train)
    held_out = tuple(prompt for pool in pools for prompt in pool.held_out)
    seen: set[str] = set()
    for prompt in train + held_out:
        if prompt.prompt_id in seen:
            raise DataError(f"tasks: prompt id {prompt.prompt_id!r} occurs in two tasks; give them names")
        seen.add(prompt.prompt_id)
    return Pool(train, held_out, next(iter(stops), ()))
