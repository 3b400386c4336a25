"""vLLM itself with the small real model, in an environment of its own: `make test-vllm`.

Both sides compute in float32, so that what the engine says of its tokens can be held to what the learner says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.real_vllm.agreement import QUESTIONS, SHOTS, asked, gaps, moved, samples_of
from tests.trainer_fakes import FakeCurriculum, QuietReporter
from trainer_client.assembly import Learner, build_trainer, update_settings
from trainer_client.config import ModelConfig, parse_config
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.samples import Sample
from trainer_client.models.load import load_model
from trainer_client.models.smollm2 import smollm2_directory
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.transformers_engine import TransformersEngine
from trainer_client.rollouts.vllm_engine import VllmEngine
from trainer_client.rounds import ReadPrompt, collect
from trainer_client.stopping import StopRequest
from trainer_client.stopwatch import Stopwatch
from trainer_client.tasks import Pool, TaskPrompt
from trainer_client.tasks.verifiers import exact_match
from trainer_client.trainer_errors import ModelError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def learner() -> tuple[Any, Any]:
    """The model with adapters, and its tokenizer."""
    model, tokenizer = load_model(ModelConfig(path="smollm2", device="cpu"))
    return add_lora(model, rank=8, alpha=16, seed=1), tokenizer


@pytest.fixture(scope="module")
def engine() -> Iterator[VllmEngine]:
    made = VllmEngine(
        str(smollm2_directory()),
        dtype="float32",
        max_model_tokens=512,
        max_lora_rank=8,
        arguments={"enforce_eager": True, "kv_cache_memory_bytes": 1 << 28},
    )
    yield made
    made.close()


@pytest.fixture(autouse=True)
def base_policy(engine: VllmEngine) -> None:
    engine.update_policy(0, None)


def test_quotas_are_kept_in_one_call_and_completions_end_as_the_protocol_says(
    engine: VllmEngine, learner: tuple[Any, Any]
) -> None:
    tokenizer = learner[1]
    sampling = SamplingParams(max_tokens=12, stop=("\n",))
    groups = engine.generate(asked(tokenizer, 3, 1, 0, 5), sampling, seed=3)

    assert [len(group.completions) for group in groups] == [3, 1, 0, 5]
    completions = [c for group in groups for c in group.completions]
    assert {c.finish_reason for c in completions} == {"stop", "length"}
    for completion in completions:
        assert len(completion.token_ids) == len(completion.log_probs) <= 12
        assert "\n" not in completion.text
        text = tokenizer.decode(completion.token_ids)
        ended = "\n" in text or completion.token_ids[-1] == tokenizer.eos_token_id
        assert ended == (completion.finish_reason == "stop")
        assert ended or len(completion.token_ids) == 12
    assert len({c.token_ids for c in groups[3].completions}) > 1


def test_the_same_seed_gives_the_same_tokens_and_a_continuation_goes_on_from_there(
    engine: VllmEngine, learner: tuple[Any, Any]
) -> None:
    sampling = SamplingParams(max_tokens=6)
    (request,) = asked(learner[1], 6)
    (whole,) = engine.generate([request], sampling, seed=4)
    (again,) = engine.generate([request], sampling, seed=4)
    (other,) = engine.generate([request], sampling, seed=5)
    with engine.session(sampling, 4) as session:
        session.submit([RolloutRequest("p0", request.prompt_token_ids, 2)])
        (begun,) = session.finished()
        session.submit([RolloutRequest("p0", request.prompt_token_ids, 4, first=2)])
        (ended,) = session.finished()
    tokens = [c.token_ids for c in whole.completions]
    assert tokens == [c.token_ids for c in again.completions]
    assert tokens == [c.token_ids for c in begun.completions + ended.completions]
    assert tokens != [c.token_ids for c in other.completions]


def test_log_probs_are_the_learners(engine: VllmEngine, learner: tuple[Any, Any]) -> None:
    model, tokenizer = learner
    moved(model, seed=0, scale=0.0)
    groups = engine.generate(asked(tokenizer, 4, 4, 4, 4), SamplingParams(max_tokens=8), seed=1)
    assert gaps(model, groups).max() < 2e-3


def test_every_published_adapter_is_sampled_from_at_once_though_the_prefix_is_cached(
    engine: VllmEngine, learner: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = learner
    sampling = SamplingParams(max_tokens=8)
    texts = []
    for version in (1, 2, 3):
        moved(model, seed=version)
        # The same folder each time: neither its name nor the version may decide what is sampled from.
        model.save_pretrained(str(tmp_path))
        engine.update_policy(7, tmp_path)
        groups = engine.generate(asked(tokenizer, 2, 2, 2, 2), sampling, seed=1)
        assert gaps(model, groups).max() < 2e-3, version
        texts.append([c.token_ids for group in groups for c in group.completions])
    assert texts[0] != texts[1] != texts[2]
    # The measure is not blind: another version's adapters are far off.
    moved(model, seed=1)
    assert gaps(model, groups).mean() > 0.01
    engine.update_policy(0, None)
    moved(model, seed=0, scale=0.0)
    assert gaps(model, engine.generate(asked(tokenizer, 2, 2), sampling, seed=1)).max() < 2e-3


def test_greedy_tokens_are_those_of_the_transformers_engine(
    engine: VllmEngine, learner: tuple[Any, Any], tmp_path: Path
) -> None:
    model, tokenizer = learner
    moved(model, seed=5)
    model.save_pretrained(str(tmp_path))
    engine.update_policy(1, tmp_path)
    greedy = SamplingParams(temperature=0, max_tokens=12, stop=("\n",))
    requests = asked(tokenizer, 1, 1, 1, 1)
    found = engine.generate(requests, greedy, seed=0)
    expected = TransformersEngine(model, tokenizer).generate(requests, greedy, seed=0)
    for one, other in zip(found, expected, strict=True):
        assert one.completions[0].token_ids == other.completions[0].token_ids
        assert one.completions[0].text == other.completions[0].text
        assert one.completions[0].finish_reason == other.completions[0].finish_reason


def test_short_groups_do_not_wait_for_long_ones(engine: VllmEngine, learner: tuple[Any, Any]) -> None:
    tokenizer = learner[1]
    prompts = {
        f"p{index}": ReadPrompt(
            TaskPrompt(f"p{index}", text, "?", exact_match), tuple(tokenizer(text)["input_ids"])
        )
        for index, text in enumerate([SHOTS + "2+2=", "Once upon a time"])
    }
    service = FakeCurriculum(list(prompts), group_size=2, max_rounds=3)
    batch = service.next_batch("c", batch_size=2, step=0)
    sampling = SamplingParams(max_tokens=48, stop=("\n",))
    collected = collect(service, batch, prompts, engine, sampling, 5, Stopwatch(), lambda: False)
    order = [next(iter(report)) for report in service.reports]
    # The sum has had its three rounds before the story is through with its own.
    assert order.count("p0") == order.count("p1") == 3
    assert order[-1] == "p1"
    assert order[:2] == ["p0", "p0"]
    assert all(len(group.completions) == 6 for group in collected.groups)


def test_an_update_trains_on_vllms_rollouts_with_the_engines_gap_corrected(
    engine: VllmEngine, learner: tuple[Any, Any]
) -> None:
    model, tokenizer = learner
    moved(model, seed=0, scale=0.0)
    fresh = add_lora(model.unload(), rank=8, alpha=16, seed=2)
    policy = Policy(fresh, UpdateSettings(learning_rate=1e-4, recompute_log_probs=True))
    groups = engine.generate(asked(tokenizer, 4, 4), SamplingParams(max_tokens=6), seed=1)
    samples = [
        Sample(s.prompt_id, s.prompt_token_ids, s.completion_token_ids, s.behaviour_log_probs, (-1.0) ** i)
        for i, s in enumerate(samples_of(groups))
    ]
    metrics = policy.update(samples)
    assert not metrics.skipped
    assert metrics.clip_share == 0
    assert metrics.engine_gap < 1e-3
    assert metrics.importance_mean == pytest.approx(1, abs=1e-3)


def one_in_two(completion: str, answer: str) -> float:
    """A verdict that says nothing of the model but splits every group."""
    return float(sum(map(ord, completion)) % 2)


def test_a_run_rolls_out_ahead_in_vllm_and_its_updates_reach_it(
    engine: VllmEngine, learner: tuple[Any, Any], tmp_path: Path
) -> None:
    moved(learner[0], seed=0, scale=0.0)
    config = parse_config(
        {
            "name": "ahead",
            "directory": str(tmp_path),
            "steps": 3,
            "model": {"path": "smollm2", "device": "cpu"},
            "lora": {"rank": 8},
            "tasks": [{"type": "arithmetic"}],
            "curriculum": {"batch_size": 2},
            "rollouts": {"engine": "vllm", "lookahead": 1, "max_tokens": 4},
            # Far enough an update to tell the versions apart.
            "learner": {"learning_rate": 1e-2, "max_kl": 1e6},
            "evaluation": {"every": 0, "prompts": 0},
            "checkpoint": {"every": 0},
        }
    )
    fresh = add_lora(learner[0].unload(), rank=8, alpha=16, seed=2)
    ready = Learner(Policy(fresh, update_settings(config)), engine, learner[1])
    train = tuple(TaskPrompt(f"p{index}", text, "", one_in_two) for index, text in enumerate(QUESTIONS))
    pool = Pool(train, ())
    service = FakeCurriculum([prompt.prompt_id for prompt in pool.train], group_size=6)
    trainer = build_trainer(config, service, ready, pool, QuietReporter(), StopRequest())
    history = trainer.run().history
    assert [metrics["rollouts/staleness"] for metrics in history] == [0, 1, 1]
    # The first batch is the learner's own policy; the others are one update old, and it shows.
    assert history[0]["learner/gradient_norm"] > 0
    assert history[0]["learner/engine_gap"] < 1e-3
    assert history[1]["learner/engine_gap"] > 1e-2
    # The last batch was begun when one update had been made.
    assert engine.policy_version == 1
    assert not (tmp_path / "ahead" / "published").exists()


def test_a_model_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="did not start"):
        VllmEngine(str(tmp_path / "nothing"))
