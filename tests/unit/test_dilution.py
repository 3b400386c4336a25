"""Whether a trainer's steps are diluted by groups without a gradient; what `frontier` makes of that."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sampler_service.curriculum.posterior import GroupCounts, count_groups
from sampler_service.curriculum.proposals import PROPOSALS
from sampler_service.curriculum.proposals.base import Memory
from sampler_service.curriculum.proposals.dilution import (
    close_step,
    count_step,
    dilution,
    established_dilution,
    hold_dilution,
    is_held,
    is_probe,
    note_groups,
)
from sampler_service.curriculum.proposals.frontier import Frontier
from sampler_service.curriculum.strategy import Strategy, resolve
from sampler_service.curriculum.views import Moment
from tests.curriculum_runs import Run
from tests.prompt_views import view_of

# KL of a step from the share m of mixed groups and their mean reward variance V.
Law = Callable[[float, float], float]


def diluted(mixed: float, variance: float) -> float:
    return 1e-3 * variance * mixed**1.5


def undiluted(mixed: float, variance: float) -> float:
    return 1e-3 * variance


def normalised(mixed: float, variance: float) -> float:
    return 1e-3 * variance / mixed


def groups(mixed: int, of: int) -> GroupCounts:
    rewards = np.array([[1.0, 0.0] * 4] * mixed + [[0.0] * 8] * (of - mixed)).ravel()
    return count_groups(np.repeat(np.arange(of), 8), rewards, of, 0.5, False)


def after(law: Law, steps: int, noise: float = 0.2, seed: int = 0) -> Memory:
    rng = np.random.default_rng(seed)
    memory: Memory = {}
    for _ in range(steps):
        mixed = int(rng.integers(4, 29))
        counts = groups(mixed, 32)
        note_groups(memory, counts)
        variance = float(counts.reward_variances.mean())
        close_step(memory, law(mixed / 32, variance) * float(np.exp(noise * rng.normal())))
    return memory


@pytest.mark.parametrize("seed", range(5))
def test_steps_that_shrink_with_the_share_of_mixed_groups_are_diluted(seed: int) -> None:
    assert dilution(after(diluted, 20, seed=seed)) == 1.0


@pytest.mark.parametrize("law", [undiluted, normalised])
@pytest.mark.parametrize("seed", range(5))
def test_steps_of_one_length_and_steps_normalised_by_their_mixed_groups_are_not(law: Law, seed: int) -> None:
    assert dilution(after(law, 20, seed=seed)) == 0.0


@pytest.mark.parametrize("seed", range(5))
def test_the_strict_test_tells_the_laws_apart_as_well(seed: int) -> None:
    assert established_dilution(after(diluted, 20, seed=seed), 0.3) == 1.0
    assert established_dilution(after(undiluted, 20, seed=seed), 0.3) == 0.0
    assert established_dilution(after(normalised, 20, seed=seed), 0.3) == 0.0


def test_the_strict_test_needs_eight_differences() -> None:
    assert established_dilution({}, 0.3) == 0.0
    assert established_dilution(after(diluted, 8, noise=0.0), 0.3) == 0.0
    assert established_dilution(after(diluted, 9, noise=0.0), 0.3) == 1.0


def test_the_strict_test_believes_no_slope_that_is_known_too_roughly() -> None:
    # Few groups and a KL from few completions: by chance the slope looks steep. The lax test is taken in.
    steep = min(range(50), key=lambda seed: -dilution(after(undiluted, 12, noise=1.5, seed=seed)))
    rough = after(undiluted, 12, noise=1.5, seed=steep)
    assert dilution(rough) > 0.5
    assert established_dilution(rough, 0.3) == 0.0
    # Nor one that is real, until it is known better.
    assert established_dilution(after(diluted, 20), 0.001) == 0.0


def test_of_the_first_steps_every_second_is_a_probe_once_something_is_known() -> None:
    memory: Memory = {}
    probes = []
    for _ in range(12):
        probes.append(is_probe(memory, 3))
        note_groups(memory, groups(4, 16))
        count_step(memory)
        close_step(memory, 0.01)
    assert [step for step, probe in enumerate(probes) if probe] == [3, 5, 7]
    assert not is_probe({}, 32)


def test_steps_of_a_few_groups_are_no_probes() -> None:
    memory: Memory = {}
    for _ in range(12):
        note_groups(memory, groups(4, 15))
        count_step(memory)
        close_step(memory, 0.01)
        assert not is_probe(memory, 32)


def test_a_probe_is_drawn_with_the_power_for_diluted_steps() -> None:
    parameters = {"power": 4, "diluted_power": 64, "dilution_error": 0.3, "dilution_probes": 3}
    frontier = PROPOSALS.parse({"frontier": parameters}, "proposal")
    assert isinstance(frontier, Frontier)
    view, memory = view_of([9, 4], [9, 9]), {}  # type: Any, Memory
    ratio = float(view.expected_variances[1] / view.expected_variances[0])
    for power in (4, 4, 4, 64, 4, 64, 4, 64, 4, 4):
        weights = frontier.weights(view, Moment(memory=memory))
        assert weights[1] / weights[0] == pytest.approx(ratio**power)
        frontier.observe(np.arange(32), groups(8, 32), memory, Moment())
        frontier.advance(memory, Moment(movement=np.array([0.0, 0.01])))


def test_dilution_once_established_is_held_though_the_share_no_longer_varies_until_it_is_refuted() -> None:
    rng = np.random.default_rng(3)
    memory: Memory = {}

    def step(mixed: int, law: Law) -> None:
        counts = groups(mixed, 32)
        note_groups(memory, counts)
        kl = law(mixed / 32, float(counts.reward_variances.mean())) * float(np.exp(0.5 * rng.normal()))
        close_step(memory, kl)
        hold_dilution(memory, 0.3, 8)

    for _ in range(30):
        step(int(rng.integers(4, 29)), diluted)
    assert is_held(memory)
    faded = False
    for _ in range(60):  # As a sharp draw has it: nearly as many mixed groups in every step.
        step(int(rng.integers(27, 30)), diluted)
        faded |= established_dilution(memory, 0.3) < 0.5
        assert is_held(memory)
    assert faded
    for _ in range(60):
        step(int(rng.integers(4, 29)), normalised)
    assert not is_held(memory)


def test_nothing_is_held_before_it_is_established() -> None:
    memory = after(undiluted, 30)
    hold_dilution(memory, 0.3, 8)
    assert not is_held(memory)
    assert not is_held({})


def test_a_strategy_of_old_is_spelt_as_it_was() -> None:
    old = resolve("uniform-grpo", {"proposal": {"frontier": {"power": 4, "dilution_error": 0.3}}})
    spelt = old.dump()["proposal"]["frontier"]
    assert not {"dilution_differences", "dilution_probes", "dilution_hold"} & set(spelt)
    new = resolve("uniform-grpo", {"proposal": {"frontier": {"power": 4, "dilution_hold": True}}})
    assert new.dump()["proposal"]["frontier"]["dilution_hold"] is True
    assert Strategy.from_json(new.to_json()) == new


def test_nothing_is_said_after_a_few_steps() -> None:
    assert dilution({}) == 0.0
    assert dilution(after(diluted, 4, noise=0.0)) == 0.0


def test_nothing_is_said_where_the_share_does_not_vary() -> None:
    memory: Memory = {}
    rng = np.random.default_rng(0)
    for _ in range(50):
        note_groups(memory, groups(16, 32))
        close_step(memory, float(rng.lognormal()))
    assert dilution(memory) == 0.0


def test_a_trainer_that_reports_no_kl_is_taken_for_undiluted() -> None:
    # Without a KL the service assumes one and the same for every step.
    assert dilution(after(lambda mixed, variance: 0.01, 50)) == 0.0


def test_steps_without_a_mixed_group_or_a_movement_say_nothing() -> None:
    memory = after(diluted, 20)
    before = memory["dilution_sums"].copy()
    note_groups(memory, groups(0, 8))
    close_step(memory, 0.1)
    note_groups(memory, groups(4, 8))
    close_step(memory, 0.0)
    close_step(memory, 0.1)
    np.testing.assert_array_equal(memory["dilution_sums"], before)


def test_a_step_may_come_in_several_reports() -> None:
    whole, parts = ({}, {})  # type: tuple[Memory, Memory]
    for share in (2, 8, 4, 6, 3, 7):
        note_groups(whole, groups(share, 8))
        note_groups(parts, groups(share, share))
        note_groups(parts, groups(0, 8 - share))
        close_step(whole, 0.01 * share)
        close_step(parts, 0.01 * share)
    assert dilution(parts) == pytest.approx(dilution(whole))


def test_frontier_is_sharper_where_steps_are_diluted_and_only_there() -> None:
    frontier = PROPOSALS.parse({"frontier": {"power": 4, "diluted_power": 64}}, "proposal")
    assert isinstance(frontier, Frontier)
    view = view_of([9, 4], [9, 9])
    mild, sharp = (frontier.weights(view, Moment(memory=after(law, 30))) for law in (undiluted, diluted))
    ratio = float(view.expected_variances[1] / view.expected_variances[0])
    assert mild[1] / mild[0] == pytest.approx(ratio**4)
    assert sharp[1] / sharp[0] == pytest.approx(ratio**64)


def test_with_an_error_to_stay_below_frontier_takes_the_strict_test() -> None:
    lax = PROPOSALS.parse({"frontier": {"power": 4, "diluted_power": 64}}, "proposal")
    strict = PROPOSALS.parse(
        {"frontier": {"power": 4, "diluted_power": 64, "dilution_error": 0.3}}, "proposal"
    )
    assert isinstance(lax, Frontier)
    assert isinstance(strict, Frontier)
    view, early, late = view_of([9, 4], [9, 9]), after(diluted, 7), after(diluted, 30)
    ratio = float(view.expected_variances[1] / view.expected_variances[0])
    for frontier, memory, power in ((lax, early, 64), (strict, early, 4), (strict, late, 64)):
        weights = frontier.weights(view, Moment(memory=memory))
        assert weights[1] / weights[0] == pytest.approx(ratio**power)


def test_it_learns_from_reports_and_advances_how_the_trainer_steps() -> None:
    run = Run("frontier", {"proposal": {"frontier": {"power": 4, "diluted_power": 64}}})
    run.add(200)
    rng = np.random.default_rng(1)
    for step in range(30):
        mixed = int(rng.integers(2, 15))
        run.grant(run.planner.plan(16, 128), f"lease-{step}")
        run.report(f"lease-{step}", list(range(16)), [[1.0, 0.0] * 4] * mixed + [[0.0] * 8] * (16 - mixed))
        run.advance(step + 1, kl=1e-3 * (mixed / 16) ** 2.5)
    assert dilution(run.state.proposal_memory) == 1.0
