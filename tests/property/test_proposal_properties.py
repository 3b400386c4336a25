"""What every proposal must satisfy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sampler_service.curriculum.proposals import PROPOSALS, ScoredProposal, WeightedProposal
from sampler_service.curriculum.views import Moment
from tests.prompt_views import view_at, view_of

WEIGHTED = [n for n in PROPOSALS if issubclass(PROPOSALS[n], WeightedProposal)]
SCORED = [n for n in PROPOSALS if issubclass(PROPOSALS[n], ScoredProposal)]
rates = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 1.0, 0.5, 1e-12]))


@pytest.mark.parametrize("name", WEIGHTED)
@given(p=st.lists(rates, min_size=1, max_size=30), strength=st.floats(0.5, 1e6), step=st.integers(0, 500))
@settings(max_examples=60, deadline=None)
def test_weights_are_finite_and_normalise(name: str, p: list[float], strength: float, step: int) -> None:
    proposal = PROPOSALS.parse(name, "proposal")
    assert isinstance(proposal, WeightedProposal)
    weights = proposal.weights(view_at(p, strength), Moment(policy_step=step))
    assert weights.shape == (len(p),)
    assert np.isfinite(weights).all()
    assert (weights >= 0).all()
    if weights.sum() > 0:
        assert (weights / weights.sum()).sum() == pytest.approx(1)


@pytest.mark.parametrize("name", WEIGHTED)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_weights_depend_on_the_prompts_own_row(name: str, seed: int, size: int) -> None:
    generator = np.random.default_rng(seed)
    a, b = generator.gamma(2, 3, size) + 0.1, generator.gamma(2, 3, size) + 0.1
    order = generator.permutation(size)
    proposal = PROPOSALS.parse(name, "proposal")
    assert isinstance(proposal, WeightedProposal)
    straight = proposal.weights(view_of(a, b), Moment())
    np.testing.assert_array_equal(straight[order], proposal.weights(view_of(a[order], b[order]), Moment()))


@pytest.mark.parametrize("name", SCORED)
@given(
    p=st.lists(rates, min_size=1, max_size=30), strength=st.floats(0.0, 1e6), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=60, deadline=None)
def test_scores_are_numbers_and_repeat_with_the_generator(
    name: str, p: list[float], strength: float, seed: int
) -> None:
    proposal = PROPOSALS.parse(name, "proposal")
    assert isinstance(proposal, ScoredProposal)
    view, moment = view_at(p, strength + 1e-6), Moment(policy_step=7, visits=40)
    scores = proposal.scores(view, moment, np.random.default_rng(seed))
    assert scores.shape == (len(p),)
    assert not np.isnan(scores).any()
    assert (scores < np.inf).all()
    np.testing.assert_array_equal(scores, proposal.scores(view, moment, np.random.default_rng(seed)))


@pytest.mark.parametrize("name", SCORED)
@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 30))
@settings(max_examples=40, deadline=None)
def test_scores_do_not_depend_on_where_a_prompt_stands(name: str, seed: int, size: int) -> None:
    """With a generator whose every number is the same, chance does not tell prompts apart."""
    generator = np.random.default_rng(seed)
    a, b = generator.gamma(2, 3, size) + 0.1, generator.gamma(2, 3, size) + 0.1
    order = generator.permutation(size)
    proposal = PROPOSALS.parse(name, "proposal")
    assert isinstance(proposal, ScoredProposal)
    moment = Moment(policy_step=7, visits=40)
    straight = proposal.scores(view_of(a, b), moment, _NoChance())
    turned = proposal.scores(view_of(a[order], b[order]), moment, _NoChance())
    np.testing.assert_allclose(straight[order], turned)


class _NoChance(np.random.Generator):
    """Draws that are the middle of what could be drawn."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size: object = None, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
        return np.full(size, 0.5)  # type: ignore[arg-type]

    def standard_gamma(self, shape: np.ndarray, *_: object, **__: object) -> np.ndarray:  # type: ignore[override]
        return np.asarray(shape)
