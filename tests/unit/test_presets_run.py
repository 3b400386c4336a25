"""Every preset runs: draws, rounds, reports and policy steps, within budget, and folds to the same state."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.curriculum.presets import PRESETS
from tests.curriculum_runs import Run

PROMPTS = 300


def rich_pool(preset: str) -> tuple[Run, np.ndarray]:
    """A pool with everything a method may ask for: clusters, references, anchors, embeddings."""
    run = Run(preset)
    generator = np.random.default_rng(5)
    points = generator.standard_normal((PROMPTS, 8))
    rates = 1 / (1 + np.exp(2 - 2 * points[:, 0]))
    ids = [b"p%d" % i for i in range(PROMPTS)]
    anchors = np.stack([rates * 0.5, 1 - (1 - rates) * 0.5], axis=1)
    outcome = run.send(
        prompts_added=log_pb2.PromptsAdded(
            ids=b"".join(ids),
            id_lengths=to_bytes(np.array([len(i) for i in ids]), "u2"),
            cluster_names=["a", "b", "c"],
            clusters=to_bytes(np.arange(PROMPTS) % 4 - 1, "i4"),
            reference_pass_rates=to_bytes(np.where(np.arange(PROMPTS) % 7 == 0, np.nan, rates), "f4"),
            anchor_pass_rates=to_bytes(anchors.ravel(), "f4"),
            embeddings=to_bytes(points.ravel(), "f2"),
            embedding_dim=8,
        )
    )
    assert outcome.prompts_added.added == PROMPTS
    return run, rates


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_runs_within_its_budget_and_folds_to_the_same_state(preset: str) -> None:
    run, rates = rich_pool(preset)
    least = run.state.strategy.stopping.first_round(np.array([8], dtype=np.int32))[0]
    budget = 12 * max(8, int(least)) * max(1, round(run.state.strategy.stopping.candidate_factor))
    for version in range(25):
        spent = run.step(rates, 12, budget, version)
        assert 0 < spent <= budget
        run.advance(version + 1, kl=0.01, start_iteration=version % 10 == 9)
        rates = np.clip(rates + 0.004, 0, 1)
    assert run.state.in_flight == 0
    assert np.isfinite(run.state.posterior(slice(None))).all()
    assert run.state.digest() == run.replayed().state.digest()


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_runs_on_a_pool_without_any_features(preset: str) -> None:
    run = Run(preset)
    run.add(60)
    for version in range(8):
        assert run.step(np.full(60, 0.3), 6, 6 * 64, version) > 0
        run.advance(version + 1)


@pytest.mark.parametrize("rate", [0.0, 1.0])
@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_survives_a_pool_that_is_all_wrong_or_all_right(preset: str, rate: float) -> None:
    run = Run(preset)
    run.add(40)
    for version in range(12):
        assert run.step(np.full(40, rate), 6, 6 * 64, version) > 0
        run.advance(version + 1)


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_draws_when_the_policy_has_moved_before_the_first_report(preset: str) -> None:
    run = Run(preset)
    run.add(60)
    run.advance(5)
    assert run.step(np.full(60, 0.3), 6, 6 * 64, 5) > 0
