"""What a run leaves behind: metrics, samples, checkpoints, and a model of its own."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer_fakes import FakeCurriculum
from tests.unit.test_trainer_loop import digit_pool, make_trainer, tiny_config
from trainer_client.assembly import build_learner, build_metrics
from trainer_client.client import Receipt
from trainer_client.config import parse_config
from trainer_client.evaluation import evaluate
from trainer_client.exceptions import NotFoundError
from trainer_client.export import export_model
from trainer_client.learner.lora import add_lora
from trainer_client.learner.samples import Sample
from trainer_client.metrics import read_metrics
from trainer_client.models.tiny import tiny_model, tiny_tokenizer
from trainer_client.rollouts import Completion, RolloutGroup, SamplingParams
from trainer_client.rounds import ReadPrompt
from trainer_client.trainer_errors import ConfigError, ModelError, TrainerError

pytestmark = pytest.mark.torch

# What a curriculum's trainer is judged by; names are part of what users build on.
PROMISED = (
    "reward/mean",
    "reward/accuracy",
    "groups/mixed_share",
    "rollouts/total",
    "rollouts/tokens_total",
    "rollouts/mean_length",
    "learner/entropy",
    "learner/kl",
    "learner/gradient_norm",
    "learner/clip_share",
    "learner/learning_rate",
    "speed/tokens_per_second",
    "seconds/service_share",
)


def test_a_step_s_metrics_have_what_is_promised(tmp_path: Path) -> None:
    trainer, _, reporter, _ = make_trainer(tiny_config(tmp_path, steps=1))
    trainer.run()
    assert set(PROMISED) <= set(reporter.steps[0])
    row = read_metrics(tmp_path / "tiny" / "metrics.jsonl")[1]
    assert set(PROMISED) <= set(row)
    assert row["learner/learning_rate"] == 0.01


def test_a_right_and_a_wrong_completion_of_a_group_are_logged(tmp_path: Path) -> None:
    pool = digit_pool(verifier=lambda completion, answer: float(completion[:1] < "m"))
    service = FakeCurriculum([p.prompt_id for p in pool.train], group_size=16)
    make_trainer(tiny_config(tmp_path, steps=1, sample_log=3), service, pool)[0].run()
    lines = (tmp_path / "tiny" / "samples.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert {sample["reward"] for sample in samples} == {0.0, 1.0}
    assert len({sample["prompt_id"] for sample in samples}) == 3
    assert all(sample["status"] in ("OK", "TRUNCATED") for sample in samples)


class ScriptedEngine:
    """Gives completions that were written down."""

    def __init__(self, texts: list[list[str]]) -> None:
        self.texts = texts

    def generate(self, requests: Any, sampling: SamplingParams, seed: int) -> list[RolloutGroup]:
        return [
            RolloutGroup(
                request.prompt_id,
                request.prompt_token_ids,
                tuple(Completion((1,), (0.0,), text, "stop") for text in texts),
            )
            for request, texts in zip(requests, self.texts, strict=True)
        ]


def test_pass_at_every_k_is_the_unbiased_estimate_over_the_prompts() -> None:
    pool = digit_pool(verifier=lambda completion, answer: float(completion == "right"))
    prompts = [ReadPrompt(prompt, (1,)) for prompt in pool.train[:2]]
    engine = ScriptedEngine([["right", "wrong", "wrong", "wrong"], ["right", "right", "wrong", "wrong"]])
    found = evaluate(engine, prompts, SamplingParams(), samples=4, ks=(1, 2, 4))  # type: ignore[arg-type]
    # 1 - C(3, 2)/C(4, 2) = 1/2 and 1 - C(2, 2)/C(4, 2) = 5/6
    assert found.pass_at == pytest.approx({1: 3 / 8, 2: (1 / 2 + 5 / 6) / 2, 4: 1.0})
    assert found.accuracy == pytest.approx(3 / 8)
    assert found.pass_rates == (0.25, 0.5)


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"samples": 4}, "several samples at temperature 0"),
        ({"samples": 4, "temperature": 1.0, "pass_at": [8]}, "between 1 and samples = 4"),
    ],
)
def test_evaluations_that_say_nothing_are_refused(evaluation: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"tasks": [{"type": "arithmetic"}], "evaluation": evaluation})


class FakeWandb(types.ModuleType):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[dict[str, float]] = []
        self.finished = 0

    def init(self, **arguments: Any) -> FakeWandb:
        self.started.append(arguments)
        return self

    def define_metric(self, *arguments: Any, **named: Any) -> None:
        pass

    def log(self, row: dict[str, float]) -> None:
        self.logged.append(row)

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_is_told_when_it_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    wanted = {"wandb_project": "curricula", "wandb_arguments": {"mode": "offline"}, "tensorboard": False}
    config = tiny_config(tmp_path, metrics=wanted)
    for first_step in (0, 1):
        log = build_metrics(config, first_step)
        log.write(first_step + 1, {"a": 1.0, "b": float("nan")})
        log.close()
    assert len({start["id"] for start in wandb.started}) == 1
    assert len(wandb.started) == 2
    assert wandb.started[0]["project"] == "curricula"
    assert wandb.started[0]["mode"] == "offline"
    assert wandb.started[0]["config"]["steps"] == 4
    assert wandb.logged == [{"train_step": 1, "a": 1.0}, {"train_step": 2, "a": 1.0}]
    assert wandb.finished == 2
    assert not (tmp_path / "tiny" / "tensorboard").exists()


def test_weights_and_biases_that_is_not_installed_is_an_error_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        build_metrics(tiny_config(tmp_path, metrics={"wandb_project": "x"}))


def test_the_service_forgets_checkpoints_that_the_run_no_longer_keeps(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=4, checkpoint={"every": 1, "keep": 2})
    trainer, service, reporter, _ = make_trainer(config)
    trainer.run()
    assert trainer.checkpoints.steps() == [3, 4]
    assert [name.rpartition("-")[2] for name in service.checkpoints] == ["3", "4"]
    assert reporter.notes == []


def test_a_checkpoint_the_service_does_not_know_is_no_reason_to_end(tmp_path: Path) -> None:
    class Forgetful(FakeCurriculum):
        def delete_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
            raise NotFoundError("no such checkpoint")

    service = Forgetful([prompt.prompt_id for prompt in digit_pool().train])
    config = tiny_config(tmp_path, steps=2, checkpoint={"every": 1, "keep": 1})
    trainer, _, reporter, _ = make_trainer(config, service)
    assert trainer.run().steps == 2
    assert len(reporter.notes) == 1


def logits_of(model: Any) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(torch.tensor([[5, 6, 7, 8]])).logits.numpy()
    return logits


@pytest.mark.parametrize("lora", [{"rank": 4}, None])
def test_an_exported_model_says_what_the_trained_one_says(tmp_path: Path, lora: Any) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = tiny_config(tmp_path, steps=2, lora=lora)
    trainer, _, _, learner = make_trainer(config)
    trainer.run()
    label = export_model(config, tmp_path / "plain")
    assert label.endswith("step-000002")
    plain = AutoModelForCausalLM.from_pretrained(str(tmp_path / "plain"))
    assert not hasattr(plain, "peft_config")
    np.testing.assert_allclose(logits_of(plain), logits_of(learner.policy.model), atol=1e-5)
    assert not np.allclose(logits_of(plain), logits_of(tiny_model(tiny_tokenizer())), atol=1e-3)
    assert AutoTokenizer.from_pretrained(str(tmp_path / "plain"))("1+1")["input_ids"]
    with pytest.raises(TrainerError, match="exists already"):
        export_model(config, tmp_path / "plain")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["plain", "tiny"]


def test_adapters_can_be_exported_as_they_are(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=1)
    make_trainer(config)[0].run()
    export_model(config, tmp_path / "adapters", adapters_only=True)
    assert (tmp_path / "adapters" / "adapter_config.json").exists()
    with pytest.raises(ConfigError, match="lora is null"):
        export_model(tiny_config(tmp_path, lora=None), tmp_path / "none", adapters_only=True)


def adapted(**settings: Any) -> dict[str, int]:
    """Adapted layers of the tiny model and their ranks."""
    model = add_lora(tiny_model(tiny_tokenizer()), rank=4, alpha=8, **settings)
    return {
        name.removeprefix("base_model.model.model.").removesuffix(".lora_A.default.weight"): len(weight)
        for name, weight in model.named_parameters()
        if "lora_A" in name
    }


def test_every_linear_layer_has_an_adapter_unless_told_otherwise() -> None:
    everywhere = adapted()
    assert len(everywhere) == 2 * 7
    assert not any("lm_head" in name for name in everywhere)
    assert set(adapted(modules=["q_proj"])) == {f"layers.{n}.self_attn.q_proj" for n in (0, 1)}
    assert set(everywhere) - set(adapted(exclude_modules=["down_proj"])) == {
        f"layers.{n}.mlp.down_proj" for n in (0, 1)
    }
    assert set(adapted(modules=["q_proj", "v_proj"], layers=[1])) == {
        f"layers.1.self_attn.{name}" for name in ("q_proj", "v_proj")
    }
    assert len(adapted(layers=[0])) == 7


def test_a_layer_may_have_a_rank_of_its_own() -> None:
    ranks = adapted(ranks={"down_proj": 2})
    assert {rank for name, rank in ranks.items() if "down_proj" in name} == {2}
    assert {rank for name, rank in ranks.items() if "down_proj" not in name} == {4}
    model = add_lora(tiny_model(tiny_tokenizer()), rank=4, alpha=8, ranks={"down_proj": 2})
    scalings = {
        name.rpartition(".")[2]: module.scaling["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    assert set(scalings.values()) == {2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modules": ["query"]}, r"no linear layer 'query'; it has \['down_proj'"),
        ({"ranks": {"head": 2}}, "no linear layer 'head'"),
        ({"layers": [2]}, "2 is no block of this model; it has 0 to 1"),
    ],
)
def test_a_layer_the_model_does_not_have_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        adapted(**settings)


def test_full_fine_tuning_is_held_near_its_start_by_the_kl_term(tmp_path: Path) -> None:
    movements = []
    for coefficient in (1e-9, 50.0):
        config = tiny_config(
            tmp_path, lora=None, learner={"learning_rate": 1e-3, "kl_coefficient": coefficient}
        )
        policy = build_learner(config).policy
        samples = [
            Sample("p", (5, 6), (7, 8, 9), (-3.7,) * 3, 1.0),
            Sample("p", (5, 6), (9, 9), (-3.7,) * 2, -1.0),
        ]
        for _ in range(8):
            metrics = policy.update(samples)
        movements.append(metrics.reference_kl)
    assert 0 < movements[1] < movements[0] / 2
