"""The study on a model that is really trained: its pool, its curriculum in process, its figures, its runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.trained.arms import ARMS, chosen_arms
from benchmarks.trained.in_process import InProcessCurriculum
from benchmarks.trained.pool import COIN, HABITS, habit_text, skill_text, study_pool
from benchmarks.trained.results import line, summary
from benchmarks.trained.run import Curve, Setting, run_arm
from benchmarks.trained.warm_start import warm_start
from sampler_service.curriculum.strategy import resolve
from trainer_client.client import Action

pytestmark = pytest.mark.torch


def test_the_pool_is_the_same_every_time_and_holds_every_kind():
    first, second = study_pool(), study_pool()
    assert [prompt.prompt_id for prompt in first.train] == [prompt.prompt_id for prompt in second.train]
    kinds = {prompt.cluster for prompt in first.held_out}
    assert kinds >= {*HABITS, COIN, "mul-3"}
    assert COIN not in {prompt.cluster for prompt in study_pool(coins=0).train}


def test_habits_are_right_about_as_often_as_they_should():
    rng = np.random.default_rng(0)
    right: dict[str, list[bool]] = {}
    for question, said in (habit_text(rng) for _ in range(4000)):
        if question.startswith("max"):
            numbers = [int(part) for part in question[4:-2].split(",")]
            right.setdefault("max-2", []).append(int(said) == max(numbers))
    # A slip that says the smaller of two equal numbers is right; there are few of those.
    assert np.mean(right["max-2"]) == pytest.approx(HABITS["max-2"].right, abs=0.08)


def test_skills_are_taught_without_slips():
    rng = np.random.default_rng(0)
    for question, answer in (skill_text(rng) for _ in range(500)):
        if "+" in question:
            first, second = question.rstrip("=").split("+")
            assert int(answer) == int(first) + int(second)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: arm.name)
def test_every_arm_is_a_strategy(arm):
    assert resolve(arm.preset, arm.overrides).rollouts_per_prompt == 8


def test_arms_are_chosen_by_pattern_with_uniform_always_first():
    names = [arm.name for arm in chosen_arms(["ranked, rest 1*", "frontier"])]
    assert names == ["uniform-grpo", "ranked, rest 16", "frontier"]
    assert len(chosen_arms([])) == len(ARMS)
    with pytest.raises(ValueError, match="no arm 'fronteer'"):
        chosen_arms(["fronteer"])


def test_the_curriculum_in_process_answers_as_the_service_does():
    pool = study_pool()
    curriculum = InProcessCurriculum(pool, "frontier-ranked", {}, 0, ("clusters", "embeddings"))
    batch = curriculum.next_batch("study", batch_size=4, rollout_budget=32)
    known = {prompt.prompt_id for prompt in pool.train}
    assert set(batch.prompt_ids) <= known
    first = curriculum.report(batch, rewards=[[1.0, 0.0, 1.0, 0.0]] * 2 + [[0.0] * 4] * 2)
    more = first.directives.with_action(Action.SAMPLE_MORE)
    assert [directive.prompt_id for directive in more] == batch.prompt_ids[:2]
    second = curriculum.report(batch, batch.prompt_ids[:2], rewards=[[1.0] * 8] * 2)
    assert len(second.directives.with_action(Action.DONE)) == 2
    curriculum.advance_policy("study", 1, kl=0.01)
    assert set(curriculum.next_batch("study", batch_size=4).prompt_ids) <= known


def curve(*accuracies: float) -> Curve:
    steps = len(accuracies)
    return Curve(
        rollouts=[64 * i for i in range(steps)],
        seconds=[float(i) for i in range(steps)],
        accuracies=list(accuracies),
        by_kind=[{"add-1": value} for value in accuracies],
        mixed_shares=[0.5] * (steps - 1),
        gradient_norms=[1.0] * (steps - 1),
        rounds=[1.0] * (steps - 1),
        drawn_by_kind={"add-1": 1.0},
    )


def test_a_speed_up_is_the_ratio_of_rollouts_to_nine_tenths_of_uniforms_gain():
    uniform = curve(0.0, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4)
    twice = curve(0.0, 0.2, 0.4, 0.4, 0.4, 0.4, 0.4)
    row = summary("twice", [twice, twice], [uniform, uniform])
    assert row["speed_up"]["mean"] == pytest.approx(2.0)
    assert row["speed_up"]["standard_error"] == 0.0
    assert "2.00 ± 0.00" in line(row)
    never = summary("never", [curve(*[0.1] * 7)], [uniform])
    assert never["speed_up"]["mean"] == 0.0


def test_a_run_spends_its_rollouts_and_can_be_repeated_to_the_bit(tmp_path: Path):
    model = warm_start(tmp_path, skill_updates=3, habit_updates=2)
    assert warm_start(tmp_path, skill_updates=3, habit_updates=2) == model
    setting = Setting(model, steps=3, batch=4, every=2)
    first, second = (run_arm(chosen_arms(["frontier"])[1], setting, seed=1) for _ in range(2))
    assert first.rollouts == [0, 2 * 32, 3 * 32]
    assert first.accuracies == second.accuracies
    assert first.drawn_by_kind == second.drawn_by_kind
    assert all(seconds > 0 for seconds in first.seconds[1:])
