"""Groups that are all wrong train with a right rollout of earlier steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer_fakes import FakeCurriculum
from tests.unit.test_trainer_loop import digit_pool, make_trainer, tiny_config, weights_of
from trainer_client.client import Action, Directive, RolloutStatus
from trainer_client.config import LearnerConfig
from trainer_client.learner.movement import probe_samples
from trainer_client.learner.positives import PositiveStore
from trainer_client.learner.samples import Sample
from trainer_client.rollouts import Completion
from trainer_client.rounds import Group
from trainer_client.tasks import TaskPrompt
from trainer_client.tasks.verifiers import exact_match
from trainer_client.training_samples import training_samples

pytestmark = pytest.mark.torch
RIGHT = Completion((7, 1), (-0.25, -0.5), "7", "stop")


def group(name: str, rewards: list[float], action: Action = Action.DONE) -> Group:
    made = Group(TaskPrompt(name, name, "7", exact_match), (3, 4), 0.5)
    made.completions = [Completion((place, 2), (-1.0, -1.0), "x", "stop") for place in range(len(rewards))]
    made.rewards = rewards
    made.statuses = [RolloutStatus.OK] * len(rewards)
    right = sum(reward > 0.5 for reward in rewards)
    made.directive = Directive(name, action, 0, right, len(rewards) - right, 0.0, 1.0)
    return made


def test_an_all_wrong_group_is_joined_by_its_prompts_last_success() -> None:
    store = PositiveStore(10)
    settings = LearnerConfig(advantage="dr_grpo")
    first = training_samples([group("a", [0, 1, 1])], settings, positives=store)
    assert not any(sample.replayed for sample in first)
    samples = training_samples([group("a", [0, 0, 0]), group("b", [0, 0])], settings, positives=store)
    *own, joined = [sample for sample in samples if sample.prompt_id == "a"]
    # The newest of the two right ones, with the log-probs of the policy that made it.
    assert joined.replayed
    assert joined.completion_token_ids == (2, 2)
    assert joined.advantage == 0.75
    assert [sample.advantage for sample in own] == [-0.25] * 3
    assert not any(sample.replayed for sample in own)
    # Nothing is known of b: its group says nothing.
    assert [sample.advantage for sample in samples if sample.prompt_id == "b"] == [0, 0]


def test_mixed_and_dropped_groups_are_left_alone() -> None:
    store = PositiveStore(10)
    store.add("a", RIGHT, 1.0)
    samples = training_samples(
        [group("a", [0, 0], Action.DROP), group("b", [0, 1])], LearnerConfig(), positives=store
    )
    assert [sample.prompt_id for sample in samples] == ["b", "b"]
    assert not any(sample.replayed for sample in samples)


def test_the_store_keeps_the_newest_and_forgets_the_longest_unseen() -> None:
    store = PositiveStore(2)
    for name in ("a", "b", "a", "c"):
        store.add(name, RIGHT, 1.0)
    assert len(store) == 2
    assert store.find("b") is None
    assert store.find("a") is not None


def test_a_store_comes_out_of_its_arrays_as_it_went_in() -> None:
    store, again = PositiveStore(5), PositiveStore(5)
    store.add("a", RIGHT, 1.0)
    store.add("ä/b", Completion((5,), (-0.125,), "two\nlines", "length"), 0.75)
    again.restore(store.export())
    for name in ("a", "ä/b"):
        assert again.find(name) == store.find(name)
    again.restore(PositiveStore(5).export())
    assert len(again) == 0


def test_an_update_is_not_measured_by_rollouts_of_another_policy() -> None:
    fresh = Sample("p", (1,), (2,), (-1.0,), 1.0)
    old = Sample("p", (1,), (3,), (-9.0,), 1.0, replayed=True)
    assert probe_samples([fresh, old], 6, 4) == [fresh]


def test_a_run_trains_on_them_and_a_resumed_one_has_them_still(tmp_path: Path) -> None:
    def judged(trainer: Any) -> Any:
        # Right in the first step, wrong ever after.
        return lambda completion, answer: float(trainer[0].step == 0)

    def run(folder: Path, steps: list[int]) -> tuple[Any, list[dict[str, float]]]:
        service: FakeCurriculum | None = None
        history: list[dict[str, float]] = []
        for first, last in zip([0, *steps], steps, strict=False):
            holder: list[Any] = []
            pool = digit_pool(4 + 4, verifier=judged(holder))
            config = tiny_config(
                folder,
                steps=last,
                learner={"stored_positives": 100},
                evaluation={"every": 0, "prompts": 0},
            )
            trainer, service, _, learner = make_trainer(config, service, pool, first_step=first)
            holder.append(trainer)
            if first:
                trainer.resume()
            history += trainer.run().history
        return learner, history

    whole, straight = run(tmp_path / "straight", [4])
    halves, resumed = run(tmp_path / "halves", [2, 4])
    assert [metrics["learner/stored_positives"] for metrics in straight] == [0, 4, 4, 4]
    assert [metrics["learner/stored_positives"] for metrics in resumed] == [0, 4, 4, 4]
    assert straight[1]["learner/gradient_norm"] > 0
    for expected, found in zip(weights_of(whole), weights_of(halves), strict=True):
        np.testing.assert_array_equal(expected, found)
