"""What an engine is asked in these tests, and how far what it says of its tokens is from what the learner says."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.samples import Sample
from trainer_client.rollouts import RolloutGroup, RolloutRequest

QUESTIONS = ["7+5=", "6*2=12\n7+5=", "3*3=9\n2+2=4\n8-1=", "The capital of France is"]
# Long enough to fill blocks of the prefix cache, which is what an adapter must not find again.
SHOTS = "".join(f"{a}+{b}={a + b}\n" for a in range(1, 5) for b in range(1, 7))


def asked(tokenizer: Any, *counts: int) -> list[RolloutRequest]:
    return [
        RolloutRequest(f"p{index}", tuple(tokenizer(SHOTS + text)["input_ids"]), count)
        for index, (text, count) in enumerate(zip(QUESTIONS, counts, strict=False))
    ]


def moved(model: Any, seed: int, scale: float = 0.02) -> None:
    """Puts the adapters somewhere else."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def samples_of(groups: list[RolloutGroup]) -> list[Sample]:
    return [
        Sample(group.prompt_id, group.prompt_token_ids, c.token_ids, c.log_probs, 1.0)
        for group in groups
        for c in group.completions
    ]


def gaps(model: Any, groups: list[RolloutGroup], temperature: float = 1.0) -> np.ndarray:
    """How far the engine's log-probs of its tokens are from the learner's, per token."""
    model.eval()
    policy = Policy(model, UpdateSettings(temperature=temperature))
    samples = samples_of(groups)
    with torch.no_grad():
        expected = policy.log_probs(samples).log_probs.numpy()
    found = []
    for sample, row in zip(samples, expected, strict=True):
        behaviour = np.array(sample.behaviour_log_probs)
        found.append(np.abs(behaviour - row[: len(behaviour)]))
    return np.concatenate(found)
