"""DOTS' reference sets: drawn by hash, served as ordinary batches, and what predictions are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.curriculum.hashing import hashed_parts, hashed_sample
from sampler_service.curriculum.sources import REFERENCE
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

POINTS = np.random.default_rng(3).standard_normal((400, 6))
RATES = 1 / (1 + np.exp(-3 * POINTS[:, 0]))


def embedded(prompts: int = 400, **attention: Any) -> Run:
    parameters = {"references": 32, "refresh_steps": 5, "temperature": 1.0, **attention}
    run = Run("dots", {"estimator": {"shared_evidence": {"attention": parameters}}, "exploration": 0.0})
    ids = [b"p%d" % i for i in range(prompts)]
    run.send(
        prompts_added=log_pb2.PromptsAdded(
            ids=b"".join(ids),
            id_lengths=to_bytes(np.array([len(id_) for id_ in ids]), "u2"),
            embeddings=to_bytes(POINTS[:prompts].ravel(), "f2"),
            embedding_dim=6,
        )
    )
    return run


def test_a_hashed_sample_is_uniform_without_replacement_and_differs_by_seed() -> None:
    hashes = np.arange(1000, dtype=np.uint32)
    counts = np.zeros(1000)
    for seed in range(400):
        rows = hashed_sample(hashes, seed, 100)
        assert len(set(rows.tolist())) == 100
        counts[rows] += 1
    # 40 expected each, deviation 6: the chi-square of 1,000 cells stays near 900.
    assert 750 < ((counts - 40) ** 2 / 40).sum() < 1050
    np.testing.assert_array_equal(hashed_sample(hashes, 7, 5), hashed_sample(hashes, 7, 100)[:5])


@pytest.mark.parametrize("count", [0, 1, 7, 10, 99])
def test_a_hashed_sample_of_a_small_pool_is_all_of_it_at_most(count: int) -> None:
    rows = hashed_sample(np.zeros(10, dtype=np.uint32), 3, count)  # Even when all hashes collide.
    assert len(set(rows.tolist())) == min(count, 10)


def test_hashed_parts_hold_their_check_values() -> None:
    # They decide who is in which subset: they must never change.
    assert hashed_parts(np.array([0, 1, 2, 3, 2**32 - 1], dtype=np.uint32), 15).tolist() == [0, 9, 3, 12, 5]
    assert hashed_sample(np.arange(6, dtype=np.uint32), 0, 6).tolist() == [1, 3, 5, 2, 0, 4]


def test_a_reference_set_is_served_first_eight_rollouts_each_and_marked() -> None:
    run = embedded()
    run.advance(1)
    served: list[int] = []
    while run.state.due:
        plan = run.planner.plan(20, 160)
        marked = plan.sources == REFERENCE
        assert "Reference set" in plan.notes[0]
        assert set(plan.quotas.tolist()) == {8}
        served += plan.rows[marked].tolist()
        run.grant(plan, f"L{len(served)}")
        run.report(f"L{len(served)}", list(range(len(plan.rows))), [[1.0] * 4 + [0.0] * 4] * len(plan.rows))
    assert len(served) == len(set(served)) == 32
    assert sorted(run.state.memory["rows"].tolist()) == sorted(served)
    assert (run.planner.plan(20, 160).sources != REFERENCE).all()


def test_only_the_set_is_predicted_from() -> None:
    run = embedded()
    run.advance(1)
    outside = next(row for row in range(400) if row not in run.state.memory["set"])
    inside = int(run.state.memory["set"][0])
    run.report("", [outside, inside], [[1.0] * 8, [0.0] * 8])
    assert run.state.memory["rows"].tolist() == [inside]
    assert run.state.due.count(REFERENCE) == 31


def test_sets_are_drawn_anew_after_so_many_steps() -> None:
    run = embedded()
    sets = []
    for version in range(1, 13):
        run.advance(version)
        sets.append(tuple(run.state.memory["set"].tolist()))
    assert len(set(sets)) == 3
    assert sets[0] == sets[4] != sets[5]
    assert run.state.due.count(REFERENCE) == 32  # The last one alone.


def test_predictions_follow_the_references() -> None:
    run = embedded(references=64)
    for version in range(8):
        run.step(RATES, 40, 320, version)
        run.advance(version + 1)
    unseen = np.flatnonzero(run.state.table.column("visits") == 0)
    alphas, betas = run.state.posterior(unseen)
    assert np.corrcoef(alphas / (alphas + betas), RATES[unseen])[0, 1] > 0.8
    assert run.state.digest() == run.replayed().state.digest()
    assert CurriculumState.restore(run.state.export()).digest() == run.state.digest()


def test_a_small_pool_spends_a_quarter_of_itself_on_references() -> None:
    run = embedded(100, references=256, minimum=8)
    run.advance(1)
    assert run.state.due.count(REFERENCE) == 25


def test_nothing_is_due_without_embeddings_or_without_a_refresh() -> None:
    run = Run("dots")
    run.add(50)
    run.advance(1)
    assert not run.state.due
    run = embedded(refresh_steps=0)
    run.advance(1)
    assert not run.state.due


def test_a_set_is_forgotten_with_its_model() -> None:
    run = embedded()
    run.advance(1)
    run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=resolve("uniform-grpo", {}).to_json()))
    assert not run.state.due
