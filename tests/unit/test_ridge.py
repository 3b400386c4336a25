"""Ridge regression as shared evidence: its closed form, its forgetting, and what it predicts."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.shared_evidence.base import Memory
from sampler_service.curriculum.shared_evidence.ridge import Ridge
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment
from tests.prompt_views import counts_of, table_of

MOMENT = Moment()


def referenced(rates: list[float]) -> PromptTable:
    table = table_of(len(rates))
    table.writable("reference_pass_rates")[: len(rates)] = rates
    return table


def test_one_group_check_value() -> None:
    """x = (1, 0, …) and 3 of 4: z = ln 7/3, c = 4·.7·.3; w₀ = cz/(c + .04) and a prediction of σ(w₀)."""
    table, shared, memory = referenced([0.5]), Ridge(strength=2.0), Memory()
    shared.observe(table, np.array([0]), counts_of([4], [3]), memory, MOMENT)
    assert not np.any(shared.pseudo_counts(table, slice(None), memory))  # The step is not over.
    shared.advance(table, memory, MOMENT)
    weight = 0.84 * np.log(7 / 3) / (0.84 + 0.04)
    right, wrong = shared.pseudo_counts(table, np.array([0]), memory)
    np.testing.assert_allclose(right, 2.0 / (1.0 + np.exp(-weight)), rtol=1e-6)
    np.testing.assert_allclose(right + wrong, 2.0)


def test_it_is_the_weighted_ridge_solution_over_all_groups() -> None:
    generator = np.random.default_rng(2)
    rates = generator.uniform(0.05, 0.95, 60)
    table, shared, memory = referenced(rates.tolist()), Ridge(factor=1.0, penalty=3.0), Memory()
    successes = generator.binomial(8, rates)
    for start in range(0, 60, 20):
        rows = np.arange(start, start + 20)
        shared.observe(table, rows, counts_of([8] * 20, successes[rows].tolist()), memory, MOMENT)
        shared.advance(table, memory, MOMENT)
    q = (successes + 0.5) / 9.0
    c, z = 8 * q * (1 - q), np.log(q / (1 - q))
    safe = 0.1 + 0.8 * table.column("reference_pass_rates").astype(np.float64)
    x = np.stack([np.ones(60), np.log(safe / (1 - safe))], axis=1)
    expected = np.linalg.solve((x * c[:, None]).T @ x + np.diag([0.03, 3.0]), (x * c[:, None]).T @ z)
    np.testing.assert_allclose(memory["weights"][:2], expected, rtol=1e-6)


def test_old_groups_fade() -> None:
    table, shared, memory = referenced([0.5, 0.5]), Ridge(factor=0.5), Memory()
    shared.observe(table, np.array([0]), counts_of([8], [8]), memory, MOMENT)
    for _ in range(12):
        shared.advance(table, memory, MOMENT)
    shared.observe(table, np.array([1]), counts_of([8], [0]), memory, MOMENT)
    shared.advance(table, memory, MOMENT)
    right, wrong = shared.pseudo_counts(table, np.array([0]), memory)
    assert right[0] < 0.2 * wrong[0]


def test_it_learns_what_embeddings_say_of_prompts_never_rolled_out() -> None:
    generator = np.random.default_rng(4)
    points = generator.standard_normal((300, 6))
    rates = 1 / (1 + np.exp(-2 * points[:, 1]))
    table = table_of(300)
    table.set_embeddings(np.arange(300, dtype=np.int32), points.astype(np.float16))
    shared, memory = Ridge(), Memory()
    rows = np.arange(150)
    shared.observe(table, rows, counts_of([8] * 150, generator.binomial(8, rates[:150])), memory, MOMENT)
    shared.advance(table, memory, MOMENT)
    right, wrong = shared.pseudo_counts(table, np.arange(150, 300), memory)
    assert np.corrcoef(right / (right + wrong), rates[150:])[0, 1] > 0.9


@pytest.mark.parametrize("successes", [0, 8])
def test_groups_of_one_kind_only_give_finite_predictions(successes: int) -> None:
    table, shared, memory = referenced([0.0, 1.0]), Ridge(), Memory()
    for _ in range(50):
        shared.observe(table, np.arange(2), counts_of([8, 8], [successes] * 2), memory, MOMENT)
        shared.advance(table, memory, MOMENT)
    right, wrong = shared.pseudo_counts(table, np.arange(2), memory)
    assert np.isfinite(right).all()
    assert (np.minimum(right, wrong) >= 0).all()


def test_features_that_come_later_find_room() -> None:
    table, shared, memory = table_of(20), Ridge(), Memory()
    shared.observe(table, np.array([0]), counts_of([8], [4]), memory, MOMENT)
    table.set_embeddings(
        np.arange(20, dtype=np.int32), np.random.default_rng(1).normal(size=(20, 3)).astype(np.float16)
    )
    shared.observe(table, np.array([1]), counts_of([8], [2]), memory, MOMENT)
    shared.advance(table, memory, MOMENT)
    assert len(memory["weights"]) == 7
