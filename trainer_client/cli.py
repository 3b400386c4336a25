"""`trainer-client`: train under a curriculum, and evaluate what came out."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer_client.exceptions import CurriculumError
from trainer_client.trainer_errors import TrainerError

app = typer.Typer(
    help="Trains a language model by reinforcement under a curriculum service.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="YAML file with the run's settings.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Overrides a setting: learner.learning_rate=1e-4. Repeatable."),
]


@app.command()
def train(
    config: ConfigOption,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the newest checkpoint.")] = False,
) -> None:
    """Trains. Ctrl-C or SIGTERM ends cleanly: the lease is released and a checkpoint is kept.

    On several GPUs: torchrun --nproc-per-node N -m trainer_client.cli train --config FILE
    """
    from trainer_client.config import load_config
    from trainer_client.distributed.world import start_world
    from trainer_client.training_run import train as run_training

    settings = load_config(config, set_ or [])
    world = start_world()
    try:
        run_training(settings, world, resume=resume)
    except BaseException as error:
        world.close(error)
        raise
    world.close()


@app.command()
def evaluate(
    config: ConfigOption,
    set_: SetOption = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="A checkpoint's folder; default: the run's newest; 'none' for the bare model."),
    ] = None,
) -> None:
    """Accuracy on the held-out prompts, by cluster."""
    from trainer_client.assembly import build_learner, held_out_choice
    from trainer_client.config import load_config
    from trainer_client.evaluation import evaluate as evaluate_prompts
    from trainer_client.export import load_checkpoint
    from trainer_client.prompt_reading import read_prompts
    from trainer_client.publishing import PublishedPolicies
    from trainer_client.rollouts import SamplingParams
    from trainer_client.tasks.build import build_pool

    settings = load_config(config, set_ or [])
    # Nothing is trained meanwhile: a second copy of the model would only cost memory.
    alone = settings.rollouts.model_copy(update={"lookahead": 0})
    settings = settings.model_copy(update={"rollouts": alone})
    pool = build_pool(settings.tasks)
    learner = build_learner(settings)
    label = load_checkpoint(settings, learner.policy.model, checkpoint)
    if not settings.engine_shares_model:
        with tempfile.TemporaryDirectory() as folder:
            published = PublishedPolicies(Path(folder)).write(learner.policy.model, 0)
            learner.engine.update_policy(0, published)
    prompts = read_prompts(held_out_choice(pool, settings.evaluation.prompts), learner.tokenizer, settings)
    if not prompts:
        raise TrainerError("evaluation: no held-out prompts; raise held_out_share or evaluation.prompts")
    outcome = evaluate_prompts(
        learner.engine,
        prompts,
        SamplingParams(settings.evaluation.temperature, 1.0, settings.rollouts.max_tokens, pool.stop),
        samples=settings.evaluation.samples,
        ks=settings.evaluation.ks,
        seed=settings.seed,
    )
    table = Table(title=f"Held-out accuracy of {label}")
    table.add_column("cluster")
    table.add_column("prompts", justify="right")
    table.add_column("pass@1", justify="right")
    for cluster, (count, rate) in outcome.by_cluster.items():
        table.add_row(escape(cluster) or "(none)", str(count), f"{rate:.1%}")
    table.add_row("all", str(outcome.prompts), f"{outcome.accuracy:.1%}", style="bold")
    console = Console()
    console.print(table)
    if outcome.samples > 1:
        rates = ", ".join(f"pass@{k} {rate:.1%}" for k, rate in outcome.pass_at.items())
        console.print(f"{rates} of {outcome.samples} samples each", highlight=False)


@app.command()
def export(
    config: ConfigOption,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist yet.")],
    set_: SetOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint's folder; default: the run's newest.")
    ] = None,
    adapters: Annotated[
        bool, typer.Option("--adapters", help="Only the adapters, as they are; default: merged in.")
    ] = False,
) -> None:
    """Writes a checkpoint as a plain model with its tokenizer, the adapters merged into the weights."""
    from trainer_client.config import load_config
    from trainer_client.export import export_model

    settings = load_config(config, set_ or [])
    label = export_model(settings, output, checkpoint, adapters_only=adapters)
    Console().print(f"{label} written to {output}", highlight=False, markup=False)


@app.command()
def settings(
    prefix: Annotated[str, typer.Argument(help="Only those whose name starts so: learner, lora.r")] = "",
) -> None:
    """Lists every setting with its default and what it means."""
    from trainer_client.settings_list import settings_list

    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("setting", "default", "meaning"):
        table.add_column(column, overflow="fold")
    found = list(settings_list(prefix))
    if not found:
        raise TrainerError(f"settings {prefix!r}: no setting's name starts so; leave it out to see all")
    for row in found:
        table.add_row(*(escape(text) for text in row))
    Console().print(table, highlight=False)


def main() -> None:
    """Runs the command line; mistakes in the input end it with one message and status 2."""
    # Without these, the libraries ask the network about a model that lies on this disk.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # OpenMP's threads wait actively: where others use the cores too, that costs up to twenty times.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    with _readable_errors():
        app()


@contextmanager
def _readable_errors() -> Iterator[None]:
    try:
        yield
    except (TrainerError, CurriculumError) as error:
        # Under torchrun an error may be one process's own.
        rank = os.environ.get("RANK", "0")
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        print(("" if rank == "0" else f"rank {rank}: ") + f"error: {error}{notes}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
