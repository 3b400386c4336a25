"""Beta-Binomial evidence and exponential moving averages."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.posterior import count_groups, update_ema, update_evidence
from tests.prompt_views import counts_of, floats, table_of, view_of


def test_success_is_strictly_above_the_threshold() -> None:
    counts = count_groups(np.zeros(3, dtype=int), floats([0.5, 0.5001, 1.0]), 1, 0.5, fractional=False)
    assert counts.positives.tolist() == [2]
    assert counts.rollouts.tolist() == [3]


def test_fractional_rewards_count_as_that_much_success_clipped_to_the_unit_interval() -> None:
    rewards = floats([0.25, 0.5, 2.0, -1.0])
    counts = count_groups(np.zeros(4, dtype=int), rewards, 1, 0.5, fractional=True)
    assert counts.successes.tolist() == [1.75]
    assert counts.positives.tolist() == [1]
    assert counts.reward_sums.tolist() == [1.75]


def test_groups_may_be_empty() -> None:
    counts = count_groups(np.array([0, 2, 2]), floats([0, 1, 0]), 4, 0.5, fractional=False)
    assert counts.rollouts.tolist() == [1, 0, 2, 0]
    assert counts.successes.tolist() == [0, 0, 1, 0]
    assert counts.reward_variances.tolist() == [0, 0, 0.25, 0]
    assert counts.reward_minima[2] == 0
    assert counts.reward_maxima[2] == 1


def test_evidence_without_decay_is_lifetime_counts() -> None:
    table = table_of(2)
    for _ in range(3):
        update_evidence(table, np.array([1]), counts_of([4], [1]), 1.0)
    assert (table.successes[1], table.failures[1]) == (3, 9)
    assert (table.successes[0], table.failures[0]) == (0, 0)


def test_mopps_check_value() -> None:
    table = table_of(1)
    table.successes[0], table.failures[0] = 2, 1  # α = 3, β = 2 over a prior of 1, 1
    update_evidence(table, np.array([0]), counts_of([8], [2]), 0.5)
    assert 1 + table.successes[0] == pytest.approx(4.0)
    assert 1 + table.failures[0] == pytest.approx(7.5)


def test_ada_est_check_values() -> None:
    table = table_of(1)
    row = np.array([0])
    for n, positives, pass_rate in [(8, 2, 0.12), (15.2, 3.8, 0.149068), (21.68, 5.42, 0.165977)]:
        update_evidence(table, row, counts_of([8], [2]), 0.9)
        total = float(table.successes[0] + table.failures[0])
        assert total == pytest.approx(n, rel=1e-6)
        assert table.successes[0] == pytest.approx(positives, rel=1e-6)
        assert (1 + table.successes[0]) / (17 + total) == pytest.approx(pass_rate, abs=1e-6)


def test_the_first_group_sets_both_moving_averages_and_later_ones_move_them() -> None:
    table = table_of(1)
    row = np.array([0])
    update_ema(table, row, floats([0.25]), floats([0.1875]), 0.25)
    assert table.ema_means[0] == pytest.approx(0.25)
    assert table.ema_variances[0] == pytest.approx(0.1875)
    update_ema(table, row, floats([1.0]), floats([0.0]), 0.25)
    assert table.ema_means[0] == pytest.approx(0.75 * 0.25 + 0.25 * 1.0)
    assert table.ema_variances[0] == pytest.approx(0.75 * 0.1875)


def test_posterior_moments_are_those_of_the_beta_distribution() -> None:
    view = view_of([1, 3, 2], [1, 2, 16])
    np.testing.assert_allclose(view.pass_rates, [1 / 2, 3 / 5, 1 / 9])
    np.testing.assert_allclose(view.pass_rate_stddevs[:2], [np.sqrt(1 / 12), 0.2])
    # E[p(1−p)] = E[p] − E[p²]
    second = view.pass_rate_stddevs**2 + view.pass_rates**2
    np.testing.assert_allclose(view.expected_variances, view.pass_rates - second)
    assert view.expected_variances[0] == pytest.approx(1 / 6)
