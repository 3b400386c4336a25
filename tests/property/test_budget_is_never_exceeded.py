"""Whatever a strategy asks for in rounds, refills and phases: a lease never spends more than its budget."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.presets import PRESETS
from tests.curriculum_runs import Run

REQUEUE = {"stopping": {"requeue": {"probability": 0.9}}}
ITERATIONS = {"iterations": {"subsets": 3, "steps": 2, "least_prompts": 4}}
OVER_SAMPLED = {"stopping": {"zero_variance": {"oversample": 1.5, "max_gen_rounds": 3}}}


@settings(max_examples=80, deadline=None)
@given(
    preset=st.sampled_from(list(PRESETS)),
    overrides=st.sampled_from([{}, REQUEUE, ITERATIONS, OVER_SAMPLED, {**REQUEUE, **ITERATIONS}]),
    prompts=st.integers(1, 60),
    batch=st.integers(1, 40),
    budget=st.integers(1, 600),
    rate=st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]),
    seed=st.integers(0, 1000),
)
def test_no_batch_spends_more_than_its_budget(
    preset: str, overrides: dict[str, object], prompts: int, batch: int, budget: int, rate: float, seed: int
) -> None:
    run = Run(preset, overrides, seed)
    run.add(prompts, clusters=3)
    for version in range(6):
        try:
            spent = run.step(np.full(prompts, rate), batch, budget, version)
        except InvalidArgument as refusal:
            if refusal.reason != "BUDGET_TOO_SMALL":
                raise
            return
        assert 0 < spent <= budget
        assert run.state.in_flight == 0
        run.advance(version + 1)
    assert run.state.digest() == run.replayed().state.digest()
