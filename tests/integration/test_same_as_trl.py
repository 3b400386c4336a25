"""Our advantages and losses against TRL's own, on the same numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from trainer_client.learner.advantages import Estimator, batch_advantages
from trainer_client.learner.log_probs import completion_log_probs
from trainer_client.learner.losses import Aggregation, Ratio, clipped_policy_loss, token_weights
from trainer_client.learner.samples import Sample
from trainer_client.models.tiny import tiny_model, tiny_tokenizer

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

REWARDS = [1.0, 0.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.0]
COMMON: dict[str, Any] = {
    "beta": 0.0,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 5,
    "max_steps": 1,
    "use_cpu": True,
    "bf16": False,
    "report_to": [],
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}


def given(completions: Sequence[str], **columns: Any) -> list[float]:
    return REWARDS[: len(completions)]


def make(kind: Any, config: Any, folder: Path, **changes: Any) -> Any:
    tokenizer = tiny_tokenizer()
    return kind(
        tiny_model(tokenizer),
        reward_funcs=given,
        args=config(**{**COMMON, "output_dir": str(folder), **changes}),
        train_dataset=Dataset.from_dict({"prompt": ["1+1=", "2+2="]}),
        processing_class=tokenizer,
    )


@pytest.mark.parametrize(
    ("estimator", "kind", "config", "changes"),
    [
        # TRL adds 1e-4 to the deviation, we 1e-6.
        ("grpo", GRPOTrainer, GRPOConfig, {"scale_rewards": "group"}),
        ("dr_grpo", GRPOTrainer, GRPOConfig, {"scale_rewards": "none"}),
        ("rloo", RLOOTrainer, RLOOConfig, {}),
        # For groups of one size the factor n / (n - 1) goes with the whitening.
        ("reinforce_pp", RLOOTrainer, RLOOConfig, {"normalize_advantages": True}),
    ],
)
def test_advantages_are_trls(
    tmp_path: Path, estimator: Estimator, kind: Any, config: Any, changes: dict[str, Any]
) -> None:
    trainer = make(kind, config, tmp_path, **changes)
    trainer.train()
    theirs = list(trainer._logs["advantages"])
    ours = np.concatenate(batch_advantages([np.array(REWARDS[:4]), np.array(REWARDS[4:])], estimator))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


def batch_of(folder: Path) -> tuple[list[Sample], dict[str, Tensor]]:
    """Completions of several lengths in our form and in TRL's, with old and reference log-probabilities."""
    rng = np.random.default_rng(5)
    lengths, prompts = [5, 2, 4, 1, 3, 5], [(4, 7, 9), (5, 6, 8)]
    samples = []
    for row, length in enumerate(lengths):
        tokens = tuple(int(token) for token in rng.integers(3, 40, length))
        advantage = float(rng.normal())
        samples.append(Sample(f"p{row // 3}", prompts[row // 3], tokens, (0.0,) * length, advantage))
    ids, mask = torch.zeros(6, 5, dtype=torch.long), torch.zeros(6, 5)
    for row, sample in enumerate(samples):
        ids[row, : lengths[row]] = torch.tensor(sample.completion_token_ids)
        mask[row, : lengths[row]] = 1
    prompt_ids = torch.tensor([sample.prompt_token_ids for sample in samples])
    noise = torch.tensor(rng.normal(0, 0.3, (2, 6, 5)), dtype=torch.float32)
    tokenizer = tiny_tokenizer()
    with torch.no_grad():
        now = completion_log_probs(tiny_model(tokenizer), samples).log_probs
    return samples, {
        "prompt_ids": prompt_ids,
        "prompt_mask": torch.ones_like(prompt_ids),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": torch.tensor([sample.advantage for sample in samples]),
        "old_per_token_logps": (now + noise[0]) * mask,
        "ref_per_token_logps": (now + noise[1]) * mask,
    }


@pytest.mark.parametrize(
    ("aggregation", "ratio", "changes"),
    [
        ("sequence_mean", "token", {"loss_type": "grpo"}),
        ("token_mean", "token", {"loss_type": "bnpo", "epsilon_high": 0.28}),
        ("fixed_length", "token", {"loss_type": "dr_grpo"}),
        ("sequence_mean", "sequence", {"loss_type": "grpo", "importance_sampling_level": "sequence"}),
        ("sequence_mean", "token", {"loss_type": "grpo", "beta": 0.1, "use_bias_correction_kl": False}),
    ],
    ids=["grpo", "clip-higher", "dr_grpo", "gspo", "kl"],
)
def test_losses_and_their_gradients_are_trls(
    tmp_path: Path, aggregation: Aggregation, ratio: Ratio, changes: dict[str, Any]
) -> None:
    samples, inputs = batch_of(tmp_path)
    settings: dict[str, Any] = {"epsilon": 0.2, "temperature": 1.0, **changes}
    # By its settings it would load a reference model, which this one, made in code, has no folder for.
    beta = settings.pop("beta", 0.0)
    trainer = make(GRPOTrainer, GRPOConfig, tmp_path, **settings)
    trainer.beta = beta
    model = trainer.model.eval()
    theirs = trainer._compute_loss(model, inputs)
    theirs.backward()
    their_gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()

    now = completion_log_probs(model, samples)
    terms = clipped_policy_loss(
        now.log_probs,
        inputs["old_per_token_logps"],
        inputs["advantages"],
        now.mask,
        token_weights(now.mask, aggregation, total_tokens=20, total_sequences=6, max_tokens=5),
        ratio=ratio,
        clip_low=0.2,
        clip_high=changes.get("epsilon_high", 0.2),
        reference_log_probs_R_T=inputs["ref_per_token_logps"] if beta else None,
        kl_coefficient=beta,
    )
    terms.loss.backward()
    assert float(terms.clipped_tokens) > 0
    torch.testing.assert_close(terms.loss, theirs, rtol=1e-4, atol=1e-6)
    for ours, gradient in zip((p.grad for p in model.parameters()), their_gradients, strict=True):
        torch.testing.assert_close(ours, gradient, rtol=1e-3, atol=1e-6)
