"""Rollout engines: where completions are sampled. One protocol, a module per engine."""

from trainer_client.rollouts.protocol import (
    Completion,
    RolloutEngine,
    RolloutGroup,
    RolloutRequest,
    RolloutSession,
    SamplingParams,
)

__all__ = [
    "Completion",
    "RolloutEngine",
    "RolloutGroup",
    "RolloutRequest",
    "RolloutSession",
    "SamplingParams",
]
