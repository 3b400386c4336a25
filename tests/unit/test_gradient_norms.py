"""Norms of log π's gradient per rollout, against differentiation one by one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer_fakes import FakeCurriculum, QuietReporter
from tests.unit.test_trainer_loop import digit_pool, make_trainer, tiny_config
from trainer_client.assembly import CurriculumFacts, build_learner, build_trainer, curriculum_facts
from trainer_client.client import Strategy
from trainer_client.config import parse_config
from trainer_client.learner.gradient_norms import PolicyGradientNorms
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.samples import Sample
from trainer_client.models.tiny import tiny_model, tiny_tokenizer
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.transformers_engine import TransformersEngine
from trainer_client.stopping import StopRequest
from trainer_client.trainer_errors import ConfigError

pytestmark = pytest.mark.torch


def rolled_out(model: Any, tokenizer: Any) -> list[Sample]:
    asked = [
        RolloutRequest(f"p{place}", tuple(tokenizer(text)["input_ids"]), 3)
        for place, text in enumerate(["1+1=", "20+30=", "copy:"])
    ]
    sampling = SamplingParams(max_tokens=6, stop=("a", "e", "4"))
    groups = TransformersEngine(model, tokenizer).generate(asked, sampling, seed=2)
    return [
        Sample(group.prompt_id, group.prompt_token_ids, c.token_ids, c.log_probs, 0.0)
        for group in groups
        for c in group.completions
    ]


def naive_norm(model: Any, sample: Sample, temperature: float, weights: list[Any]) -> float:
    """By plain autograd over prompt and completion."""
    ids = torch.tensor([[*sample.prompt_token_ids, *sample.completion_token_ids]])
    rows = torch.log_softmax(model(ids).logits[0] / temperature, dim=-1)
    start = len(sample.prompt_token_ids)
    total = sum(rows[start - 1 + place, token] for place, token in enumerate(sample.completion_token_ids))
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    return float(sum(g.pow(2).sum() for g in gradients if g is not None).sqrt())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("lora", [True, False])
def test_exact_norms_are_those_of_the_trained_weights(temperature: float, lora: bool) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, seed=3)
    if lora:
        model = add_lora(model, rank=4, seed=1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1)
    policy = Policy(model, UpdateSettings(temperature=temperature))
    samples = rolled_out(model, tokenizer)
    assert len({len(sample.completion_token_ids) for sample in samples}) > 1
    found = PolicyGradientNorms(policy, "exact").measure(samples)
    expected = [naive_norm(model, sample, temperature, policy.parameters) for sample in samples]
    np.testing.assert_allclose(found, expected, rtol=1e-3)
    assert all(parameter.grad is None for parameter in policy.parameters)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_norms_of_the_head_need_no_differentiation(temperature: float) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, seed=3)
    # The head alone: where it is tied to the embeddings they would count too.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    policy = Policy(
        add_lora(model, rank=4, seed=1), UpdateSettings(temperature=temperature, micro_batch_tokens=40)
    )
    samples = rolled_out(policy.model, tokenizer)
    found = PolicyGradientNorms(policy, "last_layer").measure(samples)
    head = policy.model.get_output_embeddings().weight.requires_grad_(True)
    expected = [naive_norm(policy.model, sample, temperature, [head]) for sample in samples]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_an_empty_completion_has_no_gradient() -> None:
    tokenizer = tiny_tokenizer()
    policy = Policy(add_lora(tiny_model(tokenizer, seed=3), seed=1), UpdateSettings())
    samples = [Sample("p", (4, 5), (), (), 0.0), Sample("p", (4, 5), (6,), (-1.0,), 0.0)]
    for method in ("exact", "last_layer"):
        empty, full = PolicyGradientNorms(policy, method).measure(samples)  # type: ignore[arg-type]
        assert empty == 0 < full


@pytest.mark.parametrize("method", ["exact", "last_layer"])
def test_norms_are_reported_beside_the_rewards_of_the_same_rollouts(tmp_path: Path, method: str) -> None:
    config = tiny_config(tmp_path, steps=1, learner={"gradient_norms": method})
    service = FakeCurriculum([prompt.prompt_id for prompt in digit_pool().train], max_rounds=2)
    trainer, _, _, _ = make_trainer(config, service)
    history = trainer.run().history
    assert history[0]["seconds/gradient_norms"] > 0
    assert len(service.gradient_norms) == len(service.reports)
    for norms, report in zip(service.gradient_norms, service.reports, strict=True):
        assert norms is not None
        assert [len(group) for group in norms] == [len(group[0]) for group in report.values()]
        assert all(norm > 0 for group in norms for norm in group)


def test_norms_that_nobody_uses_are_not_measured(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=1, learner={"gradient_norms": "exact"})
    pool = digit_pool()
    service, reporter = FakeCurriculum([p.prompt_id for p in pool.train]), QuietReporter()
    trainer = build_trainer(
        config,
        service,
        build_learner(config),
        pool,
        reporter,
        StopRequest(),
        facts=CurriculumFacts(uses_gradient_norms=False),
    )
    trainer.run()
    assert service.gradient_norms == [None]
    assert "not measured" in reporter.notes[0]


def test_the_strategy_says_whether_norms_are_used() -> None:
    strategy = Strategy()
    strategy.quota.update({"gvm": {}})
    strategy.estimator.update({"success_threshold": 0.25})
    assert curriculum_facts(strategy) == CurriculumFacts(0.25, True)
    strategy = Strategy()
    strategy.quota.update({"fixed": {}})
    assert curriculum_facts(strategy) == CurriculumFacts(0.5, False)


def test_norms_and_lookahead_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="lookahead: 0"):
        parse_config(
            {
                "tasks": [{"type": "arithmetic"}],
                "rollouts": {"lookahead": 1},
                "learner": {"gradient_norms": "exact"},
            }
        )
