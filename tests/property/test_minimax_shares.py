"""Minimax weights are never below c/k."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_service.curriculum.clusters.minimax import minimax_step


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=30),
    st.floats(0.01, 10),
    st.floats(1e-6, 0.5),
    st.integers(1, 60),
)
@settings(max_examples=150, deadline=None)
def test_weights_stay_above_their_smoothing_and_sum_to_one(
    excess: list[float], rate: float, smoothing: float, steps: int
) -> None:
    k = len(excess)
    weights = np.full(k, 1 / k)
    for _ in range(steps):
        weights = minimax_step(weights, np.array(excess), rate, smoothing)
        assert weights.sum() == pytest.approx(1)
        assert weights.min() >= smoothing / k * (1 - 1e-9)
