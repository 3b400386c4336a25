"""One batch: sample, judge, report, and sample more where the service says so."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trainer_client.client import Action, Batch, Directive, ReportResult, RolloutStatus
from trainer_client.curriculum_service import CurriculumService
from trainer_client.judging import Judge, LocalJudge, Verdict, outdated
from trainer_client.learner.gradient_norms import GradientNorms
from trainer_client.learner.samples import Sample
from trainer_client.rollouts import (
    Completion,
    RolloutEngine,
    RolloutGroup,
    RolloutRequest,
    SamplingParams,
)
from trainer_client.stopping import Stopped
from trainer_client.stopwatch import Stopwatch
from trainer_client.tasks import TaskPrompt

# Of one prompt: a service that always wants more would never let a step end.
MAX_ROUNDS = 64
# Between two looks whether a stop was asked for, where the engine samples on meanwhile.
STOP_SECONDS = 0.5


@dataclass(frozen=True)
class ReadPrompt:
    """A prompt as the model reads it."""

    prompt: TaskPrompt
    token_ids: tuple[int, ...]


@dataclass
class Group:
    """All rollouts of one prompt in one batch, and what the service said to do with them."""

    prompt: TaskPrompt
    prompt_token_ids: tuple[int, ...]
    baseline: float
    """Expected reward, frozen when the batch was drawn."""
    completions: list[Completion] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    statuses: list[RolloutStatus] = field(default_factory=list)
    directive: Directive | None = None

    def add(self, completions: Sequence[Completion], verdicts: Sequence[Verdict]) -> None:
        """Takes in new completions, judged."""
        self.completions.extend(completions)
        self.rewards.extend(verdict.reward for verdict in verdicts)
        self.statuses.extend(verdict.status for verdict in verdicts)

    def counted(self) -> tuple[list[Completion], NDArray[np.float64]]:
        """Completions that are outcomes of the prompt, and their rewards."""
        chosen = [
            index
            for index, status in enumerate(self.statuses)
            if status in (RolloutStatus.OK, RolloutStatus.TRUNCATED) and np.isfinite(self.rewards[index])
        ]
        # The service compares float32 rewards with its threshold; so do we.
        rewards = np.array([self.rewards[index] for index in chosen], dtype=np.float32).astype(np.float64)
        return [self.completions[index] for index in chosen], rewards


@dataclass
class CollectedBatch:
    """The groups of a batch; `complete` is false when a stop was asked for between rounds."""

    groups: list[Group]
    rounds: int = 0
    complete: bool = True
    revision: str = ""
    rejected: dict[str, int] = field(default_factory=dict)
    failed_verdicts: int = 0
    problem: str = ""
    """What the first of them failed with."""

    def note(self, answer: ReportResult) -> None:
        """Takes over what a report's answer says about the whole batch."""
        self.revision = answer.revision
        for rejection in answer.rejected:
            # Failed verifications are rejected on purpose; they are counted as statuses.
            if rejection.reason != "STATUS":
                self.rejected[rejection.reason] = self.rejected.get(rejection.reason, 0) + rejection.rollouts

    def note_problems(self, verdicts: Sequence[Verdict]) -> None:
        """Keeps what verdicts failed with."""
        problems = [verdict.problem for verdict in verdicts if verdict.problem]
        self.failed_verdicts += len(problems)
        self.problem = self.problem or next(iter(problems), "")


def collect(
    service: CurriculumService,
    batch: Batch,
    prompts: Mapping[str, ReadPrompt],
    engine: RolloutEngine,
    sampling: SamplingParams,
    seed: int,
    stopwatch: Stopwatch,
    should_stop: Callable[[], bool],
    judge: Judge | None = None,
    is_stale: Callable[[], bool] = lambda: False,
    norms: GradientNorms | None = None,
) -> CollectedBatch:
    """Rolls the batch out until the service wants no more of any prompt.

    A group is judged and reported as soon as the engine has it, and what the answer wants more of joins
    what is still being sampled: nobody waits for the slowest.
    is_stale: whether what is judged now comes from a policy too old to be an outcome.
    norms: measures what is reported beside the rewards.
    Raises KeyError for a prompt that the pool does not hold.
    """
    judge = judge or LocalJudge()
    groups = {
        prompt_id: Group(prompts[prompt_id].prompt, prompts[prompt_id].token_ids, float(baseline))
        for prompt_id, baseline in zip(batch.prompt_ids, batch.baselines, strict=True)
    }
    collected = CollectedBatch(list(groups.values()), revision=batch.revision)
    wanted = {
        prompt_id: int(quota)
        for prompt_id, quota in zip(batch.prompt_ids, batch.quotas, strict=True)
        if quota > 0
    }
    asked = dict.fromkeys(groups, 0)
    rounds = dict.fromkeys(groups, 0)

    def requests(wanted: Mapping[str, int]) -> list[RolloutRequest]:
        made = []
        for prompt_id, count in wanted.items():
            if rounds[prompt_id] < MAX_ROUNDS:
                token_ids = groups[prompt_id].prompt_token_ids
                made.append(RolloutRequest(prompt_id, token_ids, count, first=asked[prompt_id]))
                asked[prompt_id] += count
                rounds[prompt_id] += 1
        return made

    with engine.session(sampling, seed) as session:
        first = requests(wanted)
        session.submit(first)
        in_flight = len(first)
        while in_flight:
            try:
                if should_stop():
                    raise Stopped
                with stopwatch.phase("rollout"):
                    sampled = session.finished(STOP_SECONDS)
                if not sampled:
                    continue
                with stopwatch.phase("verify"):
                    news = judge.judge([(groups[one.prompt_id].prompt, one.completions) for one in sampled])
            except Stopped:
                collected.complete = False
                break
            with stopwatch.phase("verify"):
                if is_stale():
                    news = [[outdated(verdict) for verdict in verdicts] for verdicts in news]
                for one, verdicts in zip(sampled, news, strict=True):
                    groups[one.prompt_id].add(one.completions, verdicts)
                    collected.note_problems(verdicts)
            measured = None
            if norms is not None:
                with stopwatch.phase("gradient_norms"):
                    measured = _measured(norms, sampled)
            with stopwatch.phase("service"):
                answer = service.report(
                    batch,
                    [one.prompt_id for one in sampled],
                    rewards=[[verdict.reward for verdict in verdicts] for verdicts in news],
                    statuses=[[verdict.status for verdict in verdicts] for verdicts in news],
                    lengths=[[float(len(c.token_ids)) for c in one.completions] for one in sampled],
                    gradient_norms=measured,
                )
            collected.note(answer)
            wanted = {}
            for directive in answer.directives:
                # Also of prompts reported before, where a rule waited for the whole batch.
                groups[directive.prompt_id].directive = directive
                if directive.action is Action.SAMPLE_MORE and directive.rollouts > 0:
                    wanted[directive.prompt_id] = directive.rollouts
            more = requests(wanted)
            session.submit(more)
            in_flight += len(more) - len(sampled)
    # Prompts held back for a refill that nobody needed were never asked for: they are no groups.
    collected.groups = [group for prompt_id, group in groups.items() if asked[prompt_id]]
    collected.rounds = max(rounds.values(), default=0)
    return collected


def round_seed(seed: int, number: int) -> int:
    """A seed for a round (or step) that shares no random numbers with its neighbours."""
    digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def _measured(norms: GradientNorms, groups: Sequence[RolloutGroup]) -> list[list[float]]:
    samples = [
        Sample(group.prompt_id, group.prompt_token_ids, c.token_ids, c.log_probs, 0.0)
        for group in groups
        for c in group.completions
    ]
    values = iter(norms.measure(samples))
    return [[next(values) for _ in group.completions] for group in groups]
