"""What a run on several processes shares: service, judge, stop, checkpoints; engines are in `sharded_engine`.

Each stands in for the part of the same name and must be called on every rank, in the same order.
An error on one rank becomes the same error on all of them, so that they end, or go on, together.
"""

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

from trainer_client.checkpoint import CheckpointStore, RunState
from trainer_client.curriculum_service import CurriculumService
from trainer_client.distributed.world import World, shares
from trainer_client.judging import Judge, Verdict
from trainer_client.learner.gradient_norms import GradientNorms
from trainer_client.learner.kept import Keepable
from trainer_client.learner.policy import Policy
from trainer_client.learner.samples import Sample
from trainer_client.rollouts import Completion
from trainer_client.stopping import StopRequest
from trainer_client.tasks import TaskPrompt
from trainer_client.trainer_errors import TrainerError

T = TypeVar("T")


@dataclass(frozen=True)
class _Outcome(Generic[T]):
    """What a rank's work came to: a value, or the error that it ended with."""

    value: T | None = None
    error: BaseException | None = None

    def get(self) -> T:
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


def on_first(world: World, work: Callable[[], T]) -> T:
    """Rank 0 does the work; every rank gets the result, or the error."""
    return world.broadcast(_tried(work) if world.is_first else _Outcome[T]()).get()


def on_all(world: World, work: Callable[[], T]) -> list[T]:
    """Every rank does its work; every rank gets all results, or the first error."""
    outcomes = world.gather(_tried(work))
    for rank, outcome in enumerate(outcomes):
        if outcome.error is not None and world.size > 1:
            outcome.error.add_note(f"on rank {rank}")
    return [outcome.get() for outcome in outcomes]


class SharedService:
    """A curriculum service that rank 0 talks to. service: rank 0's; None elsewhere."""

    def __init__(self, world: World, service: Any) -> None:
        self._world = world
        self._service = service

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            return on_first(self._world, lambda: getattr(self._service, name)(*arguments, **named))

        return call


def shared_service(world: World, service: CurriculumService | None) -> CurriculumService:
    """The service for every rank. service: rank 0's; None elsewhere."""
    if world.size == 1 and service is not None:
        return service
    return cast(CurriculumService, SharedService(world, service))


class ShardedJudge:
    """Every rank judges its share: a verdict that may depend on a time limit is given once."""

    def __init__(self, world: World, judge: Judge) -> None:
        self._world = world
        self._judge = judge

    def judge(self, rollouts: Sequence[tuple[TaskPrompt, Sequence[Completion]]]) -> list[list[Verdict]]:
        """Verdicts, prompt by prompt, in the order given, on every rank."""
        plan = shares([len(group) for _, group in rollouts], self._world.size)
        mine = [rollouts[place] for place in plan[self._world.rank]]
        return merged(plan, on_all(self._world, lambda: self._judge.judge(mine)))


class ShardedNorms:
    """Every rank measures its share."""

    def __init__(self, world: World, norms: GradientNorms) -> None:
        self._world = world
        self._norms = norms

    def measure(self, samples: Sequence[Sample]) -> list[float]:
        """One norm per sample, in order, on every rank."""
        plan = shares(
            [len(s.prompt_token_ids) + len(s.completion_token_ids) for s in samples], self._world.size
        )
        mine = [samples[place] for place in plan[self._world.rank]]
        return merged(plan, on_all(self._world, lambda: self._norms.measure(mine)))


class SharedStop(StopRequest):
    """A stop asked of any rank is one of all. Every rank must look at `requested` equally often."""

    def __init__(self, world: World, stop: StopRequest) -> None:
        self._world = world
        self._stop = stop

    @property
    def requested(self) -> bool:
        """Whether any rank was asked to stop."""
        return self._world.agrees_on_any(self._stop.requested)

    @requested.setter
    def requested(self, value: bool) -> None:
        self._stop.requested = value


class SharedCheckpoints(CheckpointStore):
    """Rank 0 writes, all ranks read: the folder must be on a file system that they share."""

    def __init__(self, world: World, directory: Path, keep: int = 2) -> None:
        super().__init__(directory, keep)
        self._world = world

    def save(self, policy: Policy, state: RunState, memory: Keepable | None = None) -> list[RunState]:
        """Writes a checkpoint; what it gives, every rank gets."""
        write = super().save
        return on_first(self._world, lambda: write(policy, state, memory))

    def latest(self) -> int:
        """The newest checkpoint's step, as rank 0 sees it."""
        find = super().latest
        return on_first(self._world, find)

    def load(self, policy: Policy, step: int, memory: Keepable | None = None) -> RunState:
        """Puts a checkpoint in place on every rank, and checks that it is the same one."""
        read = super().load
        state = on_all(self._world, lambda: read(policy, step, memory))[0]
        self._world.check_same(policy.parameters)
        return state


def _tried(work: Callable[[], T]) -> _Outcome[T]:
    try:
        return _Outcome(value=work())
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            # It has to reach the other ranks in some form.
            return _Outcome(error=TrainerError(f"{type(error).__name__}: {error}"))
        return _Outcome(error=error)


def merged(plan: Sequence[Sequence[int]], parts: Sequence[Sequence[T]]) -> list[T]:
    """What the ranks made of their shares, in the order of the whole."""
    found = {
        place: one
        for places, part in zip(plan, parts, strict=True)
        for place, one in zip(places, part, strict=True)
    }
    return [found[place] for place in range(len(found))]
