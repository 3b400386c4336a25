"""The replay buffer: what enters, leaves and is drawn, and how replayed rollouts enter the loss."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.unit.test_trainer_loop import make_trainer, tiny_config, weights_of
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.replay import ReplayBuffer
from trainer_client.learner.samples import Sample
from trainer_client.models.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.torch


def group(prompt_id: str, advantages: tuple[float, ...] = (1.0, -1.0), tokens: int = 3) -> list[Sample]:
    return [
        Sample(prompt_id, (5, 6), tuple(range(7, 7 + tokens)), (-0.5,) * tokens, advantage)
        for advantage in advantages
    ]


def filled(count: int, method: Any = "fifo", **limits: Any) -> ReplayBuffer:
    """One group per step: `p0` at step 0, and so on."""
    buffer = ReplayBuffer(method, **limits)
    for step in range(count):
        buffer.add(group(f"p{step}"), step)
    return buffer


def ids(buffer: ReplayBuffer) -> list[str]:
    return [stored.prompt_id for stored in buffer.groups]


def test_groups_that_are_all_right_or_all_wrong_never_enter() -> None:
    buffer = ReplayBuffer()
    samples = [
        *group("mixed"),
        *group("right", (0.0, 0.0)),
        *group("wrong", (-0.3, -0.3)),
        *group("one", (1.0,)),
    ]
    assert buffer.add(samples, 0) == 1
    assert ids(buffer) == ["mixed"]
    assert all(sample.replayed for sample in buffer.groups[0].samples)


def test_the_oldest_group_leaves_a_full_buffer_and_the_newest_copy_of_a_prompt_stays() -> None:
    buffer = filled(4, capacity_groups=3)
    assert ids(buffer) == ["p1", "p2", "p3"]
    buffer.add(group("p1", (2.0, -2.0)), 4)
    assert ids(buffer) == ["p2", "p3", "p1"]
    assert buffer.groups[-1].step == 4
    assert buffer.groups[-1].samples[0].advantage == 2.0


def test_groups_past_an_age_or_a_number_of_replays_leave() -> None:
    buffer = filled(4, max_age_steps=2)
    assert buffer.available(4) == 2
    assert ids(buffer) == ["p2", "p3"]

    buffer = filled(2, max_replays=2)
    assert [len(buffer.draw(2, step)) for step in (2, 3, 4)] == [2, 2, 0]


def test_the_least_replayed_are_drawn_first_the_newest_of_them_first() -> None:
    buffer = filled(4, "least_replayed", capacity_groups=4)
    assert [g.prompt_id for g in buffer.draw(3, 4)] == ["p3", "p2", "p1"]
    assert [g.prompt_id for g in buffer.draw(3, 5)] == ["p0", "p3", "p2"]
    # p2 and p3 were replayed twice; the older of them makes room.
    buffer.add(group("new"), 6)
    assert ids(buffer) == ["p0", "p1", "p3", "new"]


def test_draws_are_uniform_and_each_group_comes_once_in_a_draw() -> None:
    buffer = filled(4)
    counts: Counter[str] = Counter()
    for step in range(2000):
        drawn = [g.prompt_id for g in buffer.draw(2, step)]
        assert len(set(drawn)) == 2
        counts.update(drawn)
    assert all(abs(count - 1000) < 120 for count in counts.values())
    assert len(buffer.draw(9, 0)) == 4
    assert ReplayBuffer().draw(1, 0) == []


def test_priorities_follow_advantage_and_age() -> None:
    buffer = ReplayBuffer("priority", capacity_groups=3, priority_decay=0.5)
    buffer.add(group("large", (3.0, -3.0)), 2)
    buffer.add(group("small"), 2)
    counts: Counter[str] = Counter()
    for seed in range(4000):
        buffer.seed = seed
        counts.update(g.prompt_id for g in buffer.draw(1, step=2))
    assert counts["large"] / sum(counts.values()) == pytest.approx(0.75, abs=0.03)
    # At step 4 they come to 3/4 and 1/4, at step 9 to 3/128 against 1/32 of what is two steps younger.
    buffer.add([*group("fresh"), *group("fresh too")], 4)
    assert ids(buffer) == ["large", "fresh", "fresh too"]
    buffer.add(group("newest", (4.0, -4.0)), 9)
    assert ids(buffer) == ["fresh", "fresh too", "newest"]


def test_the_same_seed_and_step_draw_the_same_groups() -> None:
    drawn = [[g.prompt_id for g in filled(9, seed=3).draw(4, 9)] for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != [g.prompt_id for g in filled(9, seed=4).draw(4, 9)]


@pytest.mark.parametrize("count", [0, 5])
def test_a_buffer_comes_back_as_it_was_saved(tmp_path: Path, count: int) -> None:
    buffer = filled(count)
    buffer.add(group("lengths differ", (0.25, -0.75, 0.5), tokens=5), 7)
    buffer.draw(2, 8)
    np.savez(tmp_path / "kept.npz", allow_pickle=False, **buffer.export())
    restored = ReplayBuffer()
    with np.load(tmp_path / "kept.npz") as arrays:
        restored.restore(dict(arrays))
    assert restored.groups == buffer.groups
    empty = ReplayBuffer()
    empty.restore(ReplayBuffer().export())
    assert len(empty) == 0


def surrogate(now: float, old: float, behaviour: float, advantage: float) -> float:
    """DOTS' surrogate of one token, from log-probs, written as in the paper."""
    ratio, ratio_old = math.exp(now - behaviour), math.exp(old - behaviour)
    clipped = min(max(ratio, ratio_old * 0.8), ratio_old * 1.2)
    return min(ratio * advantage, clipped * advantage)


def test_replayed_samples_are_clipped_around_the_policy_before_the_update() -> None:
    tokenizer = tiny_tokenizer()
    model = add_lora(tiny_model(tokenizer, seed=3), rank=4, seed=1)
    policy = Policy(model, UpdateSettings(learning_rate=0.05, epochs=1))
    fresh = [Sample("fresh", (5, 6), (9, 8), (-3.0, -3.5), 0.5)]
    old_ones = [
        Sample("old", (5, 7), (10, 11, 12), (-3.0, -9.0, -1.0), advantage, replayed=True)
        for advantage in (1.0, -1.0)
    ]
    samples = [*fresh, *old_ones]
    with torch.no_grad():
        before = policy.log_probs(samples).log_probs
    # A second epoch is away from the old policy: move, then compute the loss of the same batch.
    parts = policy.parts(samples)
    old = [policy._old_log_probs(part) for part in parts]
    policy._optimizer_step(samples, old, (8, 3))
    with torch.no_grad():
        after = policy.log_probs(samples).log_probs
    loss = policy._optimizer_step(samples, old, (8, 3)).loss

    expected = 0.0
    for row, sample in enumerate(samples):
        for place, behaviour in enumerate(sample.behaviour_log_probs):
            now = float(after[row, place])
            reference = float(before[row, place]) if sample.replayed else behaviour
            expected -= surrogate(now, reference, behaviour, sample.advantage) / 8
    assert abs(float((after - before).abs().max())) > 0.3
    assert loss == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("recompute", [False, True], ids=["replayed", "other-engine"])
def test_with_ratios_of_sequences_old_rollouts_are_weighted_as_sequences(recompute: bool) -> None:
    """By hand: s = exp(mean log π/π_old) clipped, times exp(mean log π_old/μ), a mean over the sequences."""
    tokenizer = tiny_tokenizer()
    model = add_lora(tiny_model(tokenizer, seed=3), rank=4, seed=1)
    settings = UpdateSettings(
        learning_rate=0.05, ratio="sequence", recompute_log_probs=recompute, importance_cap=100.0
    )
    policy = Policy(model, settings)
    samples = [
        Sample("old", (5, 7), (10, 11, 12), (-3.0, -9.0, -1.0), 1.0, replayed=not recompute),
        Sample("old", (5, 7), (10, 13), (-3.5, -2.0), -1.0, replayed=not recompute),
    ]
    parts = policy.parts(samples)
    old = [policy._old_log_probs(part) for part in parts]
    with torch.no_grad():
        before = policy.log_probs(samples).log_probs.double().numpy()
    policy._optimizer_step(samples, old, (5, 2))
    with torch.no_grad():
        after = policy.log_probs(samples).log_probs.double().numpy()
    loss = policy._optimizer_step(samples, old, (5, 2)).loss

    expected = 0.0
    for row, sample in enumerate(samples):
        length = len(sample.behaviour_log_probs)
        now, reference = after[row, :length], before[row, :length]
        ratio = np.exp(np.mean(now - reference))
        weight = np.exp(np.mean(reference - np.array(sample.behaviour_log_probs)))
        advantage = sample.advantage
        expected -= weight * min(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage) / 2
    assert np.abs(after - before).max() > 0.1
    assert loss == pytest.approx(expected, rel=1e-4)


def test_the_weight_of_replayed_tokens_can_be_capped() -> None:
    losses = []
    for cap in (None, 2.0):
        model = add_lora(tiny_model(tiny_tokenizer(), seed=3), rank=4, seed=1)
        policy = Policy(model, UpdateSettings(replay_importance_cap=cap))
        sample = Sample("old", (5, 7), (10,), (-9.0,), 1.0, replayed=True)
        losses.append(policy.update([sample]).loss)
    assert losses[0] < -100
    assert losses[1] == pytest.approx(-2.0)


def test_a_share_of_every_batch_is_replayed_once_there_is_something_to_replay(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, curriculum={"batch_size": 4, "rollout_budget": 16}, replay={"share": 0.5})
    trainer, service, _, _ = make_trainer(config)
    asked: list[tuple[int, int]] = []
    next_batch = service.next_batch

    def recording(*arguments: Any, **named: Any) -> Any:
        asked.append((named["batch_size"], named["rollout_budget"]))
        return next_batch(*arguments, **named)

    service.next_batch = recording  # type: ignore[method-assign]
    history = trainer.run().history

    assert asked[0] == (4, 16)
    assert asked[-1] == (2, 8)
    assert [metrics["replay/groups"] for metrics in history] == [4 - batch_size for batch_size, _ in asked]
    assert history[-1]["replay/mean_age_steps"] >= 1
    assert history[-1]["replay/size"] == len(trainer.replay or ())


def test_a_resumed_run_with_replay_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    replay = {"share": 0.5, "capacity_groups": 6}
    straight, _, reporter, whole = make_trainer(tiny_config(tmp_path / "straight", steps=6, replay=replay))
    straight.run()

    first, service, _, _ = make_trainer(tiny_config(tmp_path / "halves", steps=3, replay=replay))
    first.run()
    config = tiny_config(tmp_path / "halves", steps=6, replay=replay)
    second, _, resumed, halves = make_trainer(config, service, first_step=3)
    second.resume()
    second.run()

    for expected, found in zip(weights_of(whole), weights_of(halves), strict=True):
        np.testing.assert_array_equal(expected, found)
    assert reporter.steps[-1]["replay/groups"] == resumed.steps[-1]["replay/groups"] == 2
    assert straight.replay is not None
    assert second.replay is not None
    assert straight.replay.groups == second.replay.groups
