"""Peers that live in the trainer's process: nobody else sees them, and they end with it."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.peers.peer import weights_of
from sampler_service.curriculum.weighted_pool import WeightedPool

__all__ = ["NumpyChoice", "OurPool", "PythonLists", "TorchMultinomial"]


class _Columns:
    """Posterior in NumPy columns; what is drawn is rows."""

    law = "exact"

    def fill(self, prompts: int) -> None:
        self.alphas = np.ones(prompts)
        self.betas = np.ones(prompts)
        self.weights = weights_of(self.alphas, self.betas)
        self.rng = np.random.default_rng(0)

    def report(self, drawn: NDArray[np.int64], successes: NDArray[np.int64], group: int) -> None:
        self.alphas[drawn] += successes
        self.betas[drawn] += group - successes
        self.weights[drawn] = weights_of(self.alphas[drawn], self.betas[drawn])

    def close(self) -> None:
        del self.alphas, self.betas, self.weights


class NumpyChoice(_Columns):
    """`Generator.choice(n, size, replace=False, p=p)`."""

    name = "numpy choice"

    def draw(self, count: int) -> NDArray[np.int64]:
        weights = self.weights
        return self.rng.choice(len(weights), count, replace=False, p=weights / weights.sum())


class TorchMultinomial(_Columns):
    """`torch.multinomial(weights, size)`, without replacement."""

    name = "torch multinomial"

    def draw(self, count: int) -> NDArray[np.int64]:
        rows: NDArray[np.int64] = torch.multinomial(torch.from_numpy(self.weights), count).numpy()
        return rows


class OurPool(_Columns):
    """The service's draw alone, without service: a sum tree with a flat head."""

    name = "our pool, in process"

    def fill(self, prompts: int) -> None:
        super().fill(prompts)
        self.pool = WeightedPool(self.weights)

    def draw(self, count: int) -> NDArray[np.int64]:
        return self.pool.draw(count, self.rng).rows_B

    def report(self, drawn: NDArray[np.int64], successes: NDArray[np.int64], group: int) -> None:
        super().report(drawn, successes, group)
        self.pool.update(drawn, self.weights[drawn])

    def close(self) -> None:
        super().close()
        del self.pool


class PythonLists:
    """One weighted draw over Python lists per prompt of the batch, as samplers that yield one prompt do."""

    name = "Python lists, a draw per prompt"
    law = "exact"

    def fill(self, prompts: int) -> None:
        self.alphas = [1.0] * prompts
        self.betas = [1.0] * prompts
        self.weights = [0.5] * prompts
        self.rng = random.Random(0)

    def draw(self, count: int) -> list[int]:
        drawn: list[int] = []
        kept: list[float] = []
        rows = range(len(self.weights))
        for _ in range(count):
            (row,) = self.rng.choices(rows, weights=self.weights)
            drawn.append(row)
            kept.append(self.weights[row])
            self.weights[row] = 0.0
        for row, weight in zip(drawn, kept, strict=True):
            self.weights[row] = weight
        return drawn

    def report(self, drawn: list[int], successes: Any, group: int) -> None:
        for row, right in zip(drawn, successes.tolist(), strict=True):
            self.alphas[row] += right
            self.betas[row] += group - right
            rate = self.alphas[row] / (self.alphas[row] + self.betas[row])
            self.weights[row] = (rate * (1.0 - rate)) ** 0.5

    def close(self) -> None:
        del self.alphas, self.betas, self.weights
