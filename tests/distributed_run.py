"""A small run on one of several processes; started by torchrun's rules, leaves its weights in a file.

RANK=0 WORLD_SIZE=2 MASTER_ADDR=127.0.0.1 MASTER_PORT=... python -m tests.distributed_run FOLDER NAME JSON
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.trainer_fakes import FakeCurriculum, QuietReporter
from trainer_client.assembly import build_learner, build_trainer
from trainer_client.client import Batch
from trainer_client.config import parse_config
from trainer_client.distributed.world import World, start_world
from trainer_client.exceptions import CurriculumError, UnavailableError
from trainer_client.stopping import StopRequest
from trainer_client.tasks import Pool, TaskPrompt, VerifierError
from trainer_client.trainer_errors import ModelError, TrainerError


def says_a_digit(completion: str, answer: str) -> float:
    """The share of characters that are digits."""
    return sum(c.isdigit() for c in completion) / max(len(completion), 1)


def pool() -> Pool:
    """Twelve prompts, four of them held out."""
    prompts = tuple(TaskPrompt(f"p{i}", f"{i}+{i}=", str(2 * i), says_a_digit, "add") for i in range(12))
    return Pool(prompts[:8], prompts[8:], ("\n",))


class BrokenAtStep(FakeCurriculum):
    """A service that is away from a step on."""

    def __init__(self, prompt_ids: list[str], step: int) -> None:
        super().__init__(prompt_ids)
        self.broken_step = step

    def next_batch(self, curriculum_id: str, **named: Any) -> Batch:
        if named["step"] == self.broken_step:
            raise UnavailableError("the service is away")
        return super().next_batch(curriculum_id, **named)


def run_scenario(world: World, folder: Path, name: str, changes: dict[str, Any]) -> None:
    """Trains, and saves what this rank ended with as NAME-RANK.npz and .json."""
    changes = dict(changes)
    broken_step = changes.pop("broken_step", None)
    failing_rank = changes.pop("failing_rank", None)
    failing_learner = changes.pop("failing_learner", None)
    stop_rank = changes.pop("stop_rank", None)
    resume = changes.pop("resume", False)
    killed_rank = changes.pop("killed_rank", None)
    max_rounds = changes.pop("max_rounds", 1)
    config = parse_config(
        {
            "name": name,
            "directory": str(folder),
            "steps": 3,
            "model": {"path": "tiny"},
            "tasks": [{"type": "arithmetic"}],
            "curriculum": {"batch_size": 4},
            "rollouts": {"max_tokens": 4},
            "learner": {"learning_rate": 0.003, "micro_batch_tokens": 24},
            "evaluation": {"every": 0, "prompts": 4},
            **changes,
        }
    )
    ids = [prompt.prompt_id for prompt in pool().train]
    service: FakeCurriculum | None = None
    if world.is_first:
        service = (
            FakeCurriculum(ids, max_rounds=max_rounds)
            if broken_step is None
            else BrokenAtStep(ids, broken_step)
        )
    try:
        learner = build_learner(config, world)
    except ModelError as refused:
        (folder / f"{name}-{world.rank}.json").write_text(json.dumps({"error": str(refused)}))
        return
    reporter = QuietReporter()
    stop = StopRequest()
    trainer = build_trainer(config, service, learner, pool(), reporter, stop, world=world)
    if world.rank == stop_rank:
        stop.requested = True
    if world.rank == failing_rank:

        def broken(*arguments: Any) -> Any:
            raise VerifierError("this rank's engine is broken")

        learner.engine.generate = broken  # type: ignore[method-assign]
    if world.rank == failing_learner:

        def out_of_memory(*arguments: Any) -> Any:
            raise RuntimeError("out of memory")

        learner.policy.log_probs = out_of_memory  # type: ignore[method-assign]
    if world.rank == killed_rank:
        os.kill(learner.engine.process_id, signal.SIGKILL)  # type: ignore[attr-defined]
    error = ""
    try:
        if resume:
            trainer.resume()
        result = trainer.run()
        steps = result.steps
    except (CurriculumError, TrainerError, VerifierError, RuntimeError) as caught:
        error, steps = str(caught), trainer.step
    trainer.log.close()
    learner.engine.close()
    weights = [parameter.detach().numpy() for parameter in learner.policy.parameters]
    np.savez(folder / f"{name}-{world.rank}.npz", *weights)
    told = {
        "steps": steps,
        "error": error,
        "metrics": reporter.steps,
        "rollouts": sum(service.state.rollouts.values()) if service else 0,
        "released": service.released if service else [],
        "reports": [sorted(report) for report in service.reports] if service else [],
    }
    with (folder / f"{name}-{world.rank}.json").open("w") as file:
        json.dump(told, file)


def main(folder: Path, scenarios: list[tuple[str, dict[str, Any]]]) -> None:
    """One run after the other, so that the libraries are imported once."""
    torch.set_num_threads(1)
    world = start_world()
    for name, changes in scenarios:
        run_scenario(world, folder, name, changes)
    world.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()))
