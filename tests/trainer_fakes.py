"""A curriculum in the same process, and other stand-ins for the trainer's tests."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Unpack

import numpy as np

from trainer_client.client import (
    Action,
    Batch,
    Directives,
    NextBatchArguments,
    Receipt,
    Rejection,
    Released,
    ReportResult,
    RolloutStatus,
)
from trainer_client.evaluation import Evaluation
from trainer_client.metrics import Metrics


@dataclass
class CurriculumState:
    """What a checkpoint keeps."""

    policy_version: int = 0
    successes: dict[str, float] = field(default_factory=dict)
    rollouts: dict[str, int] = field(default_factory=dict)


class FakeCurriculum:
    """Uniform draws that depend on the step alone; one round of `group_size`, and more while a
    group is one-sided and `max_rounds` allows. Keeps every call for the tests to read."""

    def __init__(
        self,
        prompt_ids: Sequence[str],
        *,
        group_size: int = 4,
        max_rounds: int = 1,
        drop_one_sided: bool = False,
        keep: tuple[int, int] | None = None,
    ) -> None:
        self.prompt_ids = list(prompt_ids)
        self.group_size = group_size
        self.max_rounds = max_rounds
        self.drop_one_sided = drop_one_sided
        self.keep = keep
        self.state = CurriculumState()
        self.checkpoints: dict[str, CurriculumState] = {}
        self.released: list[str] = []
        self.advances: list[tuple[int, float | None]] = []
        self.gradient_norms: list[Sequence[Sequence[float]] | None] = []
        self.reports: list[dict[str, list[list[float]]]] = []
        self._tallies: dict[str, list[float]] = {}
        self._rounds: dict[str, int] = {}
        self._revision = 0

    def next_batch(
        self,
        curriculum_id: str,
        **arguments: Unpack[NextBatchArguments],
    ) -> Batch:
        step = arguments.get("step")
        rng = np.random.default_rng([17, step or 0])
        drawn = rng.choice(
            len(self.prompt_ids), size=min(arguments["batch_size"], len(self.prompt_ids)), replace=False
        )
        ids = [self.prompt_ids[index] for index in drawn]
        self._tallies = {prompt_id: [] for prompt_id in ids}
        self._rounds = dict.fromkeys(ids, 0)
        count = len(ids)
        floats = np.full(count, 0.5, dtype=np.float32)
        return Batch(
            curriculum_id=curriculum_id,
            lease_id=f"lease-{step}",
            request_id=f"{arguments.get('run_id')}/{step}",
            policy_version=arguments.get("policy_version", 0),
            revision=self._next_revision(),
            expire_time=datetime.now(UTC),
            prompt_ids=ids,
            quotas=np.full(count, self.group_size, dtype=np.int32),
            pass_rates=floats,
            pass_rate_stddevs=floats,
            baselines=floats,
            probabilities=floats,
            sources=np.ones(count, dtype=np.int32),
            notes=[],
            duplicate=False,
        )

    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: Sequence[Sequence[float]],
        statuses: Sequence[Sequence[RolloutStatus]] | None = None,
        lengths: Sequence[Sequence[float]] | None = None,
        gradient_norms: Sequence[Sequence[float]] | None = None,
    ) -> ReportResult:
        self.gradient_norms.append(gradient_norms)
        ids = list(prompt_ids or [])
        self.reports.append({key: list(map(list, [group])) for key, group in zip(ids, rewards, strict=True)})
        actions, more, positives, negatives, baselines = [], [], [], [], []
        for index, prompt_id in enumerate(ids):
            good = [
                reward
                for reward, status in zip(rewards[index], (statuses or [])[index], strict=True)
                if status in (RolloutStatus.OK, RolloutStatus.TRUNCATED)
            ]
            tally = self._tallies[prompt_id]
            tally.extend(good)
            self._rounds[prompt_id] += 1
            self.state.successes[prompt_id] = self.state.successes.get(prompt_id, 0.0) + sum(good)
            self.state.rollouts[prompt_id] = self.state.rollouts.get(prompt_id, 0) + len(good)
            right = sum(reward > 0.5 for reward in tally)
            wrong = len(tally) - right
            one_sided = not right or not wrong
            wants = one_sided and self._rounds[prompt_id] < self.max_rounds
            action = Action.DROP if one_sided and self.drop_one_sided else Action.DONE
            actions.append(Action.SAMPLE_MORE if wants else action)
            more.append(self.group_size if wants else 0)
            keep = self.keep or (right, wrong)
            positives.append(min(right, keep[0]))
            negatives.append(min(wrong, keep[1]))
            baselines.append(float(np.mean(tally)) if tally else 0.0)
        directives = Directives(
            ids,
            np.array(actions, dtype=np.int32),
            np.array(more, dtype=np.int32),
            np.array(positives, dtype=np.int32),
            np.array(negatives, dtype=np.int32),
            np.array(baselines, dtype=np.float32),
            np.ones(len(ids), dtype=np.float32),
        )
        failed = sum(s is RolloutStatus.ERROR for group in statuses or [] for s in group)
        rejected = (Rejection(ids[0], failed, "STATUS"),) if failed else ()
        return ReportResult("", self._next_revision(), False, 0, rejected, directives)

    def release(self, batch_or_lease: Batch | str) -> Released:
        lease = batch_or_lease.lease_id if isinstance(batch_or_lease, Batch) else batch_or_lease
        self.released.append(lease)
        return Released(0, self._next_revision(), False)

    def advance_policy(self, curriculum_id: str, policy_version: int, *, kl: float | None = None) -> Receipt:
        self.advances.append((policy_version, kl))
        self.state.policy_version = policy_version
        return Receipt(self._next_revision(), False)

    def create_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        self.checkpoints[checkpoint_id] = copy.deepcopy(self.state)
        return Receipt(self._next_revision(), False)

    def restore_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        self.state = copy.deepcopy(self.checkpoints.get(checkpoint_id, self.state))
        return Receipt(self._next_revision(), False)

    def delete_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        del self.checkpoints[checkpoint_id]
        return Receipt(self._next_revision(), False)

    def _next_revision(self) -> str:
        self._revision += 1
        return str(self._revision)


@dataclass
class QuietReporter:
    """Keeps what a run says."""

    steps: list[Metrics] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def step(self, step: int, steps: int, metrics: Metrics) -> None:
        self.steps.append(metrics)

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self.evaluations.append(evaluation)

    def note(self, text: str) -> None:
        self.notes.append(text)
