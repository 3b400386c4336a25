"""What every quota must satisfy."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_service.curriculum.quotas import QUOTAS
from sampler_service.curriculum.quotas.frontier import largest_marginals
from sampler_service.curriculum.quotas.rounding import apportion
from tests.prompt_views import floats, view_at, view_of

any_weight = st.one_of(
    st.floats(0, 1e300), st.floats(0, 1), st.sampled_from([0.0, float("nan"), float("inf"), 1e-300])
)


@given(st.lists(any_weight, max_size=60), st.integers(0, 5), st.integers(0, 40), st.integers(0, 3000))
@settings(max_examples=400, deadline=None)
def test_apportion_is_bounded_and_exact_in_sum_when_feasible(
    weights: list[float], least: int, width: int, budget: int
) -> None:
    most = least + width
    quotas = apportion(floats(weights), budget, least, most)
    count = len(weights)
    assert int(quotas.sum()) == min(max(budget, count * least), count * most)
    assert ((quotas >= least) & (quotas <= most)).all()


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_more_weight_never_gets_less(weights: list[float], per_prompt: int) -> None:
    quotas = apportion(floats(weights), per_prompt * len(weights), 1, 32)
    order = np.argsort(weights, kind="stable")
    # Within ties of weight the lower slot may have one more.
    for a, b in pairwise(order):
        assert quotas[b] >= quotas[a] - (weights[a] == weights[b])


rates = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1e-9, 1 - 1e-9]))


@pytest.mark.parametrize("name", list(QUOTAS))
@given(p=st.lists(rates, min_size=1, max_size=24), extra=st.integers(0, 300), strength=st.floats(1, 1e6))
@settings(max_examples=60, deadline=None)
def test_every_quota_is_bounded_and_exact_in_sum(
    name: str, p: list[float], extra: int, strength: float
) -> None:
    quota = QUOTAS.parse({name: {"min": 2, "max": 24}}, "quota")
    budget = min(quota.least * len(p) + extra, quota.most * len(p))
    quotas = quota.allot(view_at(p, strength), budget)
    assert quotas.dtype == np.int32
    assert ((quotas >= quota.least) & (quotas <= quota.most)).all()
    assert int(quotas.sum()) <= budget
    if quota.exact:
        assert int(quotas.sum()) == budget


@pytest.mark.parametrize("name", list(QUOTAS))
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 24))
@settings(max_examples=40, deadline=None)
def test_every_quota_is_equivariant_under_permutation(name: str, seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.gamma(2, 3, size) + 0.1, generator.gamma(2, 3, size) + 0.1
    order = generator.permutation(size)
    quota = QUOTAS.parse({name: {"min": 2, "max": 24}}, "quota")
    # A budget for which nothing is left over, so that no tie has to be broken by slot.
    straight = quota.allot(view_of(a, b), 8 * size)
    turned = quota.allot(view_of(a[order], b[order]), 8 * size)
    if name == "fixed":
        np.testing.assert_array_equal(straight[order], turned)
    else:
        # What is left over after rounding may go to another of two slots that tie.
        assert np.abs(straight[order] - turned).max() <= 1


def best_by_dynamic_programme(gains: np.ndarray, extra: int) -> float:
    values = np.concatenate([np.zeros((len(gains), 1)), np.cumsum(gains, axis=1)], axis=1)
    best = np.full(extra + 1, -np.inf)
    best[0] = 0.0
    for row in values:
        taken = np.full(extra + 1, -np.inf)
        for n, value in enumerate(row):
            if n <= extra:
                taken[n:] = np.maximum(taken[n:], best[: extra + 1 - n] + value)
        best = taken
    return float(best[extra])


@given(st.integers(1, 6), st.integers(1, 8), st.integers(0, 2**32 - 1), st.integers(0, 48))
@settings(max_examples=200, deadline=None)
def test_greedy_equals_the_dynamic_programme(slots: int, steps: int, seed: int, extra: int) -> None:
    generator = np.random.default_rng(seed)
    gains = -np.sort(-generator.gamma(1, size=(slots, steps)), axis=1)
    gains = np.round(gains, 1)  # many ties
    extra = min(extra, slots * steps)
    quotas = largest_marginals(gains, 2, extra)
    assert int((quotas - 2).sum()) == extra
    reached = sum(gains[i, : n - 2].sum() for i, n in enumerate(quotas.tolist()))
    assert reached == pytest.approx(best_by_dynamic_programme(gains, extra))
