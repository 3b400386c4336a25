"""The training loop: next batch → rollouts → report (→ more rollouts) → update → advance the policy."""

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from trainer_client.batch_feed import BatchFeed, DirectFeed, LookaheadFeed
from trainer_client.batch_source import BatchSource, RolledOut
from trainer_client.checkpoint import CheckpointStore, RunState
from trainer_client.client import RolloutStatus
from trainer_client.config import TrainConfig
from trainer_client.curriculum_service import CurriculumService
from trainer_client.evaluation import Evaluation, evaluate
from trainer_client.exceptions import CurriculumError
from trainer_client.judging import Judge, LocalJudge
from trainer_client.learner.advantages import is_mixed
from trainer_client.learner.gradient_norms import GradientNorms
from trainer_client.learner.kept import KeptTogether
from trainer_client.learner.policy import Policy, UpdateMetrics
from trainer_client.learner.positives import PositiveStore
from trainer_client.learner.replay import ReplayBuffer, StoredGroup
from trainer_client.learner.samples import Sample
from trainer_client.metrics import Metrics, MetricsLog
from trainer_client.publishing import PublishedPolicies
from trainer_client.rollouts import RolloutEngine, SamplingParams
from trainer_client.rounds import CollectedBatch, ReadPrompt, round_seed
from trainer_client.stopping import Stopped, StopRequest
from trainer_client.stopwatch import Stopwatch
from trainer_client.trainer_errors import CheckpointError, DivergedError, ServiceAwayError, TrainerError
from trainer_client.training_samples import training_samples

# Where a step's seeds branch off: evaluations must not share random numbers with training.
EVALUATION_SEED = -1
# A verifier may fail for a while, for instance where it asks another machine.
FAILED_STEPS = 3


class Reporter(Protocol):
    """Shows a run while it goes on."""

    def step(self, step: int, steps: int, metrics: Metrics) -> None:
        """A step is done."""
        ...

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation is done."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


@dataclass
class RunResult:
    """What a run did. `interrupted`: a stop was asked for before the last step."""

    steps: int = 0
    interrupted: bool = False
    evaluations: list[tuple[int, Evaluation]] = field(default_factory=list)
    history: list[Metrics] = field(default_factory=list)


class Trainer:
    """Trains one policy under one curriculum.

    prompts: every training prompt by id, as the model reads it. held_out: for evaluation.
    published: where the engine's adapters lie; each process of a run has a folder of its own.
    first_version: what the service is to call the policy that a fresh run starts from.
    stop: checked between phases; a batch that is cut short is released, and a checkpoint is kept.
    """

    def __init__(
        self,
        config: TrainConfig,
        service: CurriculumService,
        policy: Policy,
        engine: RolloutEngine,
        prompts: dict[str, ReadPrompt],
        held_out: Sequence[ReadPrompt],
        checkpoints: CheckpointStore,
        log: MetricsLog,
        reporter: Reporter,
        stop: StopRequest,
        *,
        published: PublishedPolicies,
        stop_strings: tuple[str, ...] = (),
        success_threshold: float = 0.5,
        first_version: int = 0,
        replay: ReplayBuffer | None = None,
        judge: Judge | None = None,
        norms: GradientNorms | None = None,
    ) -> None:
        self.config = config
        self.service = service
        self.policy = policy
        self.engine = engine
        self.prompts = prompts
        self.held_out = held_out
        self.checkpoints = checkpoints
        self.log = log
        self.reporter = reporter
        self.stop = stop
        self.success_threshold = success_threshold
        self.replay = replay
        self.positives = (
            PositiveStore(config.learner.stored_positives) if config.learner.stored_positives else None
        )
        remembered = {"replay": self.replay, "positives": self.positives}
        self._kept = KeptTogether({name: thing for name, thing in remembered.items() if thing is not None})
        self.judge = judge or LocalJudge()
        self.published = published
        # What a run that was killed left there.
        self.published.clear()
        self.sampling = SamplingParams(
            config.rollouts.temperature, config.rollouts.top_p, config.rollouts.max_tokens, stop_strings
        )
        # A process that starts anew must not be handed the batches of the one before it.
        self.run_id = f"{config.name}-{uuid.uuid4().hex[:8]}"
        self.step = 0
        self.rollouts = 0
        self.tokens = 0
        self._exploded_steps = 0
        self._failed_steps = 0
        self._last_problem = ""
        self._saved_step = -1
        self._save_owed = False
        self.source = BatchSource(
            config,
            self.run_id,
            service,
            engine,
            prompts,
            self.sampling,
            stop,
            reporter.note,
            lambda: self.step,
            judge=self.judge,
            norms=norms,
        )
        self.source.first_version = first_version
        self.feed = self._make_feed()

    def _make_feed(self) -> BatchFeed:
        ahead = self.config.rollouts.lookahead
        if ahead == 0:
            return DirectFeed(self.source, self.engine, self.published, self._planned_replays)
        return LookaheadFeed(
            self.source,
            self.engine,
            self.published,
            self._planned_replays,
            ahead=ahead,
            steps=self.config.steps,
        )

    def resume(self) -> int:
        """Takes up the newest checkpoint, the curriculum's too; gives its step.

        Raises CheckpointError, or the service's error when it does not know the curriculum's checkpoint.
        """
        state = self.checkpoints.load(self.policy, self.checkpoints.latest(), self._kept)
        if state.curriculum_checkpoint_id:
            receipt = self.service.restore_checkpoint(state.curriculum_id, state.curriculum_checkpoint_id)
            self.source.revision = receipt.revision
        else:
            self.reporter.note(
                "this checkpoint was made without the service; the curriculum goes on as it is"
            )
        self.source.first_version = state.first_version
        self.step = self._saved_step = state.step
        self.rollouts, self.tokens = state.rollouts, state.tokens
        self._publish_policy()
        return state.step

    def run(self) -> RunResult:
        """Trains until the configured step or a stop. A checkpoint is kept in either case."""
        result = RunResult(steps=self.step)
        try:
            self._run(result)
            self.feed.close()
            if self._saved_step != self.step:
                self.save()
        except (ServiceAwayError, CurriculumError):
            # Away, or it refuses: the curriculum was deleted, the token revoked.
            self._keep_alone()
            raise
        finally:
            self.feed.close()
            self.published.clear()
        self._keep_alone()
        result.interrupted = self.step < self.config.steps
        return result

    def _keep_alone(self) -> None:
        """Keeps what was learnt without the curriculum's state, where the service cannot keep its part."""
        if self._saved_step != self.step:
            self._keep("")

    def _run(self, result: RunResult) -> None:
        config = self.config
        if self.step == 0:
            self.evaluate(result)
        while self.step < config.steps and not self.stop.requested:
            metrics = self._train_step()
            if metrics is None:
                break
            result.history.append(metrics)
            result.steps = self.step
            self.log.write(self.step, metrics)
            self.reporter.step(self.step, config.steps, metrics)
            self._guard(metrics)
            self._guard_verdicts(metrics)
            last = self.step == config.steps
            due = config.evaluation.every > 0 and self.step % config.evaluation.every == 0
            if (due or last) and not self.stop.requested:
                self.evaluate(result)
            due = config.checkpoint.every > 0 and self.step % config.checkpoint.every == 0
            if due or self._save_owed:
                self.save()

    def save(self) -> None:
        """Keeps a checkpoint of the run and of the curriculum; later, when the service is away."""
        checkpoint_id = f"{self.run_id}-step-{self.step}"
        receipt = self.service.create_checkpoint(self.config.curriculum_id, checkpoint_id)
        self._save_owed = not receipt.revision
        if self._save_owed:
            self.reporter.note(f"the checkpoint of step {self.step} waits for the service")
        else:
            self._keep(checkpoint_id)

    def _keep(self, curriculum_checkpoint_id: str) -> None:
        state = RunState(
            self.step,
            self.policy.updates,
            self.config.curriculum_id,
            curriculum_checkpoint_id,
            self.rollouts,
            self.tokens,
            self.source.first_version,
        )
        try:
            removed = self.checkpoints.save(self.policy, state, self._kept)
        except CheckpointError:
            # Nobody could go on from the curriculum's part alone.
            self._forget(state)
            raise
        for one in removed:
            self._forget(one)
        self._saved_step = self.step

    def _forget(self, removed: RunState) -> None:
        """Lets the service forget the curriculum's part of a checkpoint that is no more."""
        if not removed.curriculum_checkpoint_id:
            return
        try:
            self.service.delete_checkpoint(removed.curriculum_id, removed.curriculum_checkpoint_id)
        except CurriculumError as error:
            self.reporter.note(f"checkpoint {removed.curriculum_checkpoint_id} stays at the service: {error}")

    def _train_step(self) -> Metrics | None:
        """One batch; None when a stop was asked for before its update."""
        watch = Stopwatch()
        with watch.phase("wait"):
            rolled = self.feed.take(self.step)
        if rolled is None:
            return None
        collected = rolled.collected
        self._last_problem = collected.problem
        samples = training_samples(
            collected.groups,
            self.config.learner,
            self.success_threshold,
            shaping=self.config.rewards,
            max_tokens=self.sampling.max_tokens,
            positives=self.positives,
        )
        replayed = self._replayed(samples, rolled.replays)
        with watch.phase("kl"):
            probe = self.policy.probe(samples)
        with watch.phase("update"):
            update = self.policy.update(samples + [sample for group in replayed for sample in group.samples])
        with watch.phase("kl"):
            kl = 0.0 if update.skipped else self.policy.mean_kl(probe)
        self.step += 1
        with watch.phase("service"):
            receipt = self.service.advance_policy(
                self.config.curriculum_id,
                self.source.first_version + self.step,
                kl=kl if math.isfinite(kl) else None,
            )
        self.source.revision = receipt.revision
        with watch.phase("sync"):
            self._publish_policy()
        self._log_samples(collected)
        metrics = self._metrics(rolled, update, kl, len(samples), watch)
        if self.positives is not None:
            metrics["learner/stored_positives"] = float(sum(sample.replayed for sample in samples))
        if self.replay is not None:
            ages = [self.step - 1 - group.step for group in replayed]
            metrics["replay/groups"] = float(len(replayed))
            metrics["replay/mean_age_steps"] = _mean(np.array(ages))
            metrics["replay/size"] = float(len(self.replay))
        return metrics

    def _planned_replays(self, step: int) -> int:
        if self.replay is None:
            return 0
        wanted = int(self.config.replay.share * self.config.curriculum.batch_size)
        return min(wanted, self.replay.available(step))

    def _replayed(self, samples: Sequence[Sample], count: int) -> list[StoredGroup]:
        """Groups of earlier batches to train on with this one, which then enters the buffer itself."""
        if self.replay is None:
            return []
        drawn = self.replay.draw(count, self.step)
        self.replay.add([sample for sample in samples if not sample.replayed], self.step)
        return drawn

    def _publish_policy(self) -> None:
        """Lets the engine sample from the present weights."""
        shared = self.config.engine_shares_model
        self.feed.publish(self.step, None if shared else self.published.write(self.policy.model, self.step))

    def evaluate(self, result: RunResult) -> None:
        """Accuracy on the held-out prompts now; added to the result and logged."""
        settings = self.config.evaluation
        prompts = self.held_out[: settings.prompts]
        if not prompts:
            return
        watch = Stopwatch()
        sampling = SamplingParams(settings.temperature, 1.0, self.sampling.max_tokens, self.sampling.stop)
        try:
            with self.feed.engine_at_rest():
                evaluation = evaluate(
                    self.engine,
                    prompts,
                    sampling,
                    samples=settings.samples,
                    ks=settings.ks,
                    seed=round_seed(self.config.seed, EVALUATION_SEED),
                    success_threshold=self.success_threshold,
                    judge=self.judge,
                )
        except Stopped:
            # Half an evaluation is none.
            return
        result.evaluations.append((self.step, evaluation))
        metrics = {
            "evaluation/accuracy": evaluation.accuracy,
            "evaluation/failed_verdicts": float(evaluation.failed_verdicts),
            "evaluation/seconds": watch.total(),
        }
        metrics.update({f"evaluation/pass_at_{k}": rate for k, rate in evaluation.pass_at.items()})
        metrics.update(
            {
                f"evaluation/accuracy/{name or 'none'}": rate
                for name, (_, rate) in evaluation.by_cluster.items()
            }
        )
        self.log.write(self.step, metrics)
        self.reporter.evaluated(self.step, evaluation)

    def _guard(self, metrics: Metrics) -> None:
        learner = self.config.learner
        kl, norm = metrics["learner/kl"], metrics["learner/gradient_norm"]
        # Written so that what is not a number counts as exploded.
        exploded = not (kl <= learner.max_kl) or not (norm <= learner.explosion_gradient_norm)
        self._exploded_steps = self._exploded_steps + 1 if exploded else 0
        if self._exploded_steps >= learner.patience:
            kept = self.checkpoints.steps()
            raise DivergedError(
                f"step {self.step}: KL {kl:.3g} (learner.max_kl {learner.max_kl:g}) or gradient norm "
                f"{norm:.3g} (learner.explosion_gradient_norm {learner.explosion_gradient_norm:g}) exploded in "
                f"{self._exploded_steps} steps in a row; lower learner.learning_rate"
                + (f" and go on with --resume from step {kept[-1]}" if kept else "")
            )

    def _guard_verdicts(self, metrics: Metrics) -> None:
        """Ends a run that learns nothing because no verdict is given."""
        failed = metrics["rollouts/error_share"] == 1
        self._failed_steps = self._failed_steps + 1 if failed else 0
        if self._failed_steps >= FAILED_STEPS:
            if self._saved_step != self.step:
                self.save()
            raise TrainerError(
                f"step {self.step}: every verdict failed in {self._failed_steps} steps in a row, the last with: "
                f"{self._last_problem}; correct the task's verifier (tasks.N.verifier), or what it needs, "
                "and go on with --resume"
            )

    def _log_samples(self, collected: CollectedBatch) -> None:
        """A right and a wrong completion of the first groups, as far as they have both."""
        for group in collected.groups[: self.config.sample_log]:
            right = np.array(group.rewards) > self.success_threshold
            for index in sorted({int(np.argmax(right)), int(np.argmin(right))} if len(right) else set()):
                completion = group.completions[index]
                self.log.write_sample(
                    self.step,
                    {
                        "prompt_id": group.prompt.prompt_id,
                        "prompt": group.prompt.text,
                        "completion": completion.text,
                        "answer": group.prompt.answer,
                        "reward": group.rewards[index],
                        "status": group.statuses[index].name,
                        "length": len(completion.token_ids),
                        "pass_rate": float(np.mean(right)),
                    },
                )

    def _metrics(
        self, rolled: RolledOut, update: UpdateMetrics, kl: float, samples: int, watch: Stopwatch
    ) -> Metrics:
        collected = rolled.collected
        groups = [rewards for rewards in (group.counted()[1] for group in collected.groups) if len(rewards)]
        rewards = np.concatenate(groups) if groups else np.zeros(0)
        completions = [completion for group in collected.groups for completion in group.completions]
        statuses = [status for group in collected.groups for status in group.statuses]
        tokens = sum(len(completion.token_ids) for completion in completions)
        self.rollouts += len(completions)
        self.tokens += tokens
        count = max(len(completions), 1)
        seconds = watch.total()
        # With lookahead the batch was made while others were trained on: its phases overlap with theirs.
        spent = watch.merged(rolled.watch)
        metrics: Metrics = {
            "reward/mean": _mean(rewards),
            "reward/accuracy": _mean(rewards > self.success_threshold),
            "groups/mixed_share": _mean([is_mixed(group, self.success_threshold) for group in groups]),
            "groups/count": float(len(collected.groups)),
            "rollouts/count": float(len(completions)),
            "rollouts/total": float(self.rollouts),
            "rollouts/rounds": float(collected.rounds),
            "rollouts/tokens": float(tokens),
            "rollouts/tokens_total": float(self.tokens),
            "rollouts/mean_length": tokens / count,
            "rollouts/truncated_share": statuses.count(RolloutStatus.TRUNCATED) / count,
            "rollouts/error_share": statuses.count(RolloutStatus.ERROR) / count,
            "rollouts/stale_share": statuses.count(RolloutStatus.STALE) / count,
            "rollouts/staleness": float(self.step - 1 - rolled.policy_version),
            "learner/samples": float(samples),
            "learner/trained_tokens": float(update.trained_tokens),
            "learner/loss": update.loss,
            "learner/gradient_norm": update.gradient_norm,
            "learner/clip_share": update.clip_share,
            "learner/entropy": update.entropy,
            "learner/kl": kl,
            "learner/reference_kl": update.reference_kl,
            "learner/engine_gap": update.engine_gap,
            "learner/importance_mean": update.importance_mean,
            "learner/importance_capped_share": update.importance_capped_share,
            "learner/updates": float(self.policy.updates),
            "learner/learning_rate": self.policy.learning_rate,
            "seconds/step": seconds,
            "seconds/service_share": spent.get("service", 0.0) / seconds,
            "speed/tokens_per_second": tokens / seconds,
        }
        metrics.update({f"seconds/{phase}": used for phase, used in spent.items()})
        return metrics


def _mean(values: Sequence[bool] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else 0.0
