"""What following costs by itself: processor time per batch, without a service around it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.curriculum.comparison import Comparison
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.planner import BatchPlanner
from sampler_service.curriculum.strategy import resolve

__all__ = ["processor_milliseconds"]


def processor_milliseconds(
    preset: str, shadows: tuple[str, ...], prompts: int, batch: int, batches: int
) -> dict[str, Any]:
    """Per batch, of the served fold alone, of all followed folds, and of those with their draws.

    The policy advances with every batch, so each strategy weighs the whole pool anew for each draw, as in training.
    """
    figures: dict[str, Any] = {}
    for name, compare in (("scored", False), ("compared", True)):
        strategy = resolve(preset, {"iterations": {}})
        created = log_pb2.CurriculumCreated(
            curriculum_id="c", strategy_json=strategy.to_json(), preset=preset
        )
        served = CurriculumMachine(create_state(log_pb2.Event(curriculum_created=created), "1-0", 1))
        ids = [b"p%07d" % i for i in range(prompts)]
        added = log_pb2.PromptsAdded(ids=b"".join(ids), id_lengths=to_bytes(np.full(prompts, 8), "u2"))
        served.apply(log_pb2.Event(request_id="add", prompts_added=added), "2-0", 2)
        planner, rng = BatchPlanner(served, np.random.default_rng(0)), np.random.default_rng(1)
        strategies = {shadow: resolve(shadow, {}) for shadow in shadows}
        base = type(served.state).restore(served.state.export())
        comparison = Comparison(base, strategies, "in force", np.random.default_rng(2))
        alone = beside = 0.0
        for number in range(batches + 2):
            plan = planner.plan(batch, 8 * batch)
            planner.settle(plan)
            events = _step(number, plan, rng)
            before = time.process_time()
            for place, event in enumerate(events):
                served.apply(event, f"{number + 3}-{place}", 3 + number)
            between = time.process_time()
            for place, event in enumerate(events):
                comparison.fold(event, f"{number + 3}-{place}", 3 + number, compare=compare)
            if number >= 2:  # The first draws make what later ones keep.
                alone += between - before
                beside += time.process_time() - between
        figures["served_fold"] = round(1e3 * alone / batches, 2)
        figures[name] = round(1e3 * beside / batches, 2)
    return figures


def _step(number: int, plan: Any, rng: np.random.Generator) -> list[log_pb2.Event]:
    granted = log_pb2.BatchGranted(
        lease_id=f"lease-{number}",
        lease_millis=10**6,
        budget=plan.budget,
        rows=to_bytes(plan.rows, "i4"),
        quotas=to_bytes(plan.quotas, "i4"),
        pass_rates=to_bytes(plan.pass_rates, "f4"),
        pass_rate_stddevs=to_bytes(plan.pass_rate_stddevs, "f4"),
        baselines=to_bytes(plan.baselines, "f4"),
        probabilities=to_bytes(plan.probabilities, "f4"),
        sources=to_bytes(plan.sources, "u1"),
        policy_version=number,
    )
    reported = log_pb2.RolloutsReported(
        lease_id=f"lease-{number}",
        slots=to_bytes(np.arange(len(plan.rows)), "i4"),
        rollout_counts=to_bytes(plan.quotas, "i4"),
        rewards=to_bytes(rng.integers(0, 2, int(plan.quotas.sum())), "f4"),
        policy_version=number,
    )
    advanced = log_pb2.PolicyAdvanced(policy_version=number + 1)
    return [
        log_pb2.Event(request_id=f"n{number}", batch_granted=granted),
        log_pb2.Event(request_id=f"r{number}", rollouts_reported=reported),
        log_pb2.Event(request_id=f"a{number}", policy_advanced=advanced),
    ]
