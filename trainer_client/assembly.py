"""From settings to a trainer: model, adapters, engine, prompts, curriculum."""

import json
import math
import os
import random
from dataclasses import dataclass, replace
from typing import Any

import yaml

from trainer_client.checkpoint import CheckpointStore
from trainer_client.client import CurriculumClient, Strategy
from trainer_client.config import TrainConfig
from trainer_client.curriculum_service import CurriculumService
from trainer_client.distributed.sharded_engine import ShardedEngine
from trainer_client.distributed.shared import (
    ShardedJudge,
    ShardedNorms,
    SharedCheckpoints,
    SharedStop,
    on_all,
    shared_service,
)
from trainer_client.distributed.silence import SilentLog
from trainer_client.distributed.world import World
from trainer_client.judging import LocalJudge
from trainer_client.learner.gradient_norms import GradientNorms, PolicyGradientNorms
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.replay import ReplayBuffer
from trainer_client.loop import Reporter, Trainer
from trainer_client.metric_sinks import MetricsSink, TensorBoardSink, WandbSink
from trainer_client.metrics import MetricsLog
from trainer_client.models.load import load_model
from trainer_client.models.sharing import second_model
from trainer_client.prompt_reading import read_prompts
from trainer_client.publishing import PublishedPolicies
from trainer_client.rollouts import RolloutEngine
from trainer_client.rounds import ReadPrompt
from trainer_client.stopping import StopRequest
from trainer_client.tasks.protocol import Pool, TaskPrompt
from trainer_client.trainer_errors import ConfigError

# The quotas that weigh prompts by the norms of their gradients.
NORM_QUOTAS = ("cures", "cures_ref", "gvm")
# The arguments by which vLLM spreads one engine over several GPUs.
SPREADING_ARGUMENTS = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


@dataclass(frozen=True)
class Learner:
    """A model made ready to learn and to sample."""

    policy: Policy
    engine: RolloutEngine
    tokenizer: Any


def build_model(config: TrainConfig) -> tuple[Any, Any]:
    """The model, with adapters where the settings say so, and its tokenizer."""
    model, tokenizer = load_model(config.model)
    if config.lora is None:
        return model, tokenizer
    lora = config.lora
    adapted = add_lora(
        model,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        modules=lora.modules,
        exclude_modules=lora.exclude_modules,
        layers=lora.layers,
        ranks=lora.ranks,
        rank_stabilised=lora.rank_stabilised,
        seed=config.seed,
    )
    return adapted, tokenizer


def build_learner(
    config: TrainConfig, world: World | None = None, stop: StopRequest | None = None
) -> Learner:
    """Loads the model, adds adapters, makes the optimizer and the engine.

    stop: this process's own; cuts what the engine samples short.
    Raises ConfigError where several processes cannot do what the settings say.
    """
    world = world or World()
    if world.size > 1:
        _check_in_step(config)
    model, tokenizer = build_model(config)
    if config.learner.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy = Policy(model, update_settings(config), pad_id=tokenizer.pad_token_id or 0, world=world)
    world.check_same(policy.parameters)
    engines: list[RolloutEngine] = []
    # An engine that does not start on one rank ends the run on all.
    on_all(
        world,
        lambda: engines.append(
            _build_engine(config, model, tokenizer, stop or StopRequest(), alone=world.size == 1)
        ),
    )
    return Learner(policy, engines[0], tokenizer)


def _check_in_step(config: TrainConfig) -> None:
    """Several processes sample between the same two collective calls, each on a GPU of its own."""
    processes = "several processes (torchrun, accelerate launch)"
    rollouts = config.rollouts
    for name in SPREADING_ARGUMENTS:
        if rollouts.engine == "vllm" and rollouts.vllm_arguments.get(name, 1) != 1:
            raise ConfigError(
                f"rollouts.vllm_arguments.{name} {rollouts.vllm_arguments[name]}: with {processes} each has an engine "
                "of its own, on its own GPU alone; leave it out, or train on one process, whose engine may use all"
            )
    if config.rollouts.lookahead:
        raise ConfigError(
            f"rollouts.lookahead {config.rollouts.lookahead}: with {processes} the thread that rolls out ahead would "
            "mix its collective calls with the learner's; set rollouts.lookahead: 0"
        )


def update_settings(config: TrainConfig) -> UpdateSettings:
    """The part of the settings that the update needs."""
    learner = config.learner
    return UpdateSettings(
        learning_rate=learner.learning_rate,
        warmup_updates=learner.warmup_updates,
        max_gradient_norm=learner.max_gradient_norm,
        epochs=learner.epochs,
        ratio=learner.ratio,
        clip_low=learner.clip_low,
        clip_high=learner.clip_high,
        aggregation=learner.aggregation,
        kl_coefficient=learner.kl_coefficient,
        temperature=config.rollouts.temperature,
        max_tokens=config.rollouts.max_tokens,
        micro_batch_tokens=learner.micro_batch_tokens,
        # Checkpointing recomputes layers without their cache, so prompts cannot be shared then.
        share_prompts=not learner.gradient_checkpointing,
        mixed_precision=config.model.mixed_precision,
        recompute_log_probs=config.recompute_log_probs,
        importance_cap=learner.importance_cap,
        replay_importance_cap=config.replay.importance_cap,
    )


def build_metrics(config: TrainConfig, first_step: int = 0) -> MetricsLog:
    """Where metrics go; a resumed run goes on in the same files."""
    run = config.run_directory
    sinks: list[MetricsSink] = []
    if config.metrics.tensorboard:
        sinks.append(TensorBoardSink(run / "tensorboard", first_step))
    if config.metrics.wandb_project:
        sinks.append(
            WandbSink(
                config.metrics.wandb_project,
                config.name,
                run,
                json.loads(config.model_dump_json()),
                config.metrics.wandb_arguments,
            )
        )
    # The evaluation before the first step is step 0's line.
    return MetricsLog(run, first_step=first_step + 1 if first_step else 0, sinks=sinks)


def build_replay(config: TrainConfig) -> ReplayBuffer:
    """The replay buffer, empty."""
    replay = config.replay
    return ReplayBuffer(
        replay.method,
        replay.capacity_groups,
        max_age_steps=replay.max_age_steps,
        max_replays=replay.max_replays,
        priority_exponent=replay.priority_exponent,
        priority_decay=replay.priority_decay,
        seed=config.seed,
    )


def held_out_choice(pool: Pool, count: int) -> list[TaskPrompt]:
    """At most `count` held-out prompts, every cluster in proportion, the same ones in every run."""
    prompts = sorted(pool.held_out, key=lambda prompt: prompt.prompt_id)
    random.Random(0).shuffle(prompts)
    return prompts[:count]


@dataclass(frozen=True)
class ReadPool:
    """The prompts of a run as the model reads them."""

    train: tuple[ReadPrompt, ...]
    held_out: tuple[ReadPrompt, ...]


def read_pool(config: TrainConfig, pool: Pool, tokenizer: Any) -> ReadPool:
    """Raises DataError or ConfigError naming the first prompt that the model cannot read."""
    return ReadPool(
        tuple(read_prompts(pool.train, tokenizer, config)),
        tuple(read_prompts(held_out_choice(pool, config.evaluation.prompts), tokenizer, config)),
    )


@dataclass(frozen=True)
class CurriculumFacts:
    """What the trainer must know of the curriculum. success_threshold: rewards above it are successes.

    policy_version: what the curriculum has come to; above 0 where an earlier run trained under it.
    """

    success_threshold: float = 0.5
    uses_gradient_norms: bool = True
    policy_version: int = 0


def prepare_curriculum(client: CurriculumClient, config: TrainConfig, pool: Pool) -> CurriculumFacts:
    """Creates the curriculum where there is none and adds the pool."""
    curriculum = client.create_curriculum(config.curriculum_id, config.curriculum.strategy, exist_ok=True)
    client.add_prompts(
        config.curriculum_id,
        [prompt.prompt_id for prompt in pool.train],
        clusters=[prompt.cluster for prompt in pool.train],
        reference_pass_rates=_reference_pass_rates(pool),
        anchor_pass_rates=_anchor_pass_rates(pool),
        embeddings=_embeddings(pool),
    )
    return replace(curriculum_facts(curriculum.strategy), policy_version=curriculum.policy_version)


def curriculum_facts(strategy: Strategy) -> CurriculumFacts:
    """Reads them out of the strategy as the service spells it out."""
    threshold = CurriculumFacts.success_threshold
    if "success_threshold" in strategy.estimator:
        threshold = float(strategy.estimator["success_threshold"])  # type: ignore[arg-type]
    return CurriculumFacts(threshold, any(name in strategy.quota for name in NORM_QUOTAS))


def build_trainer(
    config: TrainConfig,
    service: CurriculumService | None,
    learner: Learner,
    pool: Pool,
    reporter: Reporter,
    stop: StopRequest,
    *,
    facts: CurriculumFacts | None = None,
    first_step: int = 0,
    world: World | None = None,
    read: ReadPool | None = None,
) -> Trainer:
    """Puts the trainer together; the run's folder is made and its settings are written there.

    world: the processes of the run. service, reporter and stop are this process's own.
    read: the pool's prompts, where they have been read already.
    """
    world = world or World()
    facts = facts or CurriculumFacts()
    run = config.run_directory
    engine, judge = learner.engine, LocalJudge(lambda: stop.requested)
    checkpoints = CheckpointStore(run / "checkpoints", config.checkpoint.keep)
    if world.is_first:
        run.mkdir(parents=True, exist_ok=True)
        settings = json.loads(config.model_dump_json())
        (run / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    log = build_metrics(config, first_step) if world.is_first else SilentLog()
    read = read or read_pool(config, pool, learner.tokenizer)
    return Trainer(
        config,
        shared_service(world, service),
        learner.policy,
        engine if world.size == 1 else ShardedEngine(world, engine),
        {one.prompt.prompt_id: one for one in read.train},
        read.held_out,
        checkpoints if world.size == 1 else SharedCheckpoints(world, checkpoints.directory, checkpoints.keep),
        log,
        reporter,
        stop if world.size == 1 else SharedStop(world, stop),
        published=PublishedPolicies(run / ("published" if world.size == 1 else f"published-{world.rank}")),
        stop_strings=pool.stop,
        success_threshold=facts.success_threshold,
        first_version=facts.policy_version,
        replay=build_replay(config) if config.replay.share > 0 else None,
        judge=judge if world.size == 1 else ShardedJudge(world, judge),
        norms=_build_norms(config, learner, facts, reporter, world),
    )


def _build_norms(
    config: TrainConfig, learner: Learner, facts: CurriculumFacts, reporter: Reporter, world: World
) -> GradientNorms | None:
    method = config.learner.gradient_norms
    if method is None:
        return None
    if not facts.uses_gradient_norms:
        reporter.note(
            f"learner.gradient_norms {method}: not measured, the strategy's quota is none of "
            f"{', '.join(NORM_QUOTAS)}"
        )
        return None
    norms = PolicyGradientNorms(learner.policy, method)
    return norms if world.size == 1 else ShardedNorms(world, norms)


def _reference_pass_rates(pool: Pool) -> list[float | None] | None:
    rates = [prompt.reference_pass_rate for prompt in pool.train]
    return rates if any(rate is not None for rate in rates) else None


def _anchor_pass_rates(pool: Pool) -> list[tuple[float, float]] | None:
    unknown = (math.nan, math.nan)
    if all(prompt.anchor_pass_rates is None for prompt in pool.train):
        return None
    return [prompt.anchor_pass_rates or unknown for prompt in pool.train]


def _embeddings(pool: Pool) -> Any:
    embeddings = pool.embeddings()
    return embeddings if embeddings.shape[1] else None


def _build_engine(
    config: TrainConfig, model: Any, tokenizer: Any, stop: StopRequest, *, alone: bool
) -> RolloutEngine:
    """alone: whether this process is the whole run; else its engine sees this process's GPU only."""
    rollouts = config.rollouts
    if rollouts.engine == "vllm" and config.lora is not None:
        from trainer_client.models.smollm2 import smollm2_directory
        from trainer_client.rollouts.engine_environment import engine_environment
        from trainer_client.rollouts.engine_process import EngineProcess

        device = next(model.parameters()).device
        return EngineProcess(
            {
                "model": str(smollm2_directory()) if config.model.path == "smollm2" else config.model.path,
                "dtype": config.model.dtype,
                "temperature": rollouts.temperature,
                "max_model_tokens": rollouts.max_model_tokens,
                "max_lora_rank": config.lora.largest_rank,
                "gpu_memory_share": rollouts.gpu_memory_share,
                "sleep": rollouts.sleep,
                "seed": config.seed,
                "arguments": rollouts.vllm_arguments,
            },
            engine_environment(os.environ, None if alone or device.type != "cuda" else device.index),
        )
    from trainer_client.rollouts.transformers_engine import TransformersEngine

    if not config.engine_shares_model:
        # Sampling while the learner changes its weights needs some that hold still.
        model = second_model(model)
    return TransformersEngine(
        model,
        tokenizer,
        max_batch_rows=rollouts.max_batch_rows,
        mixed_precision=config.model.mixed_precision,
        should_stop=lambda: stop.requested,
    )
