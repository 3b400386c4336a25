"""One run: the trainer's own loop from the warm start under one strategy."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from benchmarks.trained.arms import Arm
from benchmarks.trained.in_process import InProcessCurriculum
from benchmarks.trained.pool import study_pool
from trainer_client.assembly import build_learner, build_trainer
from trainer_client.config import TrainConfig, parse_config
from trainer_client.evaluation import Evaluation
from trainer_client.learner.log_probs import completion_log_probs
from trainer_client.learner.samples import Sample
from trainer_client.metrics import Metrics
from trainer_client.stopping import StopRequest
from trainer_client.tasks.protocol import TaskPrompt

__all__ = ["Curve", "Setting", "run_arm"]

Optimizer = Literal["adam", "sgd"]
_UNCLIPPED = 1e9


@dataclass(frozen=True)
class Setting:
    """What all arms of a comparison have in common."""

    model: Path
    steps: int = 120
    batch: int = 8
    """Prompts per step."""
    group: int = 8
    """Rollouts per prompt, on average: every arm spends batch × group rollouts a step."""
    learning_rate: float = 1e-4
    optimizer: Optimizer = "adam"
    clip: bool = True
    """Scale gradients down to norm 1, as trainers do. SGD without it shows dilution undisguised."""
    told: tuple[str, ...] = ("clusters", "embeddings")
    """What the curriculum learns about prompts: clusters, embeddings."""
    coins: int = 100
    """Prompts that nothing can be learnt from."""
    every: int = 5
    """Steps between evaluations."""
    temperature: float = 1.0


@dataclass
class Curve:
    """What a run came to. One entry per evaluation, the one before the first step included."""

    rollouts: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """Of processor time on one thread, evaluations left out: what other programs do does not count."""
    accuracies: list[float] = field(default_factory=list)
    """Mean probability of the right answer over the held-out prompts: exact, no sampling noise."""
    by_kind: list[dict[str, float]] = field(default_factory=list)
    mixed_shares: list[float] = field(default_factory=list)
    """One entry per step, as the next ones."""
    gradient_norms: list[float] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    drawn_by_kind: dict[str, float] = field(default_factory=dict)
    """Share of the groups that went to each kind."""
    distinct: int = 0
    """Different prompts among all groups."""
    tokens: int = 0
    dilution: float = 0.0
    """How far `frontier` took the steps for diluted, on average."""


class _Examiner:
    """Probability of the right answer, prompt by prompt, under the present policy."""

    def __init__(self, prompts: Sequence[TaskPrompt], tokenizer: Any) -> None:
        self._kinds = [prompt.cluster for prompt in prompts]
        self._samples = [
            Sample(
                prompt.prompt_id,
                tuple(tokenizer(prompt.text)["input_ids"]),
                tuple(tokenizer(prompt.answer + "\n")["input_ids"]),
                (),
                0.0,
            )
            for prompt in prompts
        ]

    @torch.no_grad()
    def examine(self, model: Any, temperature: float) -> tuple[float, dict[str, float]]:
        """Accuracy over all prompts, and by kind."""
        model.eval()
        found = completion_log_probs(model, self._samples, temperature=temperature)
        rates = found.log_probs.sum(dim=1).exp().numpy()
        kinds: dict[str, list[float]] = {}
        for kind, rate in zip(self._kinds, rates.tolist(), strict=True):
            kinds.setdefault(kind, []).append(rate)
        return float(rates.mean()), {kind: float(np.mean(values)) for kind, values in kinds.items()}


class _Watcher:
    """The trainer's reporter: notes every step and examines the policy now and then."""

    def __init__(self, examiner: _Examiner, model: Any, setting: Setting) -> None:
        self.curve = Curve()
        self._examiner = examiner
        self._model = model
        self._setting = setting
        self._seconds = 0.0
        self._examine(0)
        self._since = time.process_time()

    def step(self, step: int, steps: int, metrics: Metrics) -> None:
        """A step is done."""
        curve = self.curve
        self._seconds += time.process_time() - self._since
        curve.mixed_shares.append(metrics["groups/mixed_share"])
        curve.gradient_norms.append(metrics["learner/gradient_norm"])
        curve.rounds.append(metrics["rollouts/rounds"])
        curve.tokens = int(metrics["rollouts/tokens_total"])
        if step % self._setting.every == 0 or step == steps:
            self._examine(int(metrics["rollouts/total"]))
        self._since = time.process_time()

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """The trainer's own, sampled evaluation is off."""

    def note(self, text: str) -> None:
        """The service's remarks."""

    def _examine(self, rollouts: int) -> None:
        accuracy, by_kind = self._examiner.examine(self._model, self._setting.temperature)
        self.curve.rollouts.append(rollouts)
        self.curve.seconds.append(self._seconds)
        self.curve.accuracies.append(accuracy)
        self.curve.by_kind.append(by_kind)


def run_arm(arm: Arm, setting: Setting, seed: int) -> Curve:
    """Trains once."""
    torch.set_num_threads(1)
    pool = study_pool(coins=setting.coins)
    with tempfile.TemporaryDirectory(prefix="curriculum-study-") as folder:
        config = _config(arm, setting, seed, folder)
        learner = build_learner(config)
        if setting.optimizer == "sgd":
            learner.policy.optimizer = torch.optim.SGD(learner.policy.parameters, setting.learning_rate)
        service = InProcessCurriculum(pool, arm.preset, arm.overrides, seed, setting.told)
        watcher = _Watcher(_Examiner(pool.held_out, learner.tokenizer), learner.policy.model, setting)
        trainer = build_trainer(config, service, learner, pool, watcher, StopRequest())
        try:
            trainer.run()
        finally:
            trainer.log.close()
    curve = watcher.curve
    rows = [row for drawn in service.drawn for row in drawn]
    curve.distinct = len(set(rows))
    curve.dilution = float(np.mean(service.dilutions))
    kinds = [pool.train[row].cluster for row in rows]
    curve.drawn_by_kind = {kind: kinds.count(kind) / len(kinds) for kind in sorted(set(kinds))}
    return curve


def _config(arm: Arm, setting: Setting, seed: int, folder: str) -> TrainConfig:
    learner: dict[str, Any] = {
        "learning_rate": setting.learning_rate,
        # Exploding is a finding here, not a reason to stop.
        "max_kl": _UNCLIPPED,
        **arm.learner,
    }
    if not setting.clip:
        learner["max_gradient_norm"] = _UNCLIPPED
    return parse_config(
        {
            "name": "study",
            "directory": folder,
            "steps": setting.steps,
            "seed": seed,
            "sample_log": 0,
            "model": {"path": str(setting.model), "threads": 1, "device": "cpu"},
            "lora": None,
            # The pool comes from benchmarks.trained.pool; the trainer wants to be told of one.
            "tasks": [{"type": "arithmetic"}],
            "curriculum": {
                "batch_size": arm.batch or setting.batch,
                "rollout_budget": setting.batch * setting.group,
            },
            "rollouts": {
                "max_tokens": 8,
                "temperature": setting.temperature,
                "max_batch_rows": max(64, setting.batch * setting.group),
            },
            "learner": learner,
            "evaluation": {"every": 0, "prompts": 0},
            "checkpoint": {"every": 0},
            "metrics": {"tensorboard": False},
        },
        "study",
    )
