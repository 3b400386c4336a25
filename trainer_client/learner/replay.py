"""Rollouts of earlier steps to train on again, with the log-probabilities of the policy that made them.

| method           | drawn                                          | leaves when it is full          | source      |
|------------------|------------------------------------------------|---------------------------------|-------------|
| `fifo`           | uniformly                                      | the oldest                      | 2506.05316  |
| `least_replayed` | fewest replays first, of those the newest      | most replays, of those the oldest | BufferStore |
| `priority`       | ∝ (mean |advantage| · decay^age)^exponent      | the least likely to be drawn    | ours        |

For every method: the newest copy of a prompt replaces the one before; a group whose advantages are
all alike (all right, all wrong) never enters; a group too old or replayed too often leaves.
How replayed rollouts enter the loss: `trainer_client.learner.policy`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from trainer_client.learner.samples import Sample

ReplayMethod = Literal["fifo", "least_replayed", "priority"]
Arrays = Mapping[str, NDArray[np.generic]]
T = TypeVar("T")


@dataclass(frozen=True)
class StoredGroup:
    """The rollouts of one prompt that were trained on once. step: the policy version that made them."""

    samples: tuple[Sample, ...]
    step: int
    replays: int = 0

    @property
    def prompt_id(self) -> str:
        """The prompt's id."""
        return self.samples[0].prompt_id

    @property
    def mean_magnitude(self) -> float:
        """Mean |advantage|."""
        return float(np.mean([abs(sample.advantage) for sample in self.samples]))


class ReplayBuffer:
    """Groups by prompt. Every operation is O(groups); draws depend on `seed` and the step alone.

    capacity_groups: at most so many. max_age_steps, max_replays: None is no limit.
    """

    def __init__(
        self,
        method: ReplayMethod = "fifo",
        capacity_groups: int = 512,
        *,
        max_age_steps: int | None = None,
        max_replays: int | None = None,
        priority_exponent: float = 1.0,
        priority_decay: float = 0.99,
        seed: int = 0,
    ) -> None:
        self.method = method
        self.capacity_groups = capacity_groups
        self.max_age_steps = max_age_steps
        self.max_replays = max_replays
        self.priority_exponent = priority_exponent
        self.priority_decay = priority_decay
        self.seed = seed
        # In the order of arrival.
        self._groups: dict[str, StoredGroup] = {}

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def groups(self) -> tuple[StoredGroup, ...]:
        """What is in it, the oldest first."""
        return tuple(self._groups.values())

    def add(self, samples: Sequence[Sample], step: int) -> int:
        """Takes in a batch's samples, group by group; gives how many groups entered."""
        by_prompt: dict[str, list[Sample]] = {}
        for sample in samples:
            if sample.completion_token_ids:
                by_prompt.setdefault(sample.prompt_id, []).append(replace(sample, replayed=True))
        entered = 0
        for prompt_id, group in by_prompt.items():
            if len({sample.advantage for sample in group}) > 1:
                self._groups.pop(prompt_id, None)
                self._groups[prompt_id] = StoredGroup(tuple(group), step)
                entered += 1
        excess = len(self._groups) - self.capacity_groups
        if excess > 0:
            for group_out in self._first_to_leave(step)[:excess]:
                del self._groups[group_out.prompt_id]
        return entered

    def available(self, step: int) -> int:
        """How many groups may be drawn at a step; those past a limit leave."""
        for prompt_id in [group.prompt_id for group in self.groups if self._is_past_a_limit(group, step)]:
            del self._groups[prompt_id]
        return len(self._groups)

    def draw(self, count: int, step: int) -> list[StoredGroup]:
        """At most `count` groups, each once; their replays are counted."""
        count = min(count, self.available(step))
        if count <= 0:
            return []
        groups = self.groups
        if self.method == "least_replayed":
            newest_first = list(reversed(groups))
            chosen = sorted(newest_first, key=lambda group: group.replays)[:count]
        else:
            rng = np.random.default_rng([self.seed, step])
            weights = np.array([self._weight(group, step) for group in groups])
            places = rng.choice(len(groups), size=count, replace=False, p=weights / weights.sum())
            chosen = [groups[place] for place in places.tolist()]
        for group in chosen:
            self._groups[group.prompt_id] = replace(group, replays=group.replays + 1)
        return chosen

    def export(self) -> dict[str, NDArray[np.generic]]:
        """Everything that is in it, as arrays of numbers and text."""
        groups = self.groups
        samples = [sample for group in groups for sample in group.samples]
        prompts = [group.samples[0].prompt_token_ids for group in groups]
        completions = [sample.completion_token_ids for sample in samples]
        return {
            "prompt_ids": np.array([group.prompt_id for group in groups], dtype=np.str_),
            "steps": np.array([group.step for group in groups], dtype=np.int64),
            "replays": np.array([group.replays for group in groups], dtype=np.int64),
            "group_sizes": np.array([len(group.samples) for group in groups], dtype=np.int64),
            "prompt_lengths": np.array([len(tokens) for tokens in prompts], dtype=np.int64),
            "prompt_tokens": np.array([token for tokens in prompts for token in tokens], dtype=np.int64),
            "lengths": np.array([len(tokens) for tokens in completions], dtype=np.int64),
            "tokens": np.array([token for tokens in completions for token in tokens], dtype=np.int64),
            "log_probs": np.array(
                [value for sample in samples for value in sample.behaviour_log_probs], dtype=np.float64
            ),
            "advantages": np.array([sample.advantage for sample in samples], dtype=np.float64),
        }

    def restore(self, arrays: Arrays) -> None:
        """Puts what `export` gave in place of what is in it."""
        prompts = _pieces(arrays["prompt_tokens"].tolist(), arrays["prompt_lengths"].tolist())
        lengths = arrays["lengths"].tolist()
        tokens = _pieces(arrays["tokens"].tolist(), lengths)
        log_probs = _pieces(arrays["log_probs"].tolist(), lengths)
        advantages = arrays["advantages"].tolist()
        self._groups = {}
        at = 0
        for place, prompt_id in enumerate(arrays["prompt_ids"].tolist()):
            rows = range(at, at + int(arrays["group_sizes"][place]))
            at = rows.stop
            samples = tuple(
                Sample(prompt_id, prompts[place], tokens[row], log_probs[row], advantages[row], replayed=True)
                for row in rows
            )
            self._groups[prompt_id] = StoredGroup(
                samples, int(arrays["steps"][place]), int(arrays["replays"][place])
            )

    def _is_past_a_limit(self, group: StoredGroup, step: int) -> bool:
        too_old = self.max_age_steps is not None and step - group.step > self.max_age_steps
        return too_old or (self.max_replays is not None and group.replays >= self.max_replays)

    def _weight(self, group: StoredGroup, step: int) -> float:
        if self.method != "priority":
            return 1.0
        faded = group.mean_magnitude * self.priority_decay ** (step - group.step)
        return float(max(faded, 1e-12) ** self.priority_exponent)

    def _first_to_leave(self, step: int) -> list[StoredGroup]:
        if self.method == "least_replayed":
            return sorted(self.groups, key=lambda group: -group.replays)
        if self.method == "priority":
            return sorted(self.groups, key=lambda group: self._weight(group, step))
        return list(self.groups)


def _pieces(values: list[T], lengths: list[int]) -> list[tuple[T, ...]]:
    ends = np.cumsum(lengths).tolist()
    return [tuple(values[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
