"""One step's rollouts: draw a batch, sample it, report it. A batch that is cut short gives its lease back."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from trainer_client.client import Batch
from trainer_client.config import TrainConfig
from trainer_client.curriculum_service import CurriculumService
from trainer_client.exceptions import CurriculumError
from trainer_client.judging import Judge
from trainer_client.learner.gradient_norms import GradientNorms
from trainer_client.rollouts import RolloutEngine, SamplingParams
from trainer_client.rounds import CollectedBatch, ReadPrompt, collect, round_seed
from trainer_client.stopping import StopRequest
from trainer_client.stopwatch import Stopwatch
from trainer_client.trainer_errors import DataError


@dataclass(frozen=True)
class RolledOut:
    """A batch, rolled out and reported.

    policy_version: of the policy that sampled it. replays: groups of earlier batches to train on with it.
    """

    step: int
    policy_version: int
    collected: CollectedBatch
    watch: Stopwatch
    replays: int = 0


class BatchSource:
    """Draws from the curriculum and samples from the engine.

    prompts: every training prompt by id, as the model reads it. note: shows what is worth a line.
    newest_version: the version the learner has come to; rollouts of one that is more than
    `rollouts.max_staleness` behind are reported as stale, and are no outcomes.
    """

    def __init__(
        self,
        config: TrainConfig,
        run_id: str,
        service: CurriculumService,
        engine: RolloutEngine,
        prompts: Mapping[str, ReadPrompt],
        sampling: SamplingParams,
        stop: StopRequest,
        note: Callable[[str], None],
        newest_version: Callable[[], int],
        *,
        judge: Judge | None = None,
        norms: GradientNorms | None = None,
    ) -> None:
        self.config = config
        self.run_id = run_id
        self.service = service
        self.engine = engine
        self.prompts = prompts
        self.sampling = sampling
        self.stop = stop
        self.note = note
        self.newest_version = newest_version
        self.judge = judge
        self.norms = norms
        self._noted: set[str] = set()
        """Notes that have been said, numbers apart."""
        self._verdict_failed = False
        self.ending = False
        """Set to cut the batch under way short."""
        self.first_version = 0
        """What the service calls this run's version 0: under a curriculum of an earlier run, where that ended."""
        self.revision = ""
        """What the next draw must have seen."""

    def roll_out(self, step: int, policy_version: int, replays: int = 0) -> RolledOut | None:
        """The step's batch, sampled from `policy_version`; None when a stop was asked for before its end."""
        watch = Stopwatch()
        curriculum = self.config.curriculum
        fresh = curriculum.batch_size - replays
        with watch.phase("service"):
            batch = self.service.next_batch(
                self.config.curriculum_id,
                batch_size=fresh,
                rollout_budget=round(curriculum.rollout_budget * fresh / curriculum.batch_size),
                policy_version=self.first_version + policy_version,
                equal_quotas=curriculum.equal_quotas,
                run_id=self.run_id,
                step=step,
                trainer_id=self.config.name,
                min_revision=self.revision,
                seed=round_seed(self.config.seed, step) if curriculum.repeatable else None,
            )
        for text in batch.notes:
            self._note_once(step, text)
        try:
            self._check_known(batch)
            collected = collect(
                self.service,
                batch,
                self.prompts,
                self.engine,
                self.sampling,
                round_seed(self.config.seed, step),
                watch,
                lambda: self.stop.requested or self.ending,
                self.judge,
                is_stale=lambda: self._is_stale(policy_version),
                norms=self.norms,
            )
        except BaseException:
            self._release(batch)
            raise
        if not collected.complete:
            self._release(batch)
            return None
        if collected.failed_verdicts:
            self._note_failed(step, collected)
        for reason, count in collected.rejected.items():
            self.note(f"step {step + 1}: the service did not count {count} rollouts: {reason}")
        return RolledOut(step, policy_version, collected, watch, replays)

    def _note_once(self, step: int, text: str) -> None:
        """Says what a batch notes the first time: what the strategy or the pool is the cause of is in every batch."""
        cause = re.sub(r"\d+", "#", text)
        if cause not in self._noted:
            self._noted.add(cause)
            self.note(f"step {step + 1}: {text}")

    def _note_failed(self, step: int, collected: CollectedBatch) -> None:
        """Says it the first time only: a verifier that is unsure of some answers is so in every batch."""
        if not self._verdict_failed:
            self._verdict_failed = True
            count = sum(len(group.completions) for group in collected.groups)
            self.note(
                f"step {step + 1}: {collected.failed_verdicts} of {count} verdicts failed (from here on see "
                f"rollouts/error_share); the first: {collected.problem}"
            )

    def _is_stale(self, policy_version: int) -> bool:
        limit = self.config.rollouts.max_staleness
        return limit is not None and self.newest_version() - policy_version > limit

    def _check_known(self, batch: Batch) -> None:
        unknown = [prompt_id for prompt_id in batch.prompt_ids if prompt_id not in self.prompts]
        if unknown:
            raise DataError(
                f"curriculum {self.config.curriculum_id!r} holds prompts that tasks do not, for instance "
                f"{unknown[0]!r}; give the tasks it was made with, or another curriculum.curriculum_id"
            )

    def _release(self, batch: Batch) -> None:
        try:
            self.service.release(batch)
        except CurriculumError as error:
            # It expires by itself; what ended the step is what to show.
            self.note(f"lease {batch.lease_id} was not released and will expire: {error}")
