"""What a batch is asked for with, for all who pass it on."""

from __future__ import annotations

from typing import Required, TypedDict

__all__ = ["NextBatchArguments"]


class NextBatchArguments(TypedDict, total=False):
    """The keyword arguments of `CurriculumClient.next_batch`."""

    batch_size: Required[int]
    rollout_budget: int
    policy_version: int
    equal_quotas: bool
    run_id: str | None
    step: int | None
    trainer_id: str | None
    min_revision: str
    seed: int | None
    request_id: str | None
    timeout_seconds: float | None
