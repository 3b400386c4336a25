"""How much of what the learner reads is padding, at lengths as they come in training."""

from __future__ import annotations

from typing import Any

import numpy as np

from trainer_client.learner.samples import Sample, micro_batches, padded_tokens


def padding(micro_batch_tokens: int = 16_384, prompts: int = 256, group: int = 8) -> dict[str, Any]:
    """Tokens read by sorted, shared-prompt micro-batches and by a plain batch, over tokens that count.

    Prompts of 50 to 300 tokens, completions log-normal around 300 (sigma .8), cut at 2,048.
    """
    rng = np.random.default_rng(0)
    samples = []
    for prompt in range(prompts):
        head = (prompt, *range(int(rng.integers(50, 300))))
        lengths = np.minimum(rng.lognormal(np.log(300), 0.8, group), 2048).astype(int).tolist()
        samples += [Sample(f"p{prompt}", head, tuple(range(n)), (0.0,) * n, 1.0) for n in lengths]
    parts = micro_batches(samples, micro_batch_tokens)
    completions = sum(len(sample.completion_token_ids) for sample in samples)
    heads = {sample.prompt_token_ids for sample in samples}
    read = sum(padded_tokens(part) for part in parts)
    longest = max(len(s.prompt_token_ids) for s in samples) + max(
        len(s.completion_token_ids) for s in samples
    )
    apart = sum(len(sample.prompt_token_ids) for sample in samples) + completions
    return {
        "micro_batch_tokens": micro_batch_tokens,
        "micro_batches": len(parts),
        "useful_share_of_tokens_read": round((sum(len(head) for head in heads) + completions) / read, 3),
        "useful_share_of_one_padded_batch": round(apart / (len(samples) * longest), 3),
        "tokens_read_over_one_padded_batch": round(read / (len(samples) * longest), 3),
    }
