"""Trains a small real model under a curriculum, from nothing to a table in a few minutes.

    python -m examples.demo            # or: make demo
    python -m examples.demo --help

Starts the service on an embedded server, builds a pool in which some tasks are mastered, some
impossible and some learnable, trains LoRA adapters, and shows what came of it.
"""

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

# Before transformers is imported: the model lies on this disk, no hub is asked.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The service shares the cores: OpenMP's threads must not wait for each other at full speed.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from examples.demo_pool import demo_tasks
from examples.demo_report import DemoRun, print_report, write_picture
from examples.service_process import ServiceProcess
from trainer_client.client import CurriculumClient, Summary
from trainer_client.config import TrainConfig, parse_config
from trainer_client.evaluation import Evaluation
from trainer_client.exceptions import CurriculumError
from trainer_client.metrics import Metrics
from trainer_client.progress import ProgressView
from trainer_client.stopping import StopRequest
from trainer_client.tasks.protocol import Pool
from trainer_client.trainer_errors import TrainerError


class TimedView:
    """Progress that asks for a stop when the time is up, and remembers that it did."""

    def __init__(self, view: ProgressView, stop: StopRequest, deadline: float) -> None:
        self.view = view
        self.stop = stop
        self.deadline = deadline
        self.timed_out = False

    def step(self, step: int, steps: int, metrics: Metrics) -> None:
        """Shows the step; past the deadline the next one is not begun."""
        self.view.step(step, steps, metrics)
        if time.monotonic() > self.deadline and step < steps and not self.stop.requested:
            self.view.note("time is up (--max-minutes): ending here")
            self.stop.requested = self.timed_out = True

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """Shows an evaluation."""
        self.view.evaluated(step, evaluation)

    def note(self, text: str) -> None:
        """Shows a line."""
        self.view.note(text)


def demo(
    preset: Annotated[str, typer.Option(help="Strategy of the curriculum.")] = "frontier",
    steps: Annotated[int, typer.Option(min=1, help="Training steps.")] = 80,
    model: Annotated[str, typer.Option(help="smollm2, tiny, or a model's folder.")] = "smollm2",
    task: Annotated[str, typer.Option(help="mixed, arithmetic, reasoning, or a JSONL file.")] = "mixed",
    seed: Annotated[int, typer.Option(min=0, help="Of sampling and adapters.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts per step.")] = 8,
    rollouts: Annotated[int, typer.Option(min=1, help="Rollouts per step.")] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of the adapters.")] = 2e-4,
    compare: Annotated[str, typer.Option(help="A second preset to run after the first.")] = "",
    data_dir: Annotated[Path | None, typer.Option(help="Of the service; default: a temporary one.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for metrics, checkpoints and the picture.")] = Path(
        "runs/demo"
    ),
    max_minutes: Annotated[float, typer.Option(help="No step is begun after so long.")] = 6.5,
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: one per core.")] = 0,
    keep_open: Annotated[bool, typer.Option(help="Keep the dashboard up at the end until Ctrl-C.")] = False,
) -> None:
    """Trains a small real model under a curriculum and shows what came of it."""
    from trainer_client.tasks.build import build_pool

    console = Console()
    started = time.monotonic()
    presets = [preset, *([compare] if compare else [])]
    configs = [
        _config(
            name,
            f"{started:.0f}",
            steps,
            model,
            task,
            seed,
            batch_size,
            rollouts,
            learning_rate,
            output,
            threads,
        )
        for name in presets
    ]
    pool = build_pool(configs[0].tasks)
    runs: list[DemoRun] = []
    with StopRequest() as stop, _directory(data_dir) as folder, ServiceProcess(folder, output) as service:
        console.print(f"dashboard  [bold]{service.dashboard}[/]", highlight=False)
        console.print(
            f"pool       {len(pool.train)} prompts in {len({p.cluster for p in pool.train})} kinds, "
            f"{len(pool.held_out)} held out",
            highlight=False,
        )
        with CurriculumClient(service.target) as client:
            for name, config in zip(presets, configs, strict=True):
                if not stop.requested:
                    run = _run(console, client, service.target, name, config, pool, stop, max_minutes)
                    runs.append(run)
        if runs:
            print_report(console, runs)
            picture = output / "difficulty.png"
            if write_picture(runs, picture):
                console.print(f"picture    {picture}", highlight=False)
        console.print(f"files      {output}   (log of the service: {service.log_path.name})", highlight=False)
        if keep_open and not stop.requested:
            console.print(f"dashboard stays at {service.dashboard}; Ctrl-C ends", highlight=False)
            while not stop.requested:
                time.sleep(0.2)
    console.print(f"done in {(time.monotonic() - started) / 60:.1f} min, service stopped", highlight=False)


def _run(
    console: Console,
    client: CurriculumClient,
    target: str,
    preset: str,
    config: TrainConfig,
    pool: Pool,
    stop: StopRequest,
    max_minutes: float,
) -> DemoRun:
    from trainer_client.assembly import build_learner, build_trainer, prepare_curriculum

    started = time.monotonic()
    config = config.model_copy(update={"curriculum": config.curriculum.model_copy(update={"target": target})})
    facts = prepare_curriculum(client, config, pool)
    if config.model.path == "smollm2":
        console.print("model      SmolLM2-135M (converted on first use, about 30 s)", highlight=False)
    learner = build_learner(config)
    with ProgressView(console, config.steps, title=preset) as view:
        timed = TimedView(view, stop, started + 60 * max_minutes)
        trainer = build_trainer(
            config,
            client,
            learner,
            pool,
            timed,
            stop,
            facts=facts,
        )
        try:
            result = trainer.run()
            if timed.timed_out:
                stop.requested = False
                trainer.evaluate(result)
        finally:
            trainer.log.close()
    summary: Summary | None = None
    with contextlib.suppress(CurriculumError):
        summary = client.summary(config.curriculum_id)
    return DemoRun(preset, result, summary, time.monotonic() - started)


def _config(
    preset: str,
    stamp: str,
    steps: int,
    model: str,
    task: str,
    seed: int,
    batch_size: int,
    rollouts: int,
    learning_rate: float,
    output: Path,
    threads: int,
) -> TrainConfig:
    settings: dict[str, Any] = {
        # A data directory that is kept may hold curricula of earlier demos.
        "name": f"demo-{preset}-{stamp}",
        "directory": str(output),
        "steps": steps,
        "seed": seed,
        "model": {"path": model, "threads": threads},
        "tasks": demo_tasks(task),
        "curriculum": {"strategy": preset, "batch_size": batch_size, "rollout_budget": rollouts},
        "rollouts": {"max_tokens": 8},
        "learner": {"learning_rate": learning_rate},
        "evaluation": {"every": 0, "prompts": 120, "samples": 4, "temperature": 1.0},
        "checkpoint": {"every": 0},
    }
    return parse_config(settings, "demo")


@contextlib.contextmanager
def _directory(given: Path | None) -> Iterator[Path]:
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="curriculum-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def main() -> None:
    """Runs the demo; mistakes in the input end it with one message and status 2."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(demo)
    try:
        app()
    except (TrainerError, CurriculumError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
