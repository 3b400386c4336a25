"""Runs of a curriculum in memory: machine and planner without a log server, for tests of the core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.planner import BatchPlan, BatchPlanner
from sampler_service.curriculum.strategy import resolve


class Run:
    """A curriculum whose log is a list."""

    def __init__(
        self, preset: str = "uniform-grpo", overrides: Mapping[str, Any] | None = None, seed: int = 0
    ) -> None:
        self.log: list[log_pb2.Event] = []
        self.rng = np.random.default_rng(seed)
        strategy = resolve(preset, overrides or {})
        event = self._event(
            curriculum_created=log_pb2.CurriculumCreated(
                curriculum_id="c", strategy_json=strategy.to_json(), preset=preset
            )
        )
        self.machine = CurriculumMachine(create_state(event, "1-0", 1000))
        self.planner = BatchPlanner(self.machine, np.random.default_rng(seed + 1))

    @property
    def state(self):  # type: ignore[no-untyped-def]
        return self.machine.state

    def _event(self, request_id: str | None = None, fingerprint: bytes = b"f", **kind: Any) -> log_pb2.Event:
        event = log_pb2.Event(
            request_id=request_id or f"request-{len(self.log) + 1}", fingerprint=fingerprint, **kind
        )
        self.log.append(event)
        return event

    def send(self, request_id: str | None = None, fingerprint: bytes = b"f", **kind: Any) -> log_pb2.Outcome:
        event = self._event(request_id, fingerprint, **kind)
        return self.machine.apply(event, f"{len(self.log)}-0", 1000 * len(self.log))

    def add(self, count: int, clusters: int = 0, references: NDArray[Any] | None = None) -> log_pb2.Outcome:
        ids = [b"p%d" % i for i in range(self.state.table.size, self.state.table.size + count)]
        prompts = log_pb2.PromptsAdded(
            ids=b"".join(ids), id_lengths=to_bytes(np.array([len(id_) for id_ in ids]), "u2")
        )
        if clusters:
            prompts.cluster_names.extend(f"cluster-{i}" for i in range(clusters))
            prompts.clusters = to_bytes(np.arange(count) % clusters, "i4")
        if references is not None:
            prompts.reference_pass_rates = to_bytes(references, "f4")
        return self.send(prompts_added=prompts)

    def grant(
        self, plan: BatchPlan, lease_id: str = "", policy_version: int = 0, request_id: str | None = None
    ) -> log_pb2.Outcome:
        outcome = self.send(
            request_id,
            batch_granted=log_pb2.BatchGranted(
                lease_id=lease_id or f"lease-{len(self.log)}",
                policy_version=policy_version,
                lease_millis=60_000,
                budget=plan.budget,
                rows=to_bytes(plan.rows, "i4"),
                quotas=to_bytes(plan.quotas, "i4"),
                pass_rates=to_bytes(plan.pass_rates, "f4"),
                pass_rate_stddevs=to_bytes(plan.pass_rate_stddevs, "f4"),
                baselines=to_bytes(plan.baselines, "f4"),
                probabilities=to_bytes(plan.probabilities, "f4"),
                sources=to_bytes(plan.sources, "u1"),
                notes=plan.notes,
                epoch=plan.epoch,
            ),
        )
        self.planner.settle(plan)
        return outcome

    def report(
        self,
        lease_id: str,
        slots: list[int],
        rewards: list[list[float]],
        policy_version: int = 0,
        request_id: str | None = None,
        statuses: list[list[int]] | None = None,
        norms: list[list[float]] | None = None,
    ) -> log_pb2.Outcome:
        flat = np.array([reward for group in rewards for reward in group])
        reported = log_pb2.RolloutsReported(
            lease_id=lease_id,
            policy_version=policy_version,
            slots=to_bytes(np.array(slots), "i4"),
            rollout_counts=to_bytes(np.array([len(group) for group in rewards]), "i4"),
            rewards=to_bytes(flat, "f4"),
            epoch=self.state.epoch,
            seed=len(self.log),
        )
        if statuses is not None:
            reported.statuses = to_bytes(np.array([s for group in statuses for s in group]), "u1")
        if norms is not None:
            reported.gradient_norms = to_bytes(np.array([n for group in norms for n in group]), "f4")
        return self.send(request_id, rollouts_reported=reported)

    def step(self, pass_rates: NDArray[Any], batch: int, budget: int, policy_version: int = 0) -> int:
        """Next batch, all rounds of rollouts, reports; how many rollouts that took."""
        plan = self.planner.plan(batch, budget)
        lease_id = f"lease-{len(self.log)}"
        assert not self.grant(plan, lease_id, policy_version).HasField("refusal")
        slots, counts, spent = np.arange(len(plan.rows)), plan.quotas.copy(), 0
        slot_of = {int(row): slot for slot, row in enumerate(plan.rows)}
        while len(slots):
            rewards = [
                (self.rng.random(n) < pass_rates[plan.rows[slot]]).astype(float).tolist()
                for slot, n in zip(slots, counts, strict=True)
            ]
            spent += int(counts.sum())
            outcome = self.report(lease_id, slots.tolist(), rewards, policy_version).rollouts_reported
            more = from_bytes(outcome.actions, "u1") == 2
            slots = np.array([slot_of[row] for row in from_bytes(outcome.rows, "i4")[more].tolist()])
            counts = from_bytes(outcome.rollouts, "i4")[more]
            slots, counts = slots[counts > 0], counts[counts > 0]
        return spent

    def advance(self, policy_version: int, **kind: Any) -> log_pb2.Outcome:
        return self.send(policy_advanced=log_pb2.PolicyAdvanced(policy_version=policy_version, **kind))

    def replayed(self) -> CurriculumMachine:
        """Another machine, folded from the log alone."""
        machine = CurriculumMachine(create_state(self.log[0], "1-0", 1000))
        for number, event in enumerate(self.log[1:], 2):
            machine.apply(event, f"{number}-0", 1000 * number)
        return machine
