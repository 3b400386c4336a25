"""Which prompts: check values of the weighted proposals and of our own."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.proposals import PROPOSALS, WeightedProposal
from sampler_service.curriculum.views import Moment
from tests.prompt_views import floats, view_at, view_of

MOMENT = Moment(prompts=5)


def weights(part: object, view: object) -> np.ndarray:
    proposal = PROPOSALS.parse(part, "proposal")
    assert isinstance(proposal, WeightedProposal)
    result = proposal.weights(view, MOMENT)  # type: ignore[arg-type]
    return result / result.sum()


def test_uniform_does_not_tell_prompts_apart() -> None:
    np.testing.assert_allclose(weights("uniform", view_at([0, 0.3, 1])), 1 / 3)


def test_cures_check_values() -> None:
    p = floats([1, 2, 3, 4, 5]) / 6
    expected = [0.091407, 0.245325, 0.326536, 0.245325, 0.091407]
    np.testing.assert_allclose(weights({"cures": {"temperature": 0.1}}, view_at(p)), expected, atol=1e-6)


def test_a_colder_cures_is_sharper() -> None:
    view = view_at([0.1, 0.5])
    cold, warm = (weights({"cures": {"temperature": t}}, view)[1] for t in (0.05, 0.5))
    assert cold > warm > 0.5


def test_frontier_prefers_a_confirmed_frontier_prompt_to_an_unknown_one_to_an_unfit_one() -> None:
    confirmed, unknown, solved, hopeless = weights("frontier", view_of([9, 1, 17, 1], [9, 1, 1, 17]))
    assert confirmed > unknown > solved
    assert solved == pytest.approx(hopeless)


def test_frontier_ranks_by_posterior_expected_variance() -> None:
    generator = np.random.default_rng(0)
    view = view_of(generator.gamma(2, 3, 50), generator.gamma(2, 3, 50))
    ranked = np.argsort(weights("frontier", view))
    assert (np.diff(view.expected_variances[ranked]) >= 0).all()


def test_frontier_with_a_power_draws_in_proportion_to_it() -> None:
    view = view_of([9, 1, 17], [9, 1, 1])
    even, steep = (weights({"frontier": {"power": power}}, view) for power in (1, 4))
    assert even == pytest.approx(view.expected_variances / view.expected_variances.sum())
    assert steep == pytest.approx(even**4 / (even**4).sum())


def test_a_visit_tires_frontier_of_a_prompt_but_never_for_good() -> None:
    view = view_of([9, 9, 9, 9], [9, 9, 9, 9], visits=np.array([0, 1, 3, 2**31], dtype=np.uint32))
    fresh, once, thrice, always = weights({"frontier": {"power": 4, "fatigue": 1}}, view)
    assert [once / fresh, thrice / fresh] == pytest.approx([2.0**-4, 4.0**-4])
    assert 0 < always < thrice


def test_a_tired_ranking_divides_the_expectation_by_the_visits() -> None:
    view = view_of([9, 9], [9, 9], visits=np.array([0, 2], dtype=np.uint32))
    fresh, twice = weights({"frontier": {"temperature": 0.1, "fatigue": 0.5}}, view)
    expected = float(view.expected_variances[0])
    assert twice / fresh == pytest.approx(np.exp((expected / 2 - expected) / 0.1))


@pytest.mark.parametrize("decided", [(1e6, 1e-3), (1e-3, 1e6)])
def test_frontier_draws_uniformly_where_all_are_mastered_or_all_impossible(
    decided: tuple[float, float],
) -> None:
    view = view_of([decided[0]] * 5, [decided[1]] * 5)
    sharp = weights({"frontier": {"power": 64}}, view)
    assert sharp == pytest.approx([0.2] * 5)


@pytest.mark.parametrize("name", [n for n in PROPOSALS if issubclass(PROPOSALS[n], WeightedProposal)])
def test_weights_are_finite_and_not_negative_at_the_ends(name: str) -> None:
    proposal = PROPOSALS.parse(name, "proposal")
    assert isinstance(proposal, WeightedProposal)
    result = proposal.weights(view_at([0.0, 1e-12, 0.5, 1 - 1e-12, 1.0]), MOMENT)
    assert result.shape == (5,)
    assert np.isfinite(result).all()
    assert (result >= 0).all()
    assert result.sum() > 0


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"cures": {"temperature": 0}}, "proposal.cures.temperature"),
        ({"cures": {"tau": 1}}, "proposal.cures.tau"),
        ({"frontier": {"temperature": -1}}, "proposal.frontier.temperature"),
        ({"frontier": {"power": -1}}, "proposal.frontier.power"),
        ({"frontier": {"fatigue": -1}}, "proposal.frontier.fatigue"),
        ({"frontier": {"balance": 1.5}}, "proposal.frontier.balance"),
        ({"frontier": {"diluted_power": 65}}, "proposal.frontier.diluted_power"),
        ({"cures": {"temperature": float("nan")}}, "proposal.cures.temperature"),
        ({"best": {}}, "proposal"),
        ({"uniform": {}, "cures": {}}, "proposal"),
        ({"uniform": 3}, "proposal"),
        (None, "proposal"),
    ],
)
def test_a_bad_parameter_names_its_field(part: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        PROPOSALS.parse(part, "proposal")
    assert refusal.value.field == field
