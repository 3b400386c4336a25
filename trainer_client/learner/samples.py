"""What the learner trains on: one sampled completion with its advantage."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One rollout to train on.

    behaviour_log_probs: per completion token, from the engine that sampled it.
    replayed: made by an earlier policy and trained on before.
    """

    prompt_id: str
    prompt_token_ids: tuple[int, ...]
    completion_token_ids: tuple[int, ...]
    behaviour_log_probs: tuple[float, ...]
    advantage: float
    replayed: bool = False


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Splits samples so that each part holds at most `max_tokens` padded tokens (or one sample).

    Either rollouts of one prompt stay together, so that it is read once per part, or completions of
    equal length go side by side, so that little is padding: whichever reads fewer tokens in all.
    """
    layouts = [_parts(sorted(samples, key=order), max_tokens) for order in (_by_prompt, _by_length)]
    return min(layouts, key=lambda parts: sum(padded_tokens(part) for part in parts))


def padded_tokens(part: Sequence[Sample]) -> int:
    """Tokens that are read for a part: its distinct prompts and its completions, padding included."""
    prompts = {sample.prompt_token_ids for sample in part}
    longest = max(len(sample.completion_token_ids) for sample in part)
    return len(prompts) * max(len(prompt) for prompt in prompts) + len(part) * longest


def _by_prompt(sample: Sample) -> tuple[int, tuple[int, ...], int]:
    return len(sample.prompt_token_ids), sample.prompt_token_ids, len(sample.completion_token_ids)


def _by_length(sample: Sample) -> tuple[int, int, tuple[int, ...]]:
    return len(sample.completion_token_ids), len(sample.prompt_token_ids), sample.prompt_token_ids


def _parts(ordered: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    parts: list[list[Sample]] = []
    part: list[Sample] = []
    prompts: set[tuple[int, ...]] = set()
    longest_prompt = longest_completion = 0
    for sample in ordered:
        prompt = max(longest_prompt, len(sample.prompt_token_ids))
        completion = max(longest_completion, len(sample.completion_token_ids))
        count = len(prompts) + (sample.prompt_token_ids not in prompts)
        if part and count * prompt + (len(part) + 1) * completion > max_tokens:
            parts.append(part)
            part, prompts = [], set()
            prompt, completion = len(sample.prompt_token_ids), len(sample.completion_token_ids)
        part.append(sample)
        prompts.add(sample.prompt_token_ids)
        longest_prompt, longest_completion = prompt, completion
    if part:
        parts.append(part)
    return parts
