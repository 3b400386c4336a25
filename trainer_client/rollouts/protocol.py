"""What a rollout engine takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class RolloutRequest:
    """`n` completions of one prompt.

    first: place of the first one among all that this prompt gets under one seed. A continuation goes
    on where the last request ended, so that it repeats no random numbers.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    n: int
    first: int = 0


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    `token_ids` include what ended it (eos, or the tokens of a stop string), so that a policy can
    learn to stop; `text` does not. `log_probs` are those of the tokens at the sampling temperature
    over the whole vocabulary, before any top-p cut (vLLM at a temperature other than 1: after it).
    `finish_reason`: `length` where `max_tokens` cut it, `error` where the engine gave it up.
    """

    token_ids: tuple[int, ...]
    log_probs: tuple[float, ...]
    text: str
    finish_reason: FinishReason


@dataclass(frozen=True)
class RolloutGroup:
    """The completions of one request, in the order sampled."""

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    completions: tuple[Completion, ...]


class RolloutSession(Protocol):
    """Requests in flight on an engine. Requests may be added while others are still being sampled.

    A context: leaving it gives up what is still in flight.
    """

    def submit(self, requests: Sequence[RolloutRequest]) -> None:
        """Adds requests; returns at once."""
        ...

    def finished(self, wait_seconds: float | None = None) -> list[RolloutGroup]:
        """The groups done since the last call; waits for at least one. Empty: nothing is in flight.

        wait_seconds: how long to wait, by engines that can sample on meanwhile; then empty says nothing.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RolloutEngine(Protocol):
    """Samples completions from the present policy."""

    def session(self, sampling: SamplingParams, seed: int) -> RolloutSession:
        """Samples request by request; one session at a time."""
        ...

    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """One group per request, in the order asked. The same seed and policy give the same tokens,
        as far as the engine's arithmetic does not depend on what shares a batch."""
        ...

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Samples from `version` from now on.

        `adapter` is a folder with LoRA weights (transformers: or all weights); None where the engine
        shares the learner's model.
        """
        ...

    def rest(self) -> None:
        """Gives memory back until the next request, where the engine was set up to do so."""
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
        ...


def in_one_session(
    engine: RolloutEngine, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
) -> list[RolloutGroup]:
    """`generate` for engines whose requests end each in its own time: one group per request, in the order asked."""
    groups: dict[str, RolloutGroup] = {}
    with engine.session(sampling, seed) as session:
        session.submit(requests)
        while news := session.finished():
            groups.update({group.prompt_id: group for group in news})
    return [groups[request.prompt_id] for request in requests]


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    ends = [at for at in (text.find(mark) for mark in stop) if at >= 0]
    return text[: min(ends)] if ends else text
