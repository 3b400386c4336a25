"""Short real runs against a real service, and where their time went."""

from __future__ import annotations

import os
import statistics
import zlib
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer_client.assembly import build_learner, build_trainer, prepare_curriculum
from trainer_client.client import CurriculumClient
from trainer_client.config import parse_config
from trainer_client.evaluation import Evaluation
from trainer_client.metrics import Metrics
from trainer_client.stopping import StopRequest
from trainer_client.tasks import Pool
from trainer_client.tasks.build import build_pool

# What the loop's phases are called in the tables.
PHASES = {
    "generation": ("rollout",),
    "judging": ("verify",),
    "learning": ("update", "kl", "sync"),
    "service": ("service",),
}


@dataclass(frozen=True)
class Case:
    """A run to measure. steps come after one that is not counted: caches and threads start there."""

    name: str
    model: str
    batch_size: int
    steps: int
    group_size: int = 8
    max_tokens: int = 8
    strategy: str = "frontier"
    engine: str = "transformers"

    @property
    def rollouts(self) -> dict[str, Any]:
        """Settings of the engine. vLLM on a CPU is for comparing shares: a GPU build is another thing."""
        if self.engine == "transformers":
            return {"max_tokens": self.max_tokens}
        memory = {} if torch.cuda.is_available() else {"kv_cache_memory_bytes": 2**30}
        return {
            "engine": self.engine,
            "max_tokens": self.max_tokens,
            "max_model_tokens": 512,
            "vllm_arguments": {"enforce_eager": True, **memory},
        }


def coin(completion: str, answer: str) -> float:
    """A verdict by chance: with it nearly every group is mixed, and a step learns as much as it ever does."""
    del answer
    return float(zlib.crc32(completion.encode()) % 2)


class Quiet:
    """Shows nothing."""

    def step(self, step: int, steps: int, metrics: Metrics) -> None: ...

    def evaluated(self, step: int, evaluation: Evaluation) -> None: ...

    def note(self, text: str) -> None: ...


def measure(case: Case, target: str, folder: Path, threads: int) -> dict[str, Any]:
    """Medians over the steps of a run."""
    config = parse_config(
        {
            "name": case.name,
            "directory": str(folder),
            "steps": case.steps + 1,
            "model": {"path": case.model, "threads": threads, "max_prompt_tokens": 256},
            "tasks": [
                {
                    "type": "arithmetic",
                    "kinds": ["add-1", "mul-1", "add-2", "sub-2", "mul-2", "add-3"],
                    "per_kind": max(100, case.batch_size),
                }
            ],
            "curriculum": {
                "target": target,
                "strategy": case.strategy,
                "batch_size": case.batch_size,
                "rollout_budget": case.batch_size * case.group_size,
            },
            "rollouts": case.rollouts,
            "learner": {"learning_rate": 1e-5},
            "evaluation": {"every": 0, "prompts": 0},
            "checkpoint": {"every": 0},
            "metrics": {"tensorboard": False},
        }
    )
    pool = build_pool(config.tasks)
    pool = Pool(tuple(replace(prompt, verifier=coin) for prompt in pool.train), (), pool.stop)
    with CurriculumClient(target) as client, ExitStack() as stack:
        facts = prepare_curriculum(client, config, pool)
        learner = build_learner(config)
        stack.callback(learner.engine.close)
        trainer = build_trainer(config, client, learner, pool, Quiet(), StopRequest(), facts=facts)
        history = trainer.run().history[1:]
        trainer.log.close()
    return _figures(case, history)


def _figures(case: Case, history: list[Metrics]) -> dict[str, Any]:
    def median(name: str) -> float:
        return statistics.median(metrics.get(name, 0.0) for metrics in history)

    step = median("seconds/step")
    seconds = {
        phase: statistics.median(
            sum(metrics.get(f"seconds/{part}", 0.0) for part in parts) for metrics in history
        )
        for phase, parts in PHASES.items()
    }
    rollouts, tokens = median("rollouts/count"), median("rollouts/tokens")
    return {
        "model": case.model,
        "engine": case.engine,
        "prompts_per_step": case.batch_size,
        "rollouts_per_step": rollouts,
        "tokens_per_step": tokens,
        "trained_tokens_per_step": median("learner/trained_tokens"),
        "mixed_share": round(median("groups/mixed_share"), 3),
        "rounds": median("rollouts/rounds"),
        "seconds_per_step": round(step, 4),
        "seconds": {phase: round(value, 4) for phase, value in seconds.items()},
        "shares": {phase: round(value / step, 4) for phase, value in seconds.items()},
        "generated_tokens_per_second": round(tokens / seconds["generation"], 1),
        "tokens_per_second_of_a_step": round(tokens / step, 1),
        "seconds_per_rollout": round(step / rollouts, 5),
        "load_average_1min": round(os.getloadavg()[0], 2),
    }
