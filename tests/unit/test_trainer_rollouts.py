"""Sampling and log-probabilities with a tiny random model, against naive computations."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from trainer_client.learner.log_probs import completion_log_probs
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.samples import Sample, micro_batches
from trainer_client.models.tiny import tiny_model, tiny_tokenizer
from trainer_client.rollouts import RolloutGroup, RolloutRequest, SamplingParams
from trainer_client.rollouts.transformers_engine import TransformersEngine, sample_tokens

pytestmark = pytest.mark.torch
PROMPTS = ["1+1=", "20+3=", "7*8=56\n3*3=", "9", "copy me please:"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    made = tiny_model(tokenizer, seed=3)
    # Random embeddings are small; scaled up, the model has preferences.
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(3)
    return made


def requests(tokenizer: Any, counts: list[int]) -> list[RolloutRequest]:
    return [
        RolloutRequest(f"p{index}", tuple(tokenizer(text)["input_ids"]), count)
        for index, (text, count) in enumerate(zip(PROMPTS, counts, strict=True))
    ]


def samples_of(groups: list[RolloutGroup]) -> list[Sample]:
    return [
        Sample(group.prompt_id, group.prompt_token_ids, c.token_ids, c.log_probs, 1.0)
        for group in groups
        for c in group.completions
    ]


def naive_log_probs(model: Any, sample: Sample, temperature: float) -> list[float]:
    ids = torch.tensor([[*sample.prompt_token_ids, *sample.completion_token_ids]])
    with torch.no_grad():
        logits = model(ids).logits[0] / temperature
    start = len(sample.prompt_token_ids)
    rows = torch.log_softmax(logits, dim=-1)
    return [rows[start - 1 + i, token].item() for i, token in enumerate(sample.completion_token_ids)]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("share_prompts", [True, False])
def test_log_probs_equal_a_naive_forward(
    model: Any, tokenizer: Any, temperature: float, share_prompts: bool
) -> None:
    engine = TransformersEngine(model, tokenizer, max_batch_rows=5)
    sampling = SamplingParams(temperature=temperature, max_tokens=9, stop=("a", "e", "i", "4", "7", "+"))
    samples = samples_of(engine.generate(requests(tokenizer, [3, 1, 4, 2, 3]), sampling, seed=1))
    assert len({len(sample.completion_token_ids) for sample in samples}) > 1
    model.eval()
    found = completion_log_probs(model, samples, temperature=temperature, share_prompts=share_prompts)
    for row, sample in enumerate(samples):
        naive = naive_log_probs(model, sample, temperature)
        length = len(sample.completion_token_ids)
        np.testing.assert_allclose(found.log_probs[row, :length].detach(), naive, atol=1e-4)
        np.testing.assert_allclose(sample.behaviour_log_probs, naive, atol=1e-4)
        assert found.mask[row].sum() == length


def test_sharing_prompts_gives_the_same_gradient(tokenizer: Any) -> None:
    made = tiny_model(tokenizer, seed=3)
    samples = samples_of(
        TransformersEngine(made, tokenizer).generate(
            requests(tokenizer, [2, 3, 1, 2, 2]), SamplingParams(max_tokens=6), seed=5
        )
    )
    gradients = []
    for share_prompts in (True, False):
        made.zero_grad()
        completion_log_probs(made, samples, share_prompts=share_prompts).log_probs.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in made.parameters()]))
    assert gradients[0].norm() > 0
    np.testing.assert_allclose(gradients[0], gradients[1], atol=2e-4)


def test_micro_batches_do_not_change_the_update(tokenizer: Any) -> None:
    updated = []
    for tokens in (10_000, 40):
        made = add_lora(tiny_model(tokenizer, seed=3), rank=4, seed=1)
        groups = TransformersEngine(made, tokenizer).generate(
            requests(tokenizer, [4, 2, 4, 2, 2]), SamplingParams(max_tokens=6), seed=5
        )
        samples = [
            Sample(
                s.prompt_id, s.prompt_token_ids, s.completion_token_ids, s.behaviour_log_probs, (-1.0) ** i
            )
            for i, s in enumerate(samples_of(groups))
        ]
        policy = Policy(made, UpdateSettings(learning_rate=1e-3, micro_batch_tokens=tokens))
        metrics = policy.update(samples)
        assert metrics.clip_share == 0
        updated.append((metrics.loss, metrics.gradient_norm))
    np.testing.assert_allclose(updated[0], updated[1], rtol=1e-3)


def test_micro_batches_hold_every_sample_once_and_keep_to_the_limit() -> None:
    samples = [
        Sample(f"p{i % 5}", tuple(range(3 + i % 5)), tuple(range(1 + i % 3)), (0.0,), 1.0) for i in range(40)
    ]
    parts = list(micro_batches(samples, 60))
    assert sum(len(part) for part in parts) == 40
    assert {id(sample) for part in parts for sample in part} == {id(sample) for sample in samples}
    for part in parts:
        prompts = {sample.prompt_token_ids for sample in part}
        padded = len(prompts) * max(map(len, prompts))
        padded += len(part) * max(len(sample.completion_token_ids) for sample in part)
        assert padded <= 60 or len(part) == 1


def test_micro_batches_go_by_whatever_needs_less_reading() -> None:
    def lengths(prompt: int, completions: list[int]) -> list[list[int]]:
        samples = [
            Sample(f"p{p}", (p,) * prompt, (1,) * length, (0.0,) * length, 1.0)
            for p in range(2)
            for length in completions
        ]
        return [[len(s.completion_token_ids) for s in part] for part in micro_batches(samples, 220)]

    # Long prompts: together, each is read once.
    assert lengths(100, [10, 60]) == [[10, 60], [10, 60]]
    # Short prompts cost less than the padding of 5 to 100.
    assert lengths(5, [5, 100]) == [[5, 5], [100, 100]]


def test_each_request_gets_its_own_number_of_completions_in_order(model: Any, tokenizer: Any) -> None:
    asked = requests(tokenizer, [3, 0, 7, 1, 2])
    groups = TransformersEngine(model, tokenizer, max_batch_rows=4).generate(
        asked, SamplingParams(max_tokens=5), seed=2
    )
    assert [group.prompt_id for group in groups] == [request.prompt_id for request in asked]
    assert [len(group.completions) for group in groups] == [3, 0, 7, 1, 2]


def test_completions_do_not_depend_on_what_shares_their_batch(model: Any, tokenizer: Any) -> None:
    asked = requests(tokenizer, [3, 3, 3, 3, 3])
    sampling = SamplingParams(max_tokens=8)
    together = TransformersEngine(model, tokenizer, max_batch_rows=64).generate(asked, sampling, seed=4)
    alone = [
        TransformersEngine(model, tokenizer, max_batch_rows=1).generate([request], sampling, seed=4)[0]
        for request in asked
    ]
    for first, second in zip(together, alone, strict=True):
        assert [c.token_ids for c in first.completions] == [c.token_ids for c in second.completions]


def test_a_continuation_draws_the_random_numbers_that_come_next(model: Any, tokenizer: Any) -> None:
    engine, sampling = TransformersEngine(model, tokenizer), SamplingParams(max_tokens=8)
    whole = requests(tokenizer, [6, 6, 6, 6, 6])
    straight = engine.generate(whole, sampling, seed=4)
    with engine.session(sampling, 4) as session:
        session.submit([replace(request, n=2) for request in whole])
        begun = session.finished()
        session.submit([replace(request, n=4, first=2) for request in whole])
        ended = session.finished()
        assert session.finished() == []
    for all_six, two, four in zip(straight, begun, ended, strict=True):
        in_rounds = two.completions + four.completions
        assert [c.token_ids for c in all_six.completions] == [c.token_ids for c in in_rounds]
        # Batches of other sizes are summed in another order.
        for one, other in zip(all_six.completions, in_rounds, strict=True):
            assert one.log_probs == pytest.approx(other.log_probs, abs=1e-4)


def test_another_seed_gives_other_completions(model: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(model, tokenizer)
    asked = requests(tokenizer, [4, 4, 4, 4, 4])
    first, again, other = (engine.generate(asked, SamplingParams(max_tokens=8), seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_stop_string_ends_a_completion_and_is_not_in_its_text(model: Any, tokenizer: Any) -> None:
    groups = TransformersEngine(model, tokenizer).generate(
        requests(tokenizer, [40, 40, 40, 40, 40]), SamplingParams(max_tokens=12, stop=("a", "12")), seed=3
    )
    completions = [c for group in groups for c in group.completions]
    stopped = [c for c in completions if c.finish_reason == "stop"]
    assert stopped
    for completion in completions:
        assert "a" not in completion.text
        decoded = tokenizer.decode(completion.token_ids)
        ended = decoded.endswith(("a", "12", "<eos>"))
        assert ended == (completion.finish_reason == "stop")
        assert ended or len(completion.token_ids) == 12


def test_greedy_takes_the_likeliest_token(model: Any, tokenizer: Any) -> None:
    (group,) = TransformersEngine(model, tokenizer).generate(
        requests(tokenizer, [1] * 5)[:1], SamplingParams(temperature=0, max_tokens=3), seed=0
    )
    ids = list(group.prompt_token_ids)
    for token in group.completions[0].token_ids:
        with torch.no_grad():
            assert model(torch.tensor([ids])).logits[0, -1].argmax().item() == token
        ids.append(token)


def test_draws_follow_the_distribution_at_the_temperature() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.2, 0.0]])).repeat(40_000, 1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(40_000))
    tokens, log_probs = sample_tokens(logits, uniforms, SamplingParams(temperature=0.5))
    law = np.array([0.25, 0.09, 0.04, 0.0]) / 0.38
    np.testing.assert_allclose(np.bincount(tokens, minlength=4) / 40_000, law, atol=0.01)
    np.testing.assert_allclose(log_probs.exp().numpy(), law[tokens], rtol=1e-4)


def test_the_nucleus_holds_the_least_tokens_with_the_mass() -> None:
    logits = torch.log(torch.tensor([[0.2, 0.5, 0.05, 0.25]])).repeat(2_000, 1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(2_000))
    tokens, _ = sample_tokens(logits, uniforms, SamplingParams(top_p=0.7))
    assert set(tokens.tolist()) == {1, 3}
    tokens, _ = sample_tokens(logits, uniforms, SamplingParams(top_p=0.01))
    assert set(tokens.tolist()) == {1}


def test_adapters_from_a_folder_change_what_is_sampled(tokenizer: Any, tmp_path: Path) -> None:
    trained = add_lora(tiny_model(tokenizer, seed=3), rank=4, seed=1)
    with torch.no_grad():
        for parameter in trained.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    trained.save_pretrained(str(tmp_path / "version-1"))
    engine = TransformersEngine(add_lora(tiny_model(tokenizer, seed=3), rank=4, seed=1), tokenizer)
    asked, sampling = requests(tokenizer, [4] * 5), SamplingParams(max_tokens=6)
    before = engine.generate(asked, sampling, seed=0)
    engine.update_policy(1, tmp_path / "version-1")
    after = engine.generate(asked, sampling, seed=0)
    assert engine.policy_version == 1
    assert before != after
    assert after == TransformersEngine(trained, tokenizer).generate(asked, sampling, seed=0)


def test_lora_leaves_the_base_weights_alone_and_starts_as_the_base(tokenizer: Any) -> None:
    base = tiny_model(tokenizer, seed=3)
    expected = base(torch.tensor([[5, 6, 7]])).logits.detach()
    adapted = add_lora(base, rank=4)
    names = {name for name, parameter in adapted.named_parameters() if parameter.requires_grad}
    assert names
    assert all("lora_" in name and "lm_head" not in name for name in names)
    layers = {name.split(".")[-4] for name in names}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    np.testing.assert_allclose(adapted(torch.tensor([[5, 6, 7]])).logits.detach(), expected, atol=1e-6)


def test_the_mean_kl_is_zero_before_an_update_and_positive_after(tokenizer: Any) -> None:
    policy = Policy(add_lora(tiny_model(tokenizer, seed=3), seed=1), UpdateSettings(learning_rate=0.01))
    samples = samples_of(
        TransformersEngine(policy.model, tokenizer).generate(
            requests(tokenizer, [4] * 5), SamplingParams(max_tokens=6), seed=0
        )
    )
    probe = policy.probe(samples)
    # Not below zero by rounding: the service refuses that.
    assert 0 <= policy.mean_kl(probe) <= 1e-6
    for _ in range(3):
        policy.update(samples)
    assert policy.mean_kl(probe) > 1e-4


def test_movement_is_measured_from_the_learner_where_the_engine_computes_otherwise(tokenizer: Any) -> None:
    model = add_lora(tiny_model(tokenizer, seed=3), seed=1)
    exact = samples_of(
        TransformersEngine(model, tokenizer).generate(
            requests(tokenizer, [4] * 5), SamplingParams(max_tokens=6), seed=0
        )
    )
    noisy = [replace(s, behaviour_log_probs=tuple(p - 0.3 for p in s.behaviour_log_probs)) for s in exact]
    for recompute, expected in ((True, 0.0), (False, math.exp(0.3) - 1.3)):
        policy = Policy(model, UpdateSettings(recompute_log_probs=recompute))
        assert policy.mean_kl(policy.probe(noisy)) == pytest.approx(expected, abs=0.03)


def test_the_gap_between_engine_and_learner_is_measured_and_its_correction_cut(tokenizer: Any) -> None:
    model = add_lora(tiny_model(tokenizer, seed=3), seed=1)
    exact = samples_of(
        TransformersEngine(model, tokenizer).generate(
            requests(tokenizer, [4] * 5), SamplingParams(max_tokens=6), seed=0
        )
    )
    # The engine thinks every token half as likely as the learner does: the weight is 2, cut at 1.5.
    noisy = [
        replace(s, behaviour_log_probs=tuple(p - math.log(2) for p in s.behaviour_log_probs)) for s in exact
    ]
    replayed = [replace(s, behaviour_log_probs=s.behaviour_log_probs, replayed=True) for s in exact]
    loose, tight = (
        Policy(
            model, UpdateSettings(learning_rate=1e-9, recompute_log_probs=True, importance_cap=cap)
        ).update(noisy + replayed)
        for cap in (3.0, 1.5)
    )
    assert loose.engine_gap == pytest.approx(math.log(2), abs=1e-4)
    assert loose.importance_mean == pytest.approx(2, abs=1e-3)
    assert loose.importance_capped_share == 0
    assert tight.importance_mean == pytest.approx(1.5, abs=1e-6)
    assert tight.importance_capped_share == 1


def test_a_gradient_that_is_not_finite_changes_nothing(tokenizer: Any) -> None:
    policy = Policy(add_lora(tiny_model(tokenizer, seed=3), seed=1), UpdateSettings(learning_rate=0.1))
    before = [parameter.detach().clone() for parameter in policy.parameters]
    metrics = policy.update([Sample("p", (4, 5), (6, 7), (-1.0, -1.0), float("nan"))])
    assert metrics.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, policy.parameters, strict=True))
