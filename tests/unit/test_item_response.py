"""The logit models behind `frontier`: they recover what made the data, and never give NaN."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.shared_evidence import SHARED_EVIDENCE
from sampler_service.curriculum.shared_evidence.drifting import Drifting
from sampler_service.curriculum.shared_evidence.item_response import ItemResponse
from sampler_service.curriculum.shared_evidence.logit_filter import (
    LogitBelief,
    beta_of_logit,
    observe_binomials,
    observe_groups,
)
from sampler_service.curriculum.strategy import resolve
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment
from tests.curriculum_runs import Run
from tests.prompt_views import counts_of, table_of

MODELS = (ItemResponse, Drifting)


def rate(model, table, memory, rows=slice(None)):
    right, wrong = model.pseudo_counts(table, rows, memory)
    return right / (right + wrong)


def embedded_table(theta, count=400, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, len(theta)))
    table = table_of(count)
    table.set_embeddings(np.arange(count, dtype=np.int32), vectors.astype(np.float16))
    return table, 1.0 / (1.0 + np.exp(-vectors @ theta))


def teach(model, table, p, groups, rollouts, seed=1, advance=False):
    rng, memory = np.random.default_rng(seed), {}
    for _ in range(groups // 20):
        rows = rng.choice(table.size, 20, replace=False)
        counts = counts_of([rollouts] * 20, rng.binomial(rollouts, p[rows]).tolist())
        model.observe(table, rows, counts, memory, Moment())
        if advance:
            model.advance(table, memory, Moment())
    return memory


def test_a_logit_moves_to_the_mode_of_its_posterior():
    # At the mode the gradient k − nσ(z) − (z − m)/v is zero.
    (z,), (left,) = observe_binomials(*np.array([[0.5], [4.0], [2.0], [8.0]]))
    p = 1.0 / (1.0 + np.exp(-z))
    assert 2.0 - 8.0 * p - (z - 0.5) / 4.0 == pytest.approx(0.0, abs=1e-5)
    assert left == pytest.approx(1.0 / (8.0 * p * (1.0 - p) + 0.25))


@pytest.mark.parametrize(("mean", "variance"), [(-25.0, 0.01), (0.0, 100.0), (25.0, 50.0), (0.0, 1e-6)])
@pytest.mark.parametrize("successes", [0.0, 4096.0])
def test_one_sided_outcomes_and_extreme_priors_stay_finite(mean, variance, successes):
    (z,), (left,) = observe_binomials(*np.array([[mean], [variance], [successes], [4096.0]]))
    assert np.isfinite([z, left]).all()
    assert 0.0 < left <= variance


def gaussian_belief(rng, features, clusters, groups, own_variance):
    half = rng.normal(size=(features, features))
    return LogitBelief(
        rng.normal(size=features),
        half @ half.T + np.eye(features),
        rng.normal(size=clusters),
        rng.uniform(0.5, 2.0, clusters),
        np.zeros(groups),
        np.full(groups, own_variance),
    )


def test_with_so_many_rollouts_that_a_group_is_a_gaussian_reading_the_posterior_is_the_exact_one():
    # Thousands of rollouts near p = 1/2: the likelihood is Gaussian, so least squares over (θ, c) is the truth.
    rng = np.random.default_rng(5)
    groups, features, clusters = 30, 3, 4
    prior = gaussian_belief(rng, features, clusters, groups, 0.25)
    x, of = rng.normal(size=(groups, features)) * 0.1, rng.integers(-1, clusters, groups)
    n = np.full(groups, 1e5)
    logits = rng.normal(0.0, 0.05, groups)
    k = n / (1.0 + np.exp(-logits))
    after = observe_groups(prior, x, of, k, n)
    design = np.concatenate([x, (of[:, None] == np.arange(clusters)).astype(float)], axis=1)
    precision = np.linalg.inv(
        np.diag(np.r_[np.zeros(features), prior.cluster_variances_K])
        + np.pad(prior.covariance_FF, (0, clusters))
    )
    noise = 0.25 + 1.0 / (n * 0.25)
    start = np.r_[prior.theta_F, prior.cluster_means_K]
    covariance = np.linalg.inv(precision + (design / noise[:, None]).T @ design)
    mean = covariance @ (precision @ start + (design / noise[:, None]).T @ logits)
    assert after.theta_F == pytest.approx(mean[:features], abs=2e-2)
    assert after.covariance_FF == pytest.approx(covariance[:features, :features], rel=2e-2, abs=1e-4)
    assert after.cluster_means_K == pytest.approx(mean[features:], abs=2e-2)
    assert after.cluster_variances_K == pytest.approx(np.diag(covariance)[features:], rel=2e-2)


def test_groups_taken_in_together_agree_with_groups_taken_in_one_by_one():
    # Far from Gaussian, prior nearly flat: 200 prompts of 8 rollouts tell the pool's mean logit either way.
    rng = np.random.default_rng(6)
    logits = rng.normal(-1.5, 1.0, 200)
    k = rng.binomial(8, 1.0 / (1.0 + np.exp(-logits))).astype(float)
    none, ones, eights = np.zeros(0), np.ones((200, 1)), np.full(200, 8.0)

    def belief(theta, covariance, count):
        return LogitBelief(theta, covariance, none, none, np.zeros(count), np.ones(count))

    together = observe_groups(
        belief(np.zeros(1), np.full((1, 1), 9.0), 200), ones, np.full(200, -1), k, eights
    )
    theta, covariance = np.zeros(1), np.full((1, 1), 9.0)
    for i in range(200):
        after = observe_groups(
            belief(theta, covariance, 1), ones[:1], np.full(1, -1), k[i : i + 1], eights[:1]
        )
        theta, covariance = after.theta_F, after.covariance_FF
    assert together.theta_F == pytest.approx(theta, abs=0.12)
    assert together.covariance_FF == pytest.approx(covariance, rel=0.2)
    assert abs(together.theta_F[0] + 1.5) < 0.3


def test_two_reports_of_one_prompt_at_once_count_as_their_sum():
    table = table_of(5)
    twice, once = {}, {}
    ItemResponse().observe(table, np.array([2, 3, 2]), counts_of([4, 8, 4], [1, 8, 2]), twice, Moment())
    ItemResponse().observe(table, np.array([2, 3]), counts_of([8, 8], [3, 8]), once, Moment())
    assert all(np.array_equal(twice[name], once[name], equal_nan=True) for name in once)


def test_the_beta_has_the_logits_mean_and_expected_variance():
    draws = np.random.default_rng(0).normal(-1.0, 1.5, 400_000)
    p = 1.0 / (1.0 + np.exp(-draws))
    alphas, betas = beta_of_logit(np.array([-1.0]), np.array([2.25]))
    total = alphas + betas
    assert alphas / total == pytest.approx(p.mean(), abs=2e-3)
    assert alphas * betas / (total * (total + 1)) == pytest.approx((p * (1 - p)).mean(), abs=2e-3)


def test_a_known_logit_and_a_hopeless_one_give_finite_betas():
    alphas, betas = beta_of_logit(np.array([0.0, 40.0, -40.0, 0.0]), np.array([0.0, 0.0, 1.0, 1e4]))
    assert np.isfinite([alphas, betas]).all()
    assert (alphas >= 0).all()
    assert (betas >= 0).all()


@pytest.mark.parametrize("model", MODELS)
def test_pass_rates_of_prompts_never_rolled_are_recovered_from_their_embeddings(model):
    table, p = embedded_table(np.array([1.5, -1.0, 0.5, 0.0]))
    part = model()
    memory, rng = {}, np.random.default_rng(2)
    for start in range(0, 200, 20):
        rows = np.arange(start, start + 20)
        part.observe(table, rows, counts_of([8] * 20, rng.binomial(8, p[rows]).tolist()), memory, Moment())
    unseen = np.arange(200, 400)
    assert np.corrcoef(rate(part, table, memory, unseen), p[unseen])[0, 1] > 0.9


def test_without_features_a_prompts_own_rate_is_recovered():
    p = np.random.default_rng(3).uniform(0.05, 0.95, 40)
    table = table_of(40)
    model = ItemResponse()
    memory = teach(model, table, p, groups=1600, rollouts=8)
    assert np.abs(rate(model, table, memory) - p).mean() < 0.05


def test_an_offset_survives_while_ability_rises():
    table, model, memory = table_of(200), ItemResponse(), {}
    rng = np.random.default_rng(4)
    offsets = rng.normal(0.0, 2.0, 200)
    for step in range(60):
        p = 1.0 / (1.0 + np.exp(-(offsets - 3.0 + 0.1 * step)))
        # Prompt 0 is seen at the beginning only.
        rows = rng.choice(np.arange(1 if step > 5 else 0, 200), 20, replace=False)
        if step <= 5 and 0 not in rows:
            rows[0] = 0
        model.observe(table, rows, counts_of([8] * 20, rng.binomial(8, p[rows]).tolist()), memory, Moment())
        model.advance(table, memory, Moment())
        if step == 5:
            before = rate(model, table, memory, np.array([0]))[0]
    after = rate(model, table, memory, np.array([0]))[0]
    assert after > before + 0.2
    assert np.abs(rate(model, table, memory) - p).mean() < 0.15


@pytest.mark.parametrize("model", MODELS)
def test_hundreds_of_one_sided_groups_leave_nothing_infinite(model):
    table, _ = embedded_table(np.zeros(6), count=60)
    table.clusters[:60] = np.arange(60) % 3
    table.writable("reference_pass_rates")[:60] = np.where(np.arange(60) % 2, 1.0, np.nan)
    part = model()
    for p in (np.zeros(60), np.ones(60)):
        memory = teach(part, table, p, groups=2000, rollouts=64, advance=True)
        assert all(np.isfinite(memory[name]).all() for name in ("theta", "covariance"))
        assert np.linalg.eigvalsh(memory["covariance"]).min() > -1e-9
        right, wrong = part.pseudo_counts(table, slice(None), memory)
        assert np.isfinite([right, wrong]).all()
        assert ((right >= 0) & (wrong >= 0) & (right + wrong > 0)).all()


@pytest.mark.parametrize("model", MODELS)
def test_the_same_events_give_the_same_memory(model):
    table, p = embedded_table(np.ones(3), count=50)
    first, second = (teach(model(), table, p, 200, 8, advance=True) for _ in range(2))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name], equal_nan=True) for name in first)


@pytest.mark.parametrize("model", MODELS)
def test_an_empty_memory_and_new_prompts_answer_from_the_prior(model):
    assert rate(model(), table_of(5), {}) == pytest.approx(np.full(5, 0.5))
    table: PromptTable = table_of(40)
    memory = teach(model(), table, np.full(40, 0.9), 200, 8, advance=True)
    table.add([b"new"])
    assert rate(model(), table, memory, np.array([40]))[0] > 0.6


def test_its_posterior_is_the_whole_posterior():
    model = SHARED_EVIDENCE["item_response"]()
    assert model.holds_own_evidence
    run = Run("frontier")
    run.add(50)
    for version in range(3):
        run.step(np.full(50, 0.5), 8, 64, version)
    state = run.state
    alphas, betas = state.posterior(slice(None))
    expected = state.strategy.estimator.shared_evidence.pseudo_counts(state.table, slice(None), state.memory)
    assert np.array_equal(alphas, expected[0])
    assert np.array_equal(betas, expected[1])


def test_frontier_folds_the_same_from_its_log_and_from_a_snapshot():
    run = Run("frontier")
    run.add(100, clusters=4)
    for version in range(10):
        assert run.step(np.linspace(0, 1, 100), 16, 128, version) <= 128
        run.advance(version + 1, kl=0.01)
    assert run.replayed().state.digest() == run.state.digest()
    assert type(run.state).restore(run.state.export()).digest() == run.state.digest()
    assert resolve("frontier", {}).estimator.shared_evidence.holds_own_evidence
