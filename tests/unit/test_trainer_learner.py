"""Advantages, shaping, masks and losses against their published or hand-computed values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from trainer_client.learner.advantages import batch_advantages, is_mixed, keep_mask
from trainer_client.learner.losses import clipped_policy_loss, k3, token_weights, truncated_importance
from trainer_client.learner.masks import distinct_mask, token_similarity
from trainer_client.learner.shaping import format_penalised, lead_weight, lead_weighted, length_shaped

pytestmark = pytest.mark.torch


def arrays(*groups: list[float]) -> list[np.ndarray]:
    return [np.array(group, dtype=np.float64) for group in groups]


def test_grpo_divides_by_the_sample_standard_deviation() -> None:
    (advantages,) = batch_advantages(arrays([1, 0, 0, 0]), "grpo")
    np.testing.assert_allclose(advantages, [1.5, -0.5, -0.5, -0.5], atol=1e-5)


def test_dr_grpo_takes_the_mean_away_and_nothing_else() -> None:
    (advantages,) = batch_advantages(arrays([1.0] * 3 + [0.0] * 13), "dr_grpo")
    assert set(advantages.tolist()) == {0.8125, -0.1875}


def test_rloo_compares_with_the_mean_of_the_others() -> None:
    rewards = np.array([1.0, 0.5, 0.0])
    (advantages,) = batch_advantages([rewards], "rloo")
    expected = [rewards[i] - np.delete(rewards, i).mean() for i in range(3)]
    np.testing.assert_allclose(advantages, expected)


def test_reinforce_pp_whitens_over_the_batch() -> None:
    advantages = np.concatenate(batch_advantages(arrays([1, 0], [1, 1, 0, 0], [1, 0, 0]), "reinforce_pp"))
    assert advantages.mean() == pytest.approx(0, abs=1e-12)
    assert advantages.std(ddof=1) == pytest.approx(1, abs=1e-4)


def test_raft_trains_on_positives_only() -> None:
    assert [a.tolist() for a in batch_advantages(arrays([1, 0, 0.4], [0.9]), "raft")] == [[1, 0, 0], [1]]


def test_global_uses_the_frozen_baseline_or_the_batch_mean() -> None:
    groups = arrays([1, 0], [1])
    frozen = batch_advantages(groups, "global", baselines=[0.25, 0.75])
    assert [a.tolist() for a in frozen] == [[0.75, -0.25], [0.25]]
    mean = batch_advantages(groups, "global")
    np.testing.assert_allclose(mean[1], [1 / 3])


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo", "reinforce_pp"])
def test_a_group_of_one_has_no_advantage(estimator: str) -> None:
    advantages = batch_advantages(arrays([1.0], [1, 0], [0.0]), estimator)  # type: ignore[arg-type]
    assert advantages[0].tolist() == [0]
    assert advantages[2].tolist() == [0]
    assert advantages[1][0] > 0 > advantages[1][1]


@pytest.mark.parametrize("estimator", ["grpo", "dr_grpo", "rloo"])
def test_equal_rewards_give_exactly_zero(estimator: str) -> None:
    (advantages,) = batch_advantages(arrays([0.1] * 7), estimator)  # type: ignore[arg-type]
    assert advantages.tolist() == [0] * 7


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match=r"'ppo'.*grpo"):
        batch_advantages(arrays([1]), "ppo")  # type: ignore[arg-type]


def test_the_first_rollouts_of_each_sign_are_kept() -> None:
    rewards = np.array([0, 1, 0, 1, 1, 0], dtype=np.float64)
    assert keep_mask(rewards, 2, 1).tolist() == [True, True, False, True, False, False]
    assert not keep_mask(rewards, 0, 0).any()


def test_success_is_strictly_above_the_threshold() -> None:
    assert not is_mixed(np.array([0.5, 0.5, 0.2]))
    assert is_mixed(np.array([0.51, 0.5]))


@pytest.mark.parametrize(("share", "weight"), [(0, 1.499392), (0.5, 1.416556), (0.75, 0.95), (1, 0.483444)])
def test_lead_weights_are_the_published_ones(share: float, weight: float) -> None:
    assert lead_weight(share) == pytest.approx(weight, abs=1e-6)


def test_lead_weights_a_rare_success_up_and_its_many_failures_down() -> None:
    weighted = lead_weighted(np.array([1.0, -1.0]), 0.25)
    np.testing.assert_allclose(weighted, [lead_weight(0.25), -lead_weight(0.75)])


def test_the_length_reward_touches_correct_answers_only() -> None:
    shaped = length_shaped(np.array([1, 1, 1, 0.0]), np.array([1000, 2000, 3000, 9]))
    np.testing.assert_allclose(shaped, [1.051271, 1, 0.951229, 0], atol=1e-6)
    assert length_shaped(np.array([1.0, 0.0]), np.array([5, 9])).tolist() == [1, 0]


def test_the_format_penalties() -> None:
    assert format_penalised(1.0, correct=True, has_answer=True, repeats=False) == 1
    assert format_penalised(0.0, correct=False, has_answer=True, repeats=False) == -1
    assert format_penalised(0.0, correct=False, has_answer=False, repeats=False) == 0
    assert format_penalised(1.0, correct=True, has_answer=True, repeats=True) == -2


def test_rollouts_like_all_of_the_opposite_sign_are_masked() -> None:
    tokens = [[1, 2, 3, 4], [1, 2, 3, 5], [9, 9, 9, 9]]
    success = np.array([True, False, True])
    assert token_similarity(tokens[0], tokens[1]) == 0.75
    # The wrong one is like one right one, but not like the other: it stays.
    assert distinct_mask(tokens, success, 0.7).tolist() == [False, True, True]
    assert distinct_mask(tokens, success, 0.8).all()
    assert distinct_mask(tokens, np.array([True] * 3), 0.1).all()


def loss_of(new: list[list[float]], old: list[list[float]], advantages: list[float], **options: object):
    mask = torch.tensor([[float(value != 0) for value in row] for row in old])
    weights = token_weights(
        mask,
        options.pop("aggregation", "token_mean"),  # type: ignore[arg-type]
        total_tokens=int(mask.sum()),
        total_sequences=len(new),
        max_tokens=4,
    )
    log_probs = torch.tensor(new, requires_grad=True)
    terms = clipped_policy_loss(
        log_probs,
        torch.tensor(old),
        torch.tensor(advantages),
        mask,
        weights,
        **options,  # type: ignore[arg-type]
    )
    terms.loss.backward()
    return terms, log_probs.grad


def test_on_policy_the_loss_is_minus_the_mean_advantage_and_the_gradient_its_policy_gradient() -> None:
    terms, gradient = loss_of([[-1.0, -2.0], [-1.5, 0.0]], [[-1.0, -2.0], [-1.5, 0.0]], [1.0, -2.0])
    assert terms.loss.item() == pytest.approx(-(1 + 1 - 2) / 3)
    np.testing.assert_allclose(gradient, [[-1 / 3, -1 / 3], [2 / 3, 0]], atol=1e-7)


def test_a_ratio_beyond_the_clip_has_no_gradient_in_the_direction_of_its_advantage() -> None:
    ratio = 1.25
    old, new = [[-1.0]], [[-1.0 + math.log(ratio)]]
    terms, gradient = loss_of(new, old, [1.0])
    assert terms.loss.item() == pytest.approx(-1.2)
    assert gradient.item() == 0
    assert terms.clipped_tokens.item() == 1
    terms, gradient = loss_of(new, old, [1.0], clip_high=0.28)
    assert terms.loss.item() == pytest.approx(-ratio)
    assert gradient.item() == pytest.approx(-ratio)
    terms, gradient = loss_of(new, old, [-1.0])
    assert gradient.item() == pytest.approx(ratio)


def test_gspo_clips_the_sequence_as_one() -> None:
    # One token is far up, the other as far down: the geometric mean is 1 and nothing is clipped.
    old, new = [[-1.0, -1.0]], [[-0.5, -1.5]]
    terms, gradient = loss_of(new, old, [1.0], ratio="sequence", aggregation="sequence_mean")
    assert terms.loss.item() == pytest.approx(-1.0)
    np.testing.assert_allclose(gradient, [[-0.5, -0.5]], atol=1e-6)
    clipped, _ = loss_of(new, old, [1.0])
    assert clipped.clipped_tokens.item() == 1


@pytest.mark.parametrize(
    ("aggregation", "weights"),
    [
        ("token_mean", [[1 / 3, 1 / 3], [1 / 3, 0]]),
        ("sequence_mean", [[1 / 4, 1 / 4], [1 / 2, 0]]),
        ("fixed_length", [[1 / 8, 1 / 8], [1 / 8, 0]]),
    ],
)
def test_aggregations_weigh_tokens_as_named(aggregation: str, weights: list[list[float]]) -> None:
    mask = torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    found = token_weights(mask, aggregation, total_tokens=3, total_sequences=2, max_tokens=4)  # type: ignore
    np.testing.assert_allclose(found, weights, rtol=1e-6)


def test_k3_is_never_negative_and_zero_for_equal_policies() -> None:
    log_probs = torch.tensor([-1.0, -1.0, -1.0])
    values = k3(log_probs, torch.tensor([-1.0, -0.5, -2.0]))
    np.testing.assert_allclose(values, [0, math.exp(0.5) - 1.5, math.exp(-1.0) + 1 - 1], atol=1e-6)


def test_k3_estimates_the_kl_in_expectation() -> None:
    policy = torch.tensor([0.7, 0.2, 0.1])
    reference = torch.tensor([0.5, 0.3, 0.2])
    expected = (policy * (policy / reference).log()).sum()
    estimate = (policy * k3(policy.log(), reference.log())).sum()
    assert estimate.item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_kl_term_pulls_towards_the_reference() -> None:
    _, gradient = loss_of(
        [[-1.0]],
        [[-1.0]],
        [0.0],
        kl_coefficient=0.5,
        reference_log_probs_R_T=torch.tensor([[-2.0]]),
    )
    assert gradient.item() == pytest.approx(0.5 * (1 - math.exp(-1)))


def test_importance_weights_are_truncated() -> None:
    found = truncated_importance(
        torch.tensor([[-1.0, -1.0], [-1.0, -1.0]]),
        torch.tensor([[-3.0, -0.5], [-3.0, -0.5]]),
        torch.tensor([[2.0], [math.inf]]),
    )
    np.testing.assert_allclose(found, [[2.0, math.exp(-0.5)], [math.exp(2.0), math.exp(-0.5)]], rtol=1e-6)
