"""What a rollout engine takes and gives."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. Temperature 0 is greedy."""

    temperature: float = 1.0
    top_p: float = 1.0
    max_tokens: int = 64
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class RolloutRequest:
    """`n` completions of one prompt."""

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    n: int


@dataclass(frozen=True)
class Completion:
    """One sampled completion.

    `token_ids` include what ended it (eos, or the tokens of a stop string), so that a policy can
    learn to stop; `text` does not. `log_probs` are those of the tokens at the sampling temperature
    over the whole vocabulary, before any top-p cut.
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


class RolloutEngine(Protocol):
    """Samples completions from the present policy."""

    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """One group per request, in the order asked. The same seed and policy give the same tokens."""
        ...

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Samples from `version` from now on.

        `adapter` is a folder with LoRA weights; None where the engine shares the learner's model.
        """
        ...

    def close(self) -> None:
        """Frees what the engine holds."""
        ...


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string in it."""
    ends = [at for at in (text.find(mark) for mark in stop) if at >= 0]
    return text[: min(ends)] if ends else text
