"""What the learner trains on: one sampled completion with its advantage."""

from collections.abc import Iterator, Sequence
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


def micro_batches(samples: Sequence[Sample], max_tokens: int) -> Iterator[list[Sample]]:
    """Splits samples so that each part holds at most `max_tokens` padded tokens (or one sample).

    Rollouts of one prompt stay together where they can: the prompt is read once per part. Prompts
    of equal length go side by side, so that little is padding.
    """
    ordered = sorted(
        samples,
        key=lambda s: (len(s.prompt_token_ids), s.prompt_token_ids, len(s.completion_token_ids)),
    )
    part: list[Sample] = []
    prompts: set[tuple[int, ...]] = set()
    longest_prompt = longest_completion = 0
    for sample in ordered:
        prompt = max(longest_prompt, len(sample.prompt_token_ids))
        completion = max(longest_completion, len(sample.completion_token_ids))
        count = len(prompts | {sample.prompt_token_ids})
        if part and count * prompt + (len(part) + 1) * completion > max_tokens:
            yield part
            part, prompts = [], set()
            prompt, completion = len(sample.prompt_token_ids), len(sample.completion_token_ids)
        part.append(sample)
        prompts.add(sample.prompt_token_ids)
        longest_prompt, longest_completion = prompt, completion
    if part:
        yield part
