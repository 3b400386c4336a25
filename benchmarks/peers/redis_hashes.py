"""What most would build: a hash per prompt in Redis, a Lua script that counts, a sorted set to draw from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np
import redis
from numpy.typing import NDArray

__all__ = ["RedisRace", "RedisScan"]

_FILL_AT_ONCE: Final = 10_000

# KEYS: the sorted set, then a hash per prompt. ARGV: successes, failures and a uniform per prompt.
_COUNT: Final = """
for i = 2, #KEYS do
  local j = 3 * (i - 2)
  local a = redis.call('HINCRBY', KEYS[i], 'a', ARGV[j + 1])
  local b = redis.call('HINCRBY', KEYS[i], 'b', ARGV[j + 2])
  local rate = a / (a + b)
  local weight = math.sqrt(rate * (1 - rate))
  redis.call('ZADD', KEYS[1], SCORE, KEYS[i])
end
"""


class _Hashes(ABC):
    """Ids of 16 bytes; what is drawn is ids.

    Args:
        url: of a server of this benchmark's own.
        database: of it, which is emptied.
    """

    score: str

    def __init__(self, url: str, database: int) -> None:
        self._redis = redis.Redis.from_url(url, db=database)
        self._rng = np.random.default_rng(0)
        self._count = self._redis.register_script(_COUNT.replace("SCORE", self.score))

    def fill(self, prompts: int) -> None:
        self._redis.flushdb()
        for start in range(0, prompts, _FILL_AT_ONCE):
            ids = [f"prompt-{row:09d}" for row in range(start, min(start + _FILL_AT_ONCE, prompts))]
            pipe = self._redis.pipeline(transaction=False)
            for id_ in ids:
                pipe.hset(id_, mapping={"a": 1, "b": 1})
            scores = self.first_scores(len(ids))
            pipe.zadd("weights", dict(zip(ids, scores, strict=True)))
            pipe.execute()

    @abstractmethod
    def first_scores(self, count: int) -> list[float]:
        """Of prompts whose weight is ½."""

    def report(self, drawn: list[bytes], successes: NDArray[np.int64], group: int) -> None:
        uniforms = self._rng.random(len(drawn))
        arguments: list[Any] = []
        for right, uniform in zip(successes.tolist(), uniforms.tolist(), strict=True):
            arguments += (right, group - right, uniform)
        self._count(keys=["weights", *drawn], args=arguments)

    def close(self) -> None:
        self._redis.flushdb()
        self._redis.close()


class RedisScan(_Hashes):
    """Every draw reads all weights, so that it follows them."""

    name = "Redis hashes, all weights read per draw"
    law = "exact"
    score = "weight"

    def first_scores(self, count: int) -> list[float]:
        return [0.5] * count

    def draw(self, count: int) -> list[bytes]:
        pairs = self._redis.zrange("weights", 0, -1, withscores=True)
        weights = np.fromiter((score for _, score in pairs), dtype=np.float64, count=len(pairs))
        rows = self._rng.choice(len(pairs), count, replace=False, p=weights / weights.sum())
        return [pairs[row][0] for row in rows.tolist()]


class RedisRace(_Hashes):
    """The score is a random key log(u)/weight, drawn anew when a prompt is reported; the highest are popped.

    The first batch follows the weights. After it a prompt that had no luck keeps its key: nothing but a
    report of its own changes it, so a draw depends on all draws before it.
    """

    name = "Redis hashes, random keys popped"
    law = "keys are redrawn only when a prompt is reported"
    score = "math.log(ARGV[j + 3]) / weight"

    def first_scores(self, count: int) -> list[float]:
        scores: list[float] = (np.log(self._rng.random(count)) / 0.5).tolist()
        return scores

    def draw(self, count: int) -> list[bytes]:
        return [id_ for id_, _ in self._redis.zpopmax("weights", count)]
