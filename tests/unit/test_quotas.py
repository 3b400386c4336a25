"""How many rollouts: rounding, and check values of fixed, cures and frontier."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import beta as beta_distribution

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.quotas import QUOTAS
from sampler_service.curriculum.quotas.ada_est import AdaEstPaperQuota, AdaEstQuota
from sampler_service.curriculum.quotas.cures import gradient_deviation
from sampler_service.curriculum.quotas.cures_ref import uncorrected_shares
from sampler_service.curriculum.quotas.frontier import FrontierQuota
from sampler_service.curriculum.quotas.gvm import gvm_weights
from sampler_service.curriculum.quotas.knapsack import KnapsackQuota
from sampler_service.curriculum.quotas.rounding import apportion, bounded_shares, round_half_even
from sampler_service.curriculum.quotas.vip import VipQuota
from sampler_service.curriculum.views import GradientNorms
from tests.prompt_views import floats, view_at, view_of


def test_apportion_without_bounds_is_largest_remainder() -> None:
    # 10 seats for 4.5, 3.3, 2.2: floors 4, 3, 2; the half is the largest remainder.
    assert apportion(floats([45, 33, 22]), 10, 0, 100).tolist() == [5, 3, 2]


def test_ties_go_to_the_lower_slot() -> None:
    assert apportion(floats([1, 1, 1]), 8, 1, 10).tolist() == [3, 3, 2]


def test_a_share_above_the_most_is_given_to_the_others() -> None:
    assert apportion(floats([100, 1, 1]), 12, 1, 6).tolist() == [6, 3, 3]


def test_a_share_below_the_least_is_taken_from_the_others() -> None:
    assert apportion(floats([100, 100, 1]), 20, 4, 16).tolist() == [8, 8, 4]


@pytest.mark.parametrize(
    "weights", [[0, 0, 0], [np.nan, np.nan, np.nan], [np.inf, np.inf, np.inf], [-1, -2, 0]]
)
def test_weights_that_say_nothing_count_as_equal(weights: list[float]) -> None:
    assert apportion(floats(weights), 9, 1, 8).tolist() == [3, 3, 3]


def test_prompts_without_weight_share_only_what_the_others_cannot_take() -> None:
    assert apportion(floats([0, 1, 0]), 12, 2, 8).tolist() == [2, 8, 2]
    assert apportion(floats([0, 1, 0]), 14, 2, 8).tolist() == [3, 8, 3]


def test_a_budget_out_of_reach_spends_the_nearer_end() -> None:
    assert apportion(floats([1, 2]), 1, 2, 4).tolist() == [2, 2]
    assert apportion(floats([1, 2]), 99, 2, 4).tolist() == [4, 4]
    assert apportion(floats([]), 5, 2, 4).tolist() == []


def test_apportion_is_the_nearest_integer_point_to_the_real_shares() -> None:
    """Brute force over every feasible allotment: none has a smaller squared distance to the real shares."""
    generator = np.random.default_rng(0)
    for _ in range(60):
        weights = generator.gamma(0.7, size=4)
        least, most = 1, int(generator.integers(4, 8))
        budget = int(generator.integers(4 * least, 4 * most + 1))
        shares = bounded_shares(weights / weights.max(), budget, least, most)
        assert shares.sum() == pytest.approx(budget)
        best = min(
            sum((n - s) ** 2 for n, s in zip(point, shares, strict=True))
            for point in itertools.product(range(least, most + 1), repeat=4)
            if sum(point) == budget
        )
        ours = apportion(weights, budget, least, most)
        assert ((ours - shares) ** 2).sum() == pytest.approx(best)


def test_fixed_gives_everybody_the_same() -> None:
    assert QUOTAS.parse("fixed", "quota").allot(view_at([0, 0.5, 1]), 24).tolist() == [8, 8, 8]


def test_cures_with_unit_norms_is_the_standard_deviation_of_the_reward() -> None:
    p = floats([0, 1, 2, 3, 4]) / 4
    expected = [0, 0.433013, 0.5, 0.433013, 0]
    np.testing.assert_allclose(gradient_deviation(p, None), expected, atol=1e-6)
    ones = np.ones(5)
    np.testing.assert_allclose(
        gradient_deviation(p, GradientNorms(ones, ones, ones, ones)), expected, atol=1e-6
    )


def test_cures_with_norms_check_value() -> None:
    wrong = floats([1, 1.5, 0.5])
    norms = GradientNorms(floats([2]), floats([4]), floats([wrong.mean()]), floats([(wrong**2).mean()]))
    assert gradient_deviation(floats([0.25]), norms)[0] == pytest.approx(0.762910, abs=1e-6)


def test_cures_counts_a_norm_nobody_sent_as_one() -> None:
    nothing = floats([np.nan])
    assert gradient_deviation(floats([0.5]), GradientNorms(*[nothing] * 4))[0] == pytest.approx(0.5)


def test_cures_gives_most_to_the_middle() -> None:
    quotas = QUOTAS.parse({"cures": {"min": 2, "max": 32}}, "quota").allot(
        view_at([0, 0.25, 0.5, 0.75, 1]), 40
    )
    assert quotas.sum() == 40
    assert quotas[0] == quotas[4] == 2
    # √(3/16), 1/2, √(3/16) of 36: 11.4, 13.2, 11.4 — the remainder's tie goes to the lower slot.
    assert quotas.tolist() == [2, 12, 13, 11, 2]


def test_gvm_check_value() -> None:
    p = floats([0, 0.125, 0.25, 0.5, 1])
    weights = gvm_weights(p, np.ones(5), 1e-3, 2.0)
    shares = bounded_shares(weights / weights.max(), 40, 0, 40)
    assert round_half_even(shares, 40, 0, 40).tolist() == [0, 15, 11, 8, 6]


def test_gvm_gives_nothing_extra_where_right_rollouts_have_no_gradient() -> None:
    norms = GradientNorms(*[floats([0.0, 2.0, np.nan])] * 4)
    weights = QUOTAS.parse("gvm", "quota").weights(view_at([0.5] * 3, gradient_norms=norms))
    assert weights[0] == 0
    assert weights[1] == pytest.approx(2 * weights[2])


def test_rounding_half_to_even_corrects_the_sum_by_the_largest_residual() -> None:
    assert round_half_even(floats([2.5, 3.5, 4.0]), 10, 0, 9).tolist() == [2, 4, 4]
    assert round_half_even(floats([2.5, 0.5, 4.0]), 7, 0, 9).tolist() == [3, 0, 4]


def test_ada_est_check_value() -> None:
    n, positives = floats([0, 8, 8, 8, 8, 64]), floats([0, 0, 1, 4, 8, 0])
    view = view_of(np.ones(6), np.ones(6), successes=positives, failures=n - positives)
    assert AdaEstQuota(min=1, max=64).allot(view, 48).tolist() == [6, 8, 5, 2, 2, 25]


def test_ada_est_as_in_the_paper_weighs_by_the_inverse_root() -> None:
    weights = AdaEstPaperQuota(epsilon=0.01).weights(view_at([0.0, 0.24, 0.99]))
    np.testing.assert_allclose(weights, [10, 2, 1])


@pytest.mark.parametrize(
    ("parameters", "weight"),
    [
        ({"objective": "linear"}, lambda p: np.sqrt(p * (1 - p))),
        ({"objective": "log"}, lambda p: np.sqrt((1 - p) / p)),
        ({"objective": "log_raft"}, lambda p: 1 / np.sqrt(p)),
        ({"objective": "power", "exponent": 0.3}, lambda p: p**-0.7 * np.sqrt(p * (1 - p))),
        ({"objective": "arcsin"}, np.ones_like),
    ],
)
def test_objective_weighs_by_its_derivative(parameters: dict[str, object], weight: Any) -> None:
    p = floats([0.05, 0.3, 0.5, 0.9])
    np.testing.assert_allclose(
        QUOTAS.parse({"objective": parameters}, "quota").weights(view_at(p)), weight(p)
    )


def test_knapsack_check_value() -> None:
    view = view_at([0.05, 0.2, 0.5, 0.8, 0.95])
    assert KnapsackQuota(min=2, max=32).allot(view, 40).tolist() == [10, 14, 7, 7, 2]


def test_vip_check_value() -> None:
    view = view_at([0.05, 0.2, 0.5, 0.8, 0.95])
    weights = VipQuota().weights(view)
    real = 1 + bounded_shares(weights / weights.max(), 35, 1, 31)
    np.testing.assert_allclose(real, [5.394, 9.065, 11.081, 9.065, 5.394], atol=5e-4)
    assert VipQuota().allot(view, 40).tolist() == [6, 9, 11, 9, 5]


def test_vip_refuses_groups_of_one() -> None:
    with pytest.raises(InvalidArgument, match=r"vip\.min"):
        QUOTAS.parse({"vip": {"min": 1}}, "quota")


def test_cures_ref_check_value_and_its_sum_above_the_budget() -> None:
    shares = uncorrected_shares(gradient_deviation(floats([0, 1, 2, 3, 4]) / 4, None), 40)
    assert shares.tolist() == [0, 13, 15, 13, 0]


def test_cures_ref_in_the_service_stays_within_the_budget() -> None:
    view = view_of(
        np.ones(5), np.ones(5), successes=floats([0, 1, 2, 3, 4]), failures=floats([4, 3, 2, 1, 0])
    )
    assert QUOTAS.parse("cures_ref", "quota").allot(view, 40).tolist() == [1, 13, 13, 12, 1]


def expected_gain(a: float, b: float, n: int, w: float) -> float:
    def integrand(p: float) -> float:
        gain = p**n * (1 - p) + (1 - p) ** n * p
        return float(gain * p * (1 - p) ** w * beta_distribution.pdf(p, a, b))

    return float(quad(integrand, 0, 1)[0])


@pytest.mark.parametrize(("a", "b"), [(1.0, 1.0), (3.0, 9.0), (12.0, 2.0)])
@pytest.mark.parametrize("hardness", [1.0, 2.0])
def test_frontier_gains_are_the_posterior_expectation_of_the_knapsack_gain(
    a: float, b: float, hardness: float
) -> None:
    quota = FrontierQuota(min=2, max=12, hardness=hardness)
    gains = quota._gains(floats([a]), floats([b]))[0]
    assert len(gains) == 10
    for n, gain in zip(range(2, 12), gains, strict=True):
        assert gain == pytest.approx(expected_gain(a, b, n, hardness), rel=1e-6)


def test_frontier_with_a_sure_posterior_is_the_plain_knapsack() -> None:
    p = floats([0.05, 0.2, 0.5, 0.8, 0.95])
    quotas = FrontierQuota(min=2, max=32).allot(view_at(p, strength=1e7), 40)
    assert quotas.tolist() == [10, 14, 7, 7, 2]


def test_frontier_gives_equal_prompts_equal_quotas() -> None:
    view = view_of(np.ones(16), np.ones(16))
    assert FrontierQuota(min=2, max=32).allot(view, 128).tolist() == [8] * 16
    uneven = FrontierQuota(min=2, max=32).allot(view, 131)
    assert sorted(uneven.tolist()) == [8] * 13 + [9] * 3


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"fixed": {"min": 0}}, "quota.fixed.min"),
        ({"cures": {"min": 9, "max": 8}}, "quota.cures"),
        ({"cures": {"max": 100000}}, "quota.cures.max"),
        ({"frontier": {"hardness": -1}}, "quota.frontier.hardness"),
        ({"cures": {"min": 2.5}}, "quota.cures.min"),
        ("equal", "quota"),
    ],
)
def test_a_bad_parameter_names_its_field(part: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        QUOTAS.parse(part, "quota")
    assert refusal.value.field == field
