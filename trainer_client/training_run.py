"""A training run from settings to the last checkpoint, on one process or several."""

from contextlib import ExitStack
from typing import cast

from rich.console import Console

from trainer_client.assembly import (
    CurriculumFacts,
    build_learner,
    build_trainer,
    prepare_curriculum,
    read_pool,
)
from trainer_client.checkpoint import CheckpointStore
from trainer_client.client import CurriculumClient
from trainer_client.config import TrainConfig
from trainer_client.curriculum_service import connect
from trainer_client.disk import writing
from trainer_client.distributed.shared import on_first
from trainer_client.distributed.silence import SilentReporter
from trainer_client.distributed.world import World
from trainer_client.exceptions import DeadlineError, UnavailableError
from trainer_client.loop import Reporter, RunResult
from trainer_client.models.load import context_tokens, load_tokenizer
from trainer_client.patience import PatientService
from trainer_client.progress import ProgressView
from trainer_client.prompt_reading import check_room
from trainer_client.stopping import StopRequest
from trainer_client.tasks import Pool
from trainer_client.tasks.build import build_pool
from trainer_client.trainer_errors import ServiceAwayError, TrainerError


def train(config: TrainConfig, world: World, *, resume: bool = False) -> RunResult:
    """Trains and says so on the terminal; rank 0 alone speaks, to the user and to the service.

    Raises TrainerError or the service's error; what has been reached is kept in checkpoints.
    """
    console = Console(quiet=not world.is_first)
    store = CheckpointStore(config.run_directory / "checkpoints")
    # Before rank 0 writes anything that the others would take for an earlier run's.
    first_step = on_first(world, lambda: _first_step(config, store, resume))
    pool = build_pool(config.tasks)
    # Before the service has them: a prompt that the model cannot read is not to be in the curriculum.
    read = read_pool(config, pool, load_tokenizer(config.model))
    check_room(read.train + read.held_out, context_tokens(config.model), config)
    with ExitStack() as stack:
        client: CurriculumClient | None = None
        if world.is_first:
            # The reports that a service away has not had yet lie in the run's folder.
            with writing(config.run_directory, "correct `directory`, or `name`"):
                config.run_directory.mkdir(parents=True, exist_ok=True)
            outbox = config.run_directory / "reports.outbox"
            client = stack.enter_context(connect(config.curriculum, outbox))
        stop = stack.enter_context(StopRequest())
        # Before the model is loaded: a service that is not there should be said at once.
        facts = on_first(world, lambda: _prepared(cast(CurriculumClient, client), config, pool))
        console.print(
            f"curriculum {config.curriculum_id!r} at {config.curriculum.target}: "
            f"{len(pool.train)} prompts, {len(pool.held_out)} held out",
            highlight=False,
        )
        if facts.policy_version and not resume:
            console.print(
                f"an earlier run has trained under this curriculum: its policy versions go on from "
                f"{facts.policy_version}, and what it learnt of the prompts is kept",
                highlight=False,
            )
        learner = build_learner(config, world, stop)
        stack.callback(learner.engine.close)
        reporter: Reporter = SilentReporter()
        if world.is_first:
            reporter = stack.enter_context(
                ProgressView(console, config.steps, first_step=first_step, title=config.name)
            )
        service = None
        if client is not None:
            prompt_ids = [prompt.prompt_id for prompt in pool.train]
            service = PatientService(
                client, config.curriculum, prompt_ids, stop, reporter.note, seed=config.seed
            )
        trainer = build_trainer(
            config,
            service,
            learner,
            pool,
            reporter,
            stop,
            facts=facts,
            first_step=first_step,
            world=world,
            read=read,
        )
        stack.callback(trainer.log.close)
        if resume:
            trainer.resume()
        result = trainer.run()
    state = "interrupted" if result.interrupted else "finished"
    console.print(f"{state} at step {result.steps}; see {config.run_directory}", highlight=False)
    return result


def _prepared(client: CurriculumClient, config: TrainConfig, pool: Pool) -> CurriculumFacts:
    try:
        return prepare_curriculum(client, config, pool)
    except (UnavailableError, DeadlineError) as error:
        raise ServiceAwayError(
            f"curriculum.target {config.curriculum.target!r}: no curriculum service answers there; correct it "
            f"(host:port), or start one (`sampler-service serve`): {error}"
        ) from error


def _first_step(config: TrainConfig, store: CheckpointStore, resume: bool) -> int:
    if resume:
        return store.latest()
    if store.steps():
        raise TrainerError(
            f"run {config.name!r}: {store.directory} holds checkpoints of an earlier run; "
            "go on with --resume, or choose another name"
        )
    return 0
