"""Check values of the published proposals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare, ks_2samp

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.proposals import PROPOSALS, ScoredProposal
from sampler_service.curriculum.proposals.adarft import AdaRft, moved_target
from sampler_service.curriculum.proposals.base import Memory, with_random_ties
from sampler_service.curriculum.proposals.cures_ref import CuresRef
from sampler_service.curriculum.proposals.depo import Depo
from sampler_service.curriculum.proposals.dots import Dots
from sampler_service.curriculum.proposals.hardest import Hardest
from sampler_service.curriculum.proposals.learnability import Learnability
from sampler_service.curriculum.proposals.speed import Speed
from sampler_service.curriculum.proposals.thompson import Thompson
from sampler_service.curriculum.proposals.ucb import Ucb
from sampler_service.curriculum.proposals.vcrl import Vcrl, group_variance_score
from sampler_service.curriculum.views import Moment
from tests.prompt_views import counts_of, floats, view_at, view_of


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def best(proposal: ScoredProposal, view: Any, moment: Moment = Moment()) -> int:  # noqa: B008
    return int(proposal.scores(view, moment, rng()).argmax())


def test_ties_are_broken_at_random_and_nothing_else_is_reordered() -> None:
    firsts = {int(with_random_ties(np.ones(5), rng(seed)).argmax()) for seed in range(100)}
    assert firsts == {0, 1, 2, 3, 4}
    assert int(with_random_ties(floats([0.1, 0.100001]), rng()).argmax()) == 1


def test_learnability_takes_the_largest_plug_in_variance() -> None:
    assert best(Learnability(), view_at([0.1, 0.45, 0.8, 1.0])) == 1


@pytest.mark.parametrize(
    ("objective", "best_rate"), [("target", 0.7), ("info_gain", 1 / 3), ("variance", 0.5)]
)
def test_thompson_objectives_peak_where_they_should(objective: Any, best_rate: float) -> None:
    grid = np.linspace(0, 1, 3001)
    values = Thompson(objective=objective, target=0.7).objective_of(grid)
    assert grid[values.argmax()] == pytest.approx(best_rate, abs=5e-4)


@pytest.mark.parametrize(("alpha", "beta"), [(1, 1), (5, 2), (0.5, 0.5), (1e-9, 1e-9), (2, 1e-9)])
def test_thompson_draws_from_the_posterior(alpha: float, beta: float) -> None:
    class PassRates(Thompson):
        def objective_of(self, p: Any) -> Any:
            return p

    drawn = PassRates().scores(view_of(np.full(4000, alpha), np.full(4000, beta)), Moment(), rng(2))
    assert ks_2samp(drawn, rng(3).beta(alpha, beta, 4000)).pvalue > 1e-4


def test_thompson_chooses_by_the_probability_of_being_best() -> None:
    """Two unknown prompts, largest drawn variance: chosen as often as the posteriors say."""
    view, proposal = view_of([1, 4], [1, 4]), Thompson(objective="variance")
    generator = rng(1)
    first = sum(proposal.scores(view, Moment(), generator).argmax() == 0 for _ in range(4000))
    flat, peaked = generator.beta(1, 1, 10**6), generator.beta(4, 4, 10**6)
    p = float((flat * (1 - flat) > peaked * (1 - peaked)).mean())
    assert chisquare([first, 4000 - first], [4000 * p, 4000 * (1 - p)]).pvalue > 1e-4


def test_ucb_adds_a_bonus_that_falls_with_visits() -> None:
    view = view_of([1, 1, 1], [1, 1, 1], ema_variances=floats([np.nan, 0.2, 0.2]), visits=np.array([0, 3, 8]))
    scores = Ucb(bonus=0.5).scores(view, Moment(visits=100), rng())
    bonus = 0.5 * np.sqrt(np.log(101) / floats([1, 4, 9]))
    np.testing.assert_allclose(scores, floats([0.25, 0.2, 0.2]) + bonus, atol=1e-8)


def test_hardest_is_uniform_among_the_lowest_references_of_the_whole_pool() -> None:
    rates = floats([0.5, 0.1, 0.1, 0.1, np.nan, 0.9, 0.8, 0.7, 0.6, 0.2, 0.4])
    proposal = Hardest(fraction=0.2)  # ⌈0.2·10⌉ = 2 of the three that tie at 0.1
    moment = Moment(reference_pass_rates=rates)
    scores = proposal.scores(view_of(np.ones(11), np.ones(11)), moment, rng())
    assert np.flatnonzero(scores > -np.inf).tolist() == [1, 2]
    # Row 1 is in flight: nobody takes its place among the hardest.
    some = view_of(np.ones(3), np.ones(3), rows=np.array([2, 3, 5]))
    assert np.flatnonzero(proposal.scores(some, moment, rng()) > -np.inf).tolist() == [0]


def test_hardest_without_any_reference_is_uniform() -> None:
    scores = Hardest().scores(view_of(np.ones(4), np.ones(4)), Moment(), rng())
    assert np.isfinite(scores).all()


def test_speed_leaves_out_what_was_all_right_or_all_wrong_and_tries_it_again_later() -> None:
    view = view_of(np.ones(4), np.ones(4), successes=floats([0, 4, 2, 0]), failures=floats([4, 0, 2, 0]))
    assert Speed().weights(view, Moment(policy_step=3)).tolist() == [0, 0, 1, 1]
    assert Speed(recheck_steps=3).weights(view, Moment(policy_step=3)).tolist() == [1, 1, 1, 1]


def test_depo_filters_after_the_warm_up_and_not_for_ever() -> None:
    view = view_at([0.1, 0.15, 0.5, 0.86], last_steps=np.array([100, 100, 100, 10]))
    assert Depo().weights(view, Moment(policy_step=99)).tolist() == [1, 1, 1, 1]
    assert Depo().weights(view, Moment(policy_step=110)).tolist() == [0, 1, 1, 1]


def test_adarft_check_value() -> None:
    assert moved_target(0.0, 1.0, 50.0, 2.0, 0.5) == pytest.approx(38.0797, abs=1e-4)
    assert moved_target(0.0, 0.0, 50.0, 2.0, 0.5) == 0.0
    assert moved_target(90.0, 1.0, 50.0, 2.0, 0.5) == 100.0


def test_adarft_follows_the_reward_and_takes_what_is_nearest() -> None:
    view = view_of(np.ones(3), np.ones(3), reference_pass_rates=floats([0.98, 0.6, 0.1]))
    proposal, memory = AdaRft(), Memory()
    assert best(proposal, view) == 0
    proposal.advance(memory, Moment(mean_reward=1.0))
    assert memory["target_difficulty"][0] == pytest.approx(38.0797, abs=1e-4)
    assert best(proposal, view, Moment(memory=memory)) == 1
    proposal.advance(memory, Moment(mean_reward=1.0))
    assert best(proposal, view, Moment(memory=memory)) == 2


def test_adarft_uses_the_posterior_where_no_reference_is_known() -> None:
    view = view_at([0.2, 0.95], reference_pass_rates=floats([np.nan, np.nan]))
    assert best(AdaRft(), view) == 1


def test_cures_ref_is_nearly_uniform() -> None:
    view = view_of(np.ones(3), np.ones(3), successes=floats([0, 4, 0]), failures=floats([0, 4, 8]))
    np.testing.assert_allclose(CuresRef().weights(view, Moment()), [1, np.exp(0.005), 1])


def test_dots_is_a_softmax_of_the_distance_to_one_half() -> None:
    weights = Dots(temperature=0.1).weights(view_at([0.5, 0.4, 0.0]), Moment())
    np.testing.assert_allclose(weights, np.exp([0, -1, -5]))
    assert (Dots().weights(view_at([0.0, 1.0]), Moment()) > 0).all()


def test_vcrl_score_check_values() -> None:
    even = group_variance_score(np.arange(9), np.full(9, 8))
    np.testing.assert_allclose(even, [0, 0.4375, 0.75, 0.9375, 1, 0.9375, 0.75, 0.4375, 0])
    odd = group_variance_score(np.arange(6), np.full(6, 5))
    np.testing.assert_allclose(odd, [0, 2 / 3, 1, 1, 2 / 3, 0])


def test_vcrl_threshold_follows_its_schedule() -> None:
    assert [Vcrl().kappa(step) for step in (0, 19, 20, 500)] == [0.3, 0.3, 0.8, 0.8]


def test_vcrl_replays_banked_prompts_in_freed_slots_and_not_for_ever() -> None:
    proposal, memory = Vcrl(replay_limit=2), Memory()
    # Groups of 8 at step 30: rows 3 and 4 score 1 and 0.9375, rows 5 and 6 fall below κ = 0.8.
    counts = counts_of([8, 8, 8, 8], [4, 3, 0, 1])
    proposal.observe(np.array([3, 4, 5, 6]), counts, memory, Moment(policy_step=30))
    assert memory["rows"].tolist() == [3, 4]
    view = view_of(np.ones(10), np.ones(10))
    assert (proposal.scores(view, Moment(memory=memory), rng()) < 1).all()  # The step is not over.
    proposal.advance(memory, Moment(policy_step=31))
    assert memory["freed"].tolist() == [2.0]
    scores = proposal.scores(view, Moment(memory=memory), rng())
    chosen = np.argsort(-scores)
    assert chosen[:2].tolist() == [3, 4]
    assert (np.delete(scores, [3, 4]) < 1).all()
    replayed = proposal.replays(chosen, Moment(memory=memory))
    assert np.flatnonzero(replayed).tolist() == [0, 1]
    for step in (31, 32):
        proposal.observe(np.array([3]), counts_of([8], [4]), memory, Moment(policy_step=step))
    assert memory["rows"].tolist() == [4]
    # Slots not used in their step lapse: freed slots do not pile up until a whole batch is replayed.
    proposal.advance(memory, Moment(policy_step=33))
    assert memory["freed"].tolist() == [0.0]


def test_vcrl_passes_over_banked_prompts_that_are_in_flight() -> None:
    proposal, memory = Vcrl(), Memory()
    counts = counts_of([8, 8, 8], [4, 3, 0])
    proposal.observe(np.array([3, 4, 5]), counts, memory, Moment(policy_step=30))
    proposal.advance(memory, Moment(policy_step=31))
    free = view_of(np.ones(9), np.ones(9), rows=np.delete(np.arange(10), 3))
    scores = proposal.scores(free, Moment(memory=memory), rng())
    assert free.rows[np.argmax(scores)] == 4
    assert (scores > 1).sum() == 1


@pytest.mark.parametrize(("kind", "priority"), [("staleness", 0.9 + 0.1 * 5), ("variance", 0.9 + 0.1 * 0.75)])
def test_vcrl_priority_in_both_readings(kind: Any, priority: float) -> None:
    proposal, memory = Vcrl(priority=kind), Memory()
    proposal.observe(np.array([1]), counts_of([8], [4]), memory, Moment(policy_step=30))
    proposal.observe(np.array([1]), counts_of([8], [2]), memory, Moment(policy_step=35))
    assert memory["priorities"].tolist() == pytest.approx([priority])


def test_the_bank_keeps_no_more_than_its_size() -> None:
    proposal, memory = Vcrl(bank_size=2), Memory()
    counts = counts_of([8, 8, 8], [3, 4, 4])
    proposal.observe(np.array([7, 8, 9]), counts, memory, Moment(policy_step=30))
    assert memory["rows"].tolist() == [8, 9]


@pytest.mark.parametrize("name", [n for n in PROPOSALS if issubclass(PROPOSALS[n], ScoredProposal)])
def test_scores_are_never_nan_at_the_ends(name: str) -> None:
    proposal = PROPOSALS.parse(name, "proposal")
    assert isinstance(proposal, ScoredProposal)
    view = view_at([0.0, 1e-12, 0.5, 1.0], ema_variances=floats([np.nan, 0, 0.25, 0]))
    scores = proposal.scores(view, Moment(prompts=4, visits=9), rng())
    assert scores.shape == (4,)
    assert not np.isnan(scores).any()


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"thompson": {"target": 1.5}}, "proposal.thompson.target"),
        ({"thompson": {"objective": "best"}}, "proposal.thompson.objective"),
        ({"hardest": {"fraction": 0}}, "proposal.hardest.fraction"),
        ({"depo": {"low": 0.9, "high": 0.1}}, "proposal.depo"),
        ({"vcrl": {"momentum": 1}}, "proposal.vcrl.momentum"),
        ({"adarft": {"start": 101}}, "proposal.adarft.start"),
        ({"dots": {"temperature": 0}}, "proposal.dots.temperature"),
        ({"ucb": {"bonus": -1}}, "proposal.ucb.bonus"),
    ],
)
def test_a_bad_parameter_names_its_field(part: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        PROPOSALS.parse(part, "proposal")
    assert refusal.value.field == field
