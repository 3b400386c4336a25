"""The curriculum service in the trainer's own process: the shipped machine and planner, no log and no wire.

Everything is drawn from the run's seed, so that a run can be repeated to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Unpack

import numpy as np

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.planner import BatchPlanner
from sampler_service.curriculum.strategy import resolve
from trainer_client.client import (
    Batch,
    Directives,
    NextBatchArguments,
    Receipt,
    Released,
    ReportResult,
    RolloutStatus,
)
from trainer_client.tasks.protocol import Pool

__all__ = ["InProcessCurriculum"]

_LEASE_MILLIS = 10**9


class InProcessCurriculum:
    """Fulfils `trainer_client.curriculum_service.CurriculumService` for one curriculum.

    Args:
        told: what the curriculum learns about the prompts: `clusters`, `embeddings`, both or nothing.
    """

    def __init__(
        self, pool: Pool, preset: str, overrides: Mapping[str, Any], seed: int, told: Sequence[str] = ()
    ) -> None:
        self._events = 0
        strategy = resolve(preset, overrides)
        created = log_pb2.CurriculumCreated(
            curriculum_id="study", strategy_json=strategy.to_json(), preset=preset
        )
        first = log_pb2.Event(request_id="0", curriculum_created=created)
        self.machine = CurriculumMachine(create_state(first, "0-1", 0))
        self.planner = BatchPlanner(self.machine, np.random.default_rng([seed, 1]))
        self._rng = np.random.default_rng([seed, 2])
        self._ids = [prompt.prompt_id for prompt in pool.train]
        self._row_of = {prompt_id: row for row, prompt_id in enumerate(self._ids)}
        self._epoch = 0
        self._slot_of: dict[int, int] = {}
        self.drawn: list[list[int]] = []
        """Rows of every batch, in order."""
        self.dilutions: list[float] = []
        """How far the strategy took the steps for diluted, after each."""
        self._add(pool, told)

    def _send(self, **kind: Any) -> log_pb2.Outcome:
        self._events += 1
        event = log_pb2.Event(request_id=str(self._events), **kind)
        outcome = self.machine.apply(event, f"{self._events}-0", 1000 * self._events)
        if outcome.HasField("refusal"):
            raise RuntimeError(f"the curriculum refused an event: {outcome.refusal.message}")
        return outcome

    def _add(self, pool: Pool, told: Sequence[str]) -> None:
        ids = [prompt_id.encode() for prompt_id in self._ids]
        event = log_pb2.PromptsAdded(
            ids=b"".join(ids), id_lengths=to_bytes(np.array([len(id_) for id_ in ids]), "u2")
        )
        if "clusters" in told:
            labels, clusters = np.unique([prompt.cluster for prompt in pool.train], return_inverse=True)
            event.cluster_names.extend(labels.tolist())
            event.clusters = to_bytes(clusters, "i4")
        embeddings = pool.embeddings()
        if "embeddings" in told and embeddings.shape[1]:
            event.embeddings = to_bytes(embeddings.ravel(), "f2")
            event.embedding_dim = embeddings.shape[1]
        self._send(prompts_added=event)

    def next_batch(
        self,
        curriculum_id: str,
        **arguments: Unpack[NextBatchArguments],
    ) -> Batch:
        """Draws and grants a batch."""
        policy_version = arguments.get("policy_version", 0)
        plan = self.planner.plan(
            arguments["batch_size"],
            arguments.get("rollout_budget", 0),
            equal_quotas=arguments.get("equal_quotas", False),
        )
        lease_id = f"lease-{self._events}"
        self._send(
            batch_granted=log_pb2.BatchGranted(
                lease_id=lease_id, policy_version=policy_version, lease_millis=_LEASE_MILLIS,
                budget=plan.budget, rows=to_bytes(plan.rows, "i4"), quotas=to_bytes(plan.quotas, "i4"),
                pass_rates=to_bytes(plan.pass_rates, "f4"),
                pass_rate_stddevs=to_bytes(plan.pass_rate_stddevs, "f4"),
                baselines=to_bytes(plan.baselines, "f4"),
                probabilities=to_bytes(plan.probabilities, "f4"),
                sources=to_bytes(plan.sources, "u1"), notes=plan.notes, epoch=plan.epoch,
            )
        )  # fmt: skip
        self.planner.settle(plan)
        rows = plan.rows.tolist()
        self._epoch = plan.epoch
        self._slot_of = {row: slot for slot, row in enumerate(rows)}
        self.drawn.append(rows)
        return Batch(
            curriculum_id=curriculum_id, lease_id=lease_id, request_id=str(self._events),
            policy_version=policy_version, revision="", expire_time=datetime.max.replace(tzinfo=UTC),
            prompt_ids=[self._ids[row] for row in rows], quotas=plan.quotas,
            pass_rates=plan.pass_rates.astype(np.float32),
            pass_rate_stddevs=plan.pass_rate_stddevs.astype(np.float32),
            baselines=plan.baselines.astype(np.float32),
            probabilities=plan.probabilities.astype(np.float32),
            sources=plan.sources.astype(np.int32), notes=[], duplicate=False,
        )  # fmt: skip

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
        """Folds the rewards and gives the directives; lengths and norms are not passed on."""
        assert isinstance(batch_or_lease, Batch)
        ids = list(prompt_ids or batch_or_lease.prompt_ids)
        reported = self._send(
            rollouts_reported=log_pb2.RolloutsReported(
                lease_id=batch_or_lease.lease_id, policy_version=batch_or_lease.policy_version,
                slots=to_bytes(np.array([self._slot_of[self._row_of[id_]] for id_ in ids]), "i4"),
                rollout_counts=to_bytes(np.array([len(group) for group in rewards]), "i4"),
                rewards=to_bytes(np.concatenate([np.asarray(group) for group in rewards]), "f4"),
                epoch=self._epoch, seed=int(self._rng.integers(2**62)),
            )
        ).rollouts_reported  # fmt: skip
        answered = [self._ids[row] for row in from_bytes(reported.rows, "i4").tolist()]
        directives = Directives(
            answered,
            from_bytes(reported.actions, "u1").astype(np.int32),
            from_bytes(reported.rollouts, "i4"),
            from_bytes(reported.keep_positives, "i4"),
            from_bytes(reported.keep_negatives, "i4"),
            np.zeros(len(answered), dtype=np.float32),
            np.ones(len(answered), dtype=np.float32),
        )
        return ReportResult("", "", False, sum(map(len, rewards)), (), directives)

    def release(self, batch_or_lease: Batch | str) -> Released:
        """The study never stops within a batch."""
        raise RuntimeError("a batch of the study was cut short")

    def advance_policy(self, curriculum_id: str, policy_version: int, *, kl: float | None = None) -> Receipt:
        """The policy has moved."""
        self._send(policy_advanced=log_pb2.PolicyAdvanced(policy_version=policy_version, kl=kl))
        state = self.machine.state
        self.dilutions.append(state.strategy.proposal.diluted(state.moment()))
        return Receipt("", False)

    def create_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Runs of the study are not resumed."""
        return Receipt("", False)

    def restore_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Runs of the study are not resumed."""
        raise RuntimeError("runs of the study are not resumed")

    def delete_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """There is nothing to forget."""
        return Receipt("", False)
