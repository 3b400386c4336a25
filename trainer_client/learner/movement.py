"""What an update is measured by: some samples, and their log-probabilities before it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from trainer_client.learner.samples import Sample


@dataclass(frozen=True)
class Probe:
    """Micro-batches with their token log-probs [R, T] when the probe was made."""

    parts: tuple[tuple[Sequence[Sample], Tensor], ...]


def probe_samples(samples: Sequence[Sample], max_prompts: int, max_per_prompt: int) -> list[Sample]:
    """A few completions of a few prompts, spread over the batch."""
    groups: dict[str, list[Sample]] = {}
    for sample in samples:
        # A replayed one has the log-probs of a policy from long before.
        if sample.completion_token_ids and not sample.replayed:
            groups.setdefault(sample.prompt_id, []).append(sample)
    spread = list(groups.values())[:: max(1, math.ceil(len(groups) / max_prompts))]
    return [sample for group in spread for sample in group[:max_per_prompt]]
