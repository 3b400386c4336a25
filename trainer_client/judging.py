"""Verdicts on completions: rewards and statuses."""

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from trainer_client.client import RolloutStatus
from trainer_client.rollouts import Completion
from trainer_client.stopping import Stopped
from trainer_client.tasks import TaskPrompt, VerifierError


@dataclass(frozen=True)
class Verdict:
    """What a completion earned. A verifier, or an engine, that failed gives 0 and the status ERROR.

    problem: what it failed with.
    """

    reward: float
    status: RolloutStatus
    problem: str = ""


class Judge(Protocol):
    """Judges the completions of a round."""

    def judge(self, rollouts: Sequence[tuple[TaskPrompt, Sequence[Completion]]]) -> list[list[Verdict]]:
        """Verdicts, prompt by prompt, in the order given. Raises Stopped when a stop was asked for."""
        ...


class LocalJudge:
    """Judges in this process; verifiers with several workers are asked by as many threads.

    should_stop: looked at before every verdict, since a batch of slow ones may take hours.
    """

    def __init__(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        self._should_stop = should_stop

    def judge(self, rollouts: Sequence[tuple[TaskPrompt, Sequence[Completion]]]) -> list[list[Verdict]]:
        """Verdicts, prompt by prompt, in the order given."""
        pairs = [(prompt, completion) for prompt, group in rollouts for completion in group]
        workers = max((_workers(prompt) for prompt, _ in rollouts), default=1)
        verdicts = (
            self._side_by_side(pairs, workers) if workers > 1 else (self._verdict(*pair) for pair in pairs)
        )
        return [[next(verdicts) for _ in group] for _, group in rollouts]

    def _side_by_side(
        self, pairs: Sequence[tuple[TaskPrompt, Completion]], workers: int
    ) -> Iterator[Verdict]:
        with ThreadPoolExecutor(workers) as threads:
            # Verifiers of one worker may not be fit for threads: they are asked here, meanwhile.
            futures = {
                index: threads.submit(self._verdict, *pair)
                for index, pair in enumerate(pairs)
                if _workers(pair[0]) > 1
            }
            done = [None if index in futures else self._verdict(*pair) for index, pair in enumerate(pairs)]
            return iter([futures[index].result() if one is None else one for index, one in enumerate(done)])

    def _verdict(self, prompt: TaskPrompt, completion: Completion) -> Verdict:
        if self._should_stop():
            raise Stopped
        return verdict(prompt, completion)


def verdict(prompt: TaskPrompt, completion: Completion) -> Verdict:
    """One completion's verdict."""
    if completion.finish_reason == "error":
        return Verdict(0.0, RolloutStatus.ERROR, "the engine gave the completion up")
    status = RolloutStatus.OK if completion.finish_reason == "stop" else RolloutStatus.TRUNCATED
    try:
        reward = prompt.reward(completion.text)
    except VerifierError as error:
        return Verdict(0.0, RolloutStatus.ERROR, str(error))
    if not math.isfinite(reward):
        return Verdict(0.0, RolloutStatus.ERROR, f"the verifier gave {reward}, which is no reward")
    return Verdict(reward, status)


def outdated(verdict: Verdict) -> Verdict:
    """The same rollout, known to come from a policy too old: no outcome, unless it was none anyway."""
    counts = verdict.status in (RolloutStatus.OK, RolloutStatus.TRUNCATED)
    return Verdict(verdict.reward, RolloutStatus.STALE) if counts else verdict


def _workers(prompt: TaskPrompt) -> int:
    return int(getattr(prompt.verifier, "workers", 1))
