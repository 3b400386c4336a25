"""Evidence shared between prompts, as in the papers: anchors, attention, an online model."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.predictors.platt import calibrated, fit_platt, sigmoid
from sampler_service.curriculum.shared_evidence.anchors import Anchors, capability
from sampler_service.curriculum.shared_evidence.attention import Attention, attend
from sampler_service.curriculum.shared_evidence.base import Memory
from sampler_service.curriculum.shared_evidence.online_logistic import OnlineLogistic, loss_gradient
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment
from tests.prompt_views import counts_of, floats, table_of

MOMENT = Moment()


def anchored() -> PromptTable:
    table = table_of(4)
    table.writable("weak_pass_rates")[:3] = [0.2, 0.1, 0.5]
    table.writable("strong_pass_rates")[:3] = [0.6, 0.9, 0.9]
    return table


def test_bots_capability_check_value() -> None:
    assert capability(0.4, 0.2, 0.6) == pytest.approx(0.5, abs=1e-5)
    table, shared, memory = anchored(), Anchors(strength=16), Memory()
    shared.observe(table, np.array([0]), counts_of([10], [4]), memory, MOMENT)
    assert not np.any(shared.pseudo_counts(table, slice(None), memory))
    shared.advance(table, memory, MOMENT)
    assert memory["capability"][0] == pytest.approx(0.5, abs=1e-5)
    right, wrong = shared.pseudo_counts(table, np.arange(4), memory)
    np.testing.assert_allclose(right, [6.4, 8.0, 11.2, 0.0], rtol=1e-4)
    np.testing.assert_allclose(right + wrong, [16, 16, 16, 0], rtol=1e-6)


def test_capability_is_averaged_over_steps_and_predictions_stay_rates() -> None:
    table, shared, memory = anchored(), Anchors(), Memory()
    for k in (4, 10):
        shared.observe(table, np.array([0]), counts_of([10], [k]), memory, MOMENT)
        shared.advance(table, memory, MOMENT)
    assert memory["capability"][0] == pytest.approx(0.9 * 0.5 + 0.1 * 2.0, abs=1e-4)
    memory["capability"] = np.array([9.0])
    right, wrong = shared.pseudo_counts(table, np.arange(3), memory)
    np.testing.assert_allclose(right, 16.0)
    np.testing.assert_allclose(wrong, 0.0)
    # A step without any report leaves it as it is.
    shared.advance(table, memory, MOMENT)
    assert memory["capability"][0] == 9.0


def test_attention_is_a_softmax_average() -> None:
    queries, references, rates = floats([[1, 0]]), floats([[2, 0], [0, 5]]), floats([0.9, 0.1])
    w = np.exp(2.0) / (np.exp(2.0) + 1.0)
    np.testing.assert_allclose(attend(queries, references, rates, 1.0), w * 0.9 + (1 - w) * 0.1)


def test_platt_recovers_a_scale_and_a_bias() -> None:
    generator = np.random.default_rng(0)
    p = generator.uniform(0.02, 0.98, 4000)
    observed = generator.binomial(16, calibrated(p, 2.0, -0.7)) / 16
    scale, bias = fit_platt(p, observed, np.ones(4000))
    assert scale == pytest.approx(2.0, abs=0.1)
    assert bias == pytest.approx(-0.7, abs=0.1)


def test_platt_of_nearly_nothing_changes_nearly_nothing() -> None:
    scale, bias = fit_platt(floats([0.5]), floats([1.0]), np.ones(1))
    assert scale == pytest.approx(1.0)
    assert 0 < bias < 0.5
    extreme = fit_platt(np.full(50, 0.999), np.zeros(50), np.ones(50))
    assert np.isfinite(extreme).all()


def embedded_pool(seed: int = 0) -> tuple[PromptTable, np.ndarray]:
    """400 prompts whose pass rate is a function of a two-dimensional direction of their embedding."""
    generator = np.random.default_rng(seed)
    table = table_of(400)
    points = generator.standard_normal((400, 12))
    rates = sigmoid(2.0 * points[:, 0] - 1.0 * points[:, 1])
    table.set_embeddings(np.arange(400, dtype=np.int32), points.astype(np.float16))
    return table, rates


@pytest.mark.parametrize(
    ("shared", "correlation"), [(Attention(temperature=0.8), 0.6), (OnlineLogistic(passes=30), 0.85)]
)
def test_prompts_never_rolled_out_are_predicted_from_their_embeddings(
    shared: Attention | OnlineLogistic, correlation: float
) -> None:
    table, rates = embedded_pool()
    memory, generator = Memory(), np.random.default_rng(1)
    assert not np.any(shared.pseudo_counts(table, slice(None), memory))
    for step in range(8):
        rows = np.arange(30 * step, 30 * step + 30)
        counts = counts_of([8] * 30, generator.binomial(8, rates[rows]).tolist())
        shared.observe(table, rows, counts, memory, MOMENT)
        shared.advance(table, memory, MOMENT)
    right, wrong = shared.pseudo_counts(table, np.arange(240, 400), memory)
    np.testing.assert_allclose(right + wrong, shared.strength)
    predicted = np.asarray(right) / shared.strength
    assert ((predicted > 0) & (predicted < 1)).all()
    assert np.corrcoef(predicted, rates[240:])[0, 1] > correlation
    # A slice and the same rows say the same.
    every = np.asarray(shared.pseudo_counts(table, slice(None), memory)[0])
    np.testing.assert_allclose(every[240:], right, rtol=1e-9)


def test_attention_keeps_the_newest_result_of_the_last_prompts() -> None:
    table, _ = embedded_pool()
    shared, memory = Attention(references=8, minimum=2), Memory()
    shared.observe(table, np.arange(8), counts_of([4] * 8, [0] * 8), memory, MOMENT)
    shared.observe(table, np.array([3, 20]), counts_of([4, 4], [4, 2]), memory, MOMENT)
    assert memory["rows"].tolist() == [1, 2, 4, 5, 6, 7, 3, 20]
    assert memory["rates"].tolist() == [0, 0, 0, 0, 0, 0, 1.0, 0.5]


def test_without_embeddings_attention_says_nothing() -> None:
    table, memory = table_of(5), Memory()
    Attention().observe(table, np.arange(5), counts_of([4] * 5, [2] * 5), memory, MOMENT)
    assert not np.any(Attention().pseudo_counts(table, slice(None), memory))


def test_the_rank_loss_pulls_apart_what_is_in_the_wrong_order() -> None:
    rates = floats([0.9, 0.1, 0.12])
    plain = loss_gradient(np.zeros(3), rates, 0.0, 0.05, 0.5)
    np.testing.assert_allclose(plain, (0.5 - rates) / 3)
    ranked = loss_gradient(np.zeros(3), rates, 3.0, 0.05, 0.5)
    # Two pairs count (rates 0.1 and 0.12 are a tie); both are within the margin.
    np.testing.assert_allclose(ranked - plain, [-3.0, 1.5, 1.5])
    apart = loss_gradient(floats([2, 0, 0]), rates, 3.0, 0.05, 0.5)
    np.testing.assert_allclose(apart, (sigmoid(floats([2, 0, 0])) - rates) / 3)


def test_an_online_model_without_features_learns_the_pools_mean() -> None:
    table, memory, shared = table_of(60), Memory(), OnlineLogistic(rank_weight=0.0, passes=300)
    shared.observe(table, np.arange(50), counts_of([8] * 50, [2] * 50), memory, MOMENT)
    shared.advance(table, memory, MOMENT)
    right, _ = shared.pseudo_counts(table, np.array([55]), memory)
    assert float(right[0]) / shared.strength == pytest.approx(0.25, abs=0.02)
