"""Right rollouts of earlier steps, for groups that are all wrong now (after DaGRPO, arXiv 2512.06337).

The paper gives all-wrong prompts an off-policy positive; where it comes from is unpublished. Ours: the newest
right rollout of the same prompt, by an earlier policy, with that policy's log-probabilities.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trainer_client.rollouts import Completion


@dataclass(frozen=True)
class StoredPositive:
    """One right rollout."""

    completion: Completion
    reward: float


class PositiveStore:
    """The newest right rollout of at most `capacity` prompts; the longest unseen prompt leaves first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._by_prompt: dict[str, StoredPositive] = {}

    def __len__(self) -> int:
        return len(self._by_prompt)

    def add(self, prompt_id: str, completion: Completion, reward: float) -> None:
        """Keeps it in place of the prompt's older one. O(1)."""
        self._by_prompt.pop(prompt_id, None)
        self._by_prompt[prompt_id] = StoredPositive(completion, reward)
        if len(self._by_prompt) > self.capacity:
            del self._by_prompt[next(iter(self._by_prompt))]

    def find(self, prompt_id: str) -> StoredPositive | None:
        """The prompt's, if there is one."""
        return self._by_prompt.get(prompt_id)

    def export(self) -> dict[str, NDArray[np.generic]]:
        """Everything in it, as arrays of numbers and text."""
        kept = list(self._by_prompt.values())
        completions = [one.completion for one in kept]
        return {
            "prompt_ids": np.array(list(self._by_prompt), dtype=np.str_),
            "texts": np.array([c.text for c in completions], dtype=np.str_),
            "rewards": np.array([one.reward for one in kept], dtype=np.float64),
            "truncated": np.array([c.finish_reason == "length" for c in completions], dtype=np.bool_),
            "lengths": np.array([len(c.token_ids) for c in completions], dtype=np.int64),
            "token_ids": np.array([token for c in completions for token in c.token_ids], dtype=np.int64),
            "log_probs": np.array([value for c in completions for value in c.log_probs], dtype=np.float64),
        }

    def restore(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Takes up what `export` gave. Raises KeyError when a column is missing."""
        self._by_prompt.clear()
        ends = np.cumsum(arrays["lengths"]).tolist()
        token_ids, log_probs = arrays["token_ids"].tolist(), arrays["log_probs"].tolist()
        rows = zip(
            arrays["prompt_ids"].tolist(),
            arrays["texts"].tolist(),
            arrays["rewards"].tolist(),
            arrays["truncated"].tolist(),
            [0, *ends],
            ends,
            strict=False,
        )
        for prompt_id, text, reward, truncated, start, end in rows:
            completion = Completion(
                tuple(token_ids[start:end]),
                tuple(log_probs[start:end]),
                text,
                "length" if truncated else "stop",
            )
            self._by_prompt[prompt_id] = StoredPositive(completion, reward)
