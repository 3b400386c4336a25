"""A curriculum in memory: the shipped machine and planner, without a log server or a wire."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated.learner import Floats, Learner
from benchmarks.simulated.pools import Pool
from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.planner import BatchPlanner
from sampler_service.curriculum.stopping import DROP, SAMPLE_MORE
from sampler_service.curriculum.strategy import resolve

__all__ = ["Groups", "ServiceRun"]


@dataclass
class Groups:
    """Rollouts of one batch, those to train on; flat, with the group of each."""

    rows: NDArray[Any]
    groups: NDArray[Any]
    right: NDArray[np.bool_]
    rewards: Floats
    spent: int
    """Rollouts generated, dropped ones included."""
    predicted: Floats
    """Pass rates served with the batch, before any outcome."""
    first_rewards: Floats
    """Mean reward of each prompt's first round."""


class ServiceRun:
    """One curriculum over a pool."""

    def __init__(self, pool: Pool, preset: str, overrides: Mapping[str, Any], seed: int) -> None:
        self._events = 0
        self._version = 0
        strategy = resolve(preset, overrides)
        created = log_pb2.CurriculumCreated(
            curriculum_id="simulated", strategy_json=strategy.to_json(), preset=preset
        )
        first = log_pb2.Event(request_id="0", curriculum_created=created)
        self.machine = CurriculumMachine(create_state(first, "0-1", 0))
        self.planner = BatchPlanner(self.machine, np.random.default_rng(seed))
        self._add(pool)

    def _send(self, **kind: Any) -> log_pb2.Outcome:
        self._events += 1
        event = log_pb2.Event(request_id=str(self._events), **kind)
        outcome = self.machine.apply(event, f"{self._events}-0", 1000 * self._events)
        if outcome.HasField("refusal"):
            raise RuntimeError(f"the curriculum refused an event: {outcome.refusal.message}")
        return outcome

    def _add(self, pool: Pool) -> None:
        ids = [b"p%d" % i for i in range(len(pool))]
        event = log_pb2.PromptsAdded(
            ids=b"".join(ids), id_lengths=to_bytes(np.array([len(id_) for id_ in ids]), "u2")
        )
        if pool.clusters_N is not None:
            labels, clusters = np.unique(pool.clusters_N, return_inverse=True)
            event.cluster_names.extend(f"cluster-{label}" for label in labels)
            event.clusters = to_bytes(clusters, "i4")
        if pool.reference_pass_rates_N is not None:
            event.reference_pass_rates = to_bytes(pool.reference_pass_rates_N, "f4")
        if pool.embeddings_N_E is not None:
            event.embeddings = to_bytes(pool.embeddings_N_E.ravel(), "f2")
            event.embedding_dim = pool.embeddings_N_E.shape[1]
        self._send(prompts_added=event)

    def batch(self, learner: Learner, prompts: int, budget: int, rng: np.random.Generator) -> Groups:
        """Draws a batch, rolls it out in as many rounds as the service asks for, reports every round.

        Args:
            budget: rollouts of the batch, 0 for the strategy's own.
        """
        plan = self.planner.plan(prompts, budget)
        lease_id = f"lease-{self._events}"
        self._send(
            batch_granted=log_pb2.BatchGranted(
                lease_id=lease_id, policy_version=self._version, lease_millis=10**9, budget=plan.budget,
                rows=to_bytes(plan.rows, "i4"), quotas=to_bytes(plan.quotas, "i4"),
                pass_rates=to_bytes(plan.pass_rates, "f4"),
                pass_rate_stddevs=to_bytes(plan.pass_rate_stddevs, "f4"),
                baselines=to_bytes(plan.baselines, "f4"),
                probabilities=to_bytes(plan.probabilities, "f4"),
                sources=to_bytes(plan.sources, "u1"), notes=plan.notes, epoch=plan.epoch,
            )
        )  # fmt: skip
        self.planner.settle(plan)
        rows = plan.rows.astype(np.int64)
        slot_of = {row: slot for slot, row in enumerate(rows.tolist())}
        slots, counts = np.arange(len(rows)), plan.quotas.astype(np.int64)
        keep = np.zeros((2, len(rows)), dtype=np.int64)
        groups_all, right_all, rewards_all = [], [], []
        first_rewards: Floats | None = None
        while len(slots):
            local, right, rewards = learner.sample(rows[slots], counts, rng)
            if first_rewards is None:
                first_rewards = np.bincount(local, rewards, minlength=len(slots)) / np.maximum(counts, 1)
            groups_all.append(slots[local])
            right_all.append(right)
            rewards_all.append(rewards)
            reported = self._send(
                rollouts_reported=log_pb2.RolloutsReported(
                    lease_id=lease_id, policy_version=self._version, slots=to_bytes(slots, "i4"),
                    rollout_counts=to_bytes(counts, "i4"), rewards=to_bytes(rewards, "f4"),
                    epoch=plan.epoch, seed=int(rng.integers(2**62)),
                )
            ).rollouts_reported  # fmt: skip
            actions = from_bytes(reported.actions, "u1")
            answered = np.array([slot_of[row] for row in from_bytes(reported.rows, "i4").tolist()], dtype=int)
            keep[0, answered] = np.where(actions == DROP, 0, from_bytes(reported.keep_positives, "i4"))
            keep[1, answered] = np.where(actions == DROP, 0, from_bytes(reported.keep_negatives, "i4"))
            more = (actions == SAMPLE_MORE) & (from_bytes(reported.rollouts, "i4") > 0)
            slots, counts = answered[more], from_bytes(reported.rollouts, "i4")[more].astype(np.int64)
        groups, right = np.concatenate(groups_all), np.concatenate(right_all)
        rewards = np.concatenate(rewards_all)
        kept = _first_kept(groups, rewards > 0.5, keep)
        assert first_rewards is not None
        return Groups(
            rows, groups[kept], right[kept], rewards[kept], len(groups), plan.pass_rates, first_rewards
        )

    def advance(self, kl: float) -> None:
        """Tells the service that the policy has moved."""
        self._version += 1
        self._send(policy_advanced=log_pb2.PolicyAdvanced(policy_version=self._version, kl=kl))


def _first_kept(
    groups: NDArray[Any], positive: NDArray[np.bool_], keep: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Indices of the rollouts to train on: the first so many right and wrong ones of every group."""
    seen = np.zeros_like(keep)
    kept = []
    for i, (group, good) in enumerate(zip(groups.tolist(), positive.tolist(), strict=True)):
        side = 0 if good else 1
        if seen[side, group] < keep[side, group]:
            seen[side, group] += 1
            kept.append(i)
    return np.array(kept, dtype=np.int64)
