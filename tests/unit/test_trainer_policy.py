"""Options of the update that must not change its result, and options that must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from trainer_client.learner import log_probs
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.samples import Sample
from trainer_client.models.tiny import tiny_model, tiny_tokenizer
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.transformers_engine import TransformersEngine

pytestmark = pytest.mark.torch


def updated(
    checkpointing: bool = False, steps: int = 1, dtype: torch.dtype = torch.float32, **settings: Any
) -> tuple[Any, np.ndarray]:
    """Metrics and adapter weights after updates on the same samples."""
    tokenizer = tiny_tokenizer()
    model = add_lora(tiny_model(tokenizer, seed=3).to(dtype), rank=4, seed=1)
    asked = [RolloutRequest(f"p{i}", tuple(tokenizer(f"{i}+1=")["input_ids"]), 4) for i in range(4)]
    groups = TransformersEngine(model, tokenizer).generate(asked, SamplingParams(max_tokens=6), seed=5)
    samples = [
        Sample(g.prompt_id, g.prompt_token_ids, c.token_ids, c.log_probs, (-1.0) ** place)
        for g in groups
        for place, c in enumerate(g.completions)
    ]
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    policy = Policy(model, UpdateSettings(learning_rate=1e-3, **settings))
    for _ in range(steps):
        metrics = policy.update(samples)
    return metrics, np.concatenate([p.detach().numpy().ravel() for p in policy.parameters])


@pytest.mark.parametrize(
    "options",
    [
        {"checkpointing": True, "share_prompts": False},
        {"share_prompts": False},
        {"recompute_log_probs": True},
        {"clip_low": 0.1, "clip_high": 0.5},
        {"kl_coefficient": 1e-9},
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 40, "checkpointing": True, "share_prompts": False},
    ],
)
def test_what_should_not_matter_on_policy_does_not(options: dict[str, Any]) -> None:
    plain, expected = updated()
    metrics, found = updated(**options)
    assert metrics.gradient_norm == pytest.approx(plain.gradient_norm, rel=1e-3)
    # Adam's first step is the gradient's sign: weights whose gradient is about zero may go either way.
    assert np.mean(np.abs(found - expected) < 1e-5) > 0.99


def test_a_strong_kl_term_holds_the_policy_near_its_start() -> None:
    kls = []
    for coefficient in (1e-9, 50.0):
        metrics, _ = updated(steps=8, kl_coefficient=coefficient)
        kls.append(metrics.reference_kl)
    assert 0 < kls[1] < kls[0] / 2


def test_more_epochs_on_a_batch_move_further_until_the_clip_holds() -> None:
    _, once = updated(epochs=1)
    _, often = updated(epochs=6)
    assert np.linalg.norm(often - once) > 0
    clipped, _ = updated(epochs=6, steps=6, clip_low=1e-4, clip_high=1e-4)
    assert clipped.clip_share > 0.3


def test_the_learning_rate_rises_over_the_warm_up() -> None:
    tokenizer = tiny_tokenizer()
    policy = Policy(tiny_model(tokenizer), UpdateSettings(learning_rate=1.0, warmup_updates=4))
    rates = []
    for updates in range(6):
        policy.updates = updates
        policy._set_learning_rate()
        rates.append(policy.optimizer.param_groups[0]["lr"])
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("options", [{"dtype": torch.bfloat16}, {"mixed_precision": True}])
def test_bfloat16_gives_about_the_same_update_and_adapters_stay_float32(options: dict[str, Any]) -> None:
    plain, expected = updated()
    metrics, found = updated(**options)
    assert found.dtype == np.float32
    assert metrics.gradient_norm == pytest.approx(plain.gradient_norm, rel=0.1)
    # Adam's first step, 1e-3, goes by the gradient's sign: bfloat16 turns it where it is about zero.
    assert np.mean(np.abs(expected - found) < 2.5e-4) > 0.8


def test_logits_read_piece_by_piece_give_the_same_numbers_and_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(50, 11), torch.randint(11, (50,))
    found = []
    for piece_tokens in (1000, 16):
        monkeypatch.setattr(log_probs, "PIECE_TOKENS", piece_tokens)
        leaf = logits.clone().requires_grad_()
        values, entropies = log_probs.token_statistics(leaf, targets, temperature=0.7)
        (values * torch.arange(50)).sum().backward()
        assert not entropies.requires_grad
        found.append((values.detach(), entropies, leaf.grad))
    for whole, pieces in zip(*found, strict=True):
        torch.testing.assert_close(whole, pieces)
    expected = torch.log_softmax(logits / 0.7, dim=-1)[torch.arange(50), targets]
    torch.testing.assert_close(found[0][0], expected)
