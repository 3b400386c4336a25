"""E[p^m (1−p)^n] under Beta posteriors, against exact products and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import betaln

from sampler_service.curriculum.beta_moments import beta_moments


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 1e3])
def test_they_are_ratios_of_beta_functions(scale: float):
    rng = np.random.default_rng(7)
    a, b = rng.gamma(1.0, scale, (2, 5000)) + 1e-6
    right, wrong = rng.uniform(0, 20, (2, 5000))
    expected = np.exp(betaln(a + right, b + wrong) - betaln(a, b))
    np.testing.assert_allclose(beta_moments(a, b, right, wrong), expected, rtol=1e-9)


def test_whole_powers_give_the_known_values():
    one = np.ones(1)
    assert beta_moments(one, one, 2, 0) == pytest.approx(1 / 3, rel=1e-12)
    assert beta_moments(one, one, 1, 1) == pytest.approx(1 / 6, rel=1e-12)
    assert beta_moments(3 * one, 5 * one, 1, 0) == pytest.approx(3 / 8, rel=1e-12)
    assert beta_moments(3 * one, 5 * one, 0, 0) == pytest.approx(1.0, rel=1e-12)


def test_they_stay_good_where_evidence_is_plentiful_and_where_there_is_hardly_any():
    a, b = np.array([5e5, 12.0, 1e-6]), np.array([5e5, 3e4, 1e-3])
    steps = np.arange(32)[:, None]
    exact = np.prod((a + steps) / (a + b + steps), axis=0)
    np.testing.assert_allclose(beta_moments(a, b, 32, 0), exact, rtol=1e-7)


def test_shapes_broadcast_and_what_was_given_stays_as_it_was():
    a, b = np.array([[1.0], [2.0]]), np.array([1.0, 2.0, 4.0])
    assert beta_moments(a, b, 1.0, 0.5).shape == (2, 3)
    assert beta_moments(a[:, 0], a[:, 0], np.array([1.0, 2.0]), 0.0).shape == (2,)
    assert a.tolist() == [[1.0], [2.0]]
    assert b.tolist() == [1.0, 2.0, 4.0]


def test_an_outcome_that_never_comes_has_no_moment():
    never = np.zeros(3)
    assert beta_moments(never, np.ones(3), 2.0, 1.0).tolist() == [0.0, 0.0, 0.0]
    assert beta_moments(np.ones(3), never, 2.0, 1.0).tolist() == [0.0, 0.0, 0.0]
