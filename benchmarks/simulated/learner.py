"""A genuine policy-gradient learner that runs in seconds.

The policy answers prompt i rightly with probability σ(θ·x_i + φ_i − b_i): θ are skills shared by all
prompts, φ_i (off by default) what is memorised about the one. Rewards are sampled, advantages and
updates are those of GRPO or REINFORCE, and nothing about the course of learning is drawn by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulated.pools import Pool

__all__ = ["Learner", "LearnerConfig", "Update"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LearnerConfig:
    """How the policy learns."""

    learning_rate: float = 2.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    advantage: Literal["grpo", "dr_grpo"] = "grpo"
    normaliser: Literal["nominal", "kept", "mixed"] = "nominal"
    """What the sum of gradients is divided by: the rollouts of a full batch, those trained on, or those in
    mixed groups. `kept` lets a method that drops groups take longer steps per rollout than one that does
    not, which is a larger learning rate and no better choice of prompts; `mixed` lets everybody."""
    memorisation: float = 0.0
    """Learning rate of φ relative to that of θ."""
    reward_noise: float = 0.0
    """Probability that the verifier says the opposite."""


@dataclass(frozen=True)
class Update:
    """What one update did."""

    kl: float
    """Mean KL(old ‖ new) over the prompts trained on."""
    mixed_share: float
    """Share of groups with both right and wrong rollouts."""


class Learner:
    """A logistic policy over shared skills."""

    def __init__(self, pool: Pool, config: LearnerConfig = LearnerConfig()) -> None:
        self.pool = pool
        self.config = config
        self.theta = np.zeros(pool.skills_N_S.shape[1])
        self.phi = np.zeros(len(pool))
        self.updates = 0
        self._first = np.zeros_like(self.theta)
        self._second = np.zeros_like(self.theta)

    def pass_rates(self, rows: NDArray[Any] | slice = slice(None)) -> Floats:
        """True pass rates of training prompts under the current policy."""
        pool = self.pool
        logits = pool.skills_N_S[rows] @ self.theta + self.phi[rows] - pool.difficulties_N[rows]
        return _sigmoid(logits)

    def observed_pass_rates(self, rows: NDArray[Any] | slice = slice(None)) -> Floats:
        """As the verifier sees them, its errors included."""
        e = self.config.reward_noise
        return e + (1.0 - 2.0 * e) * self.pass_rates(rows)

    def held_out_accuracy(self) -> float:
        """Mean true pass rate of the held-out prompts: exact, no sampling noise."""
        pool = self.pool
        return float(_sigmoid(pool.held_out_skills_M_S @ self.theta - pool.held_out_difficulties_M).mean())

    def sample(
        self, rows: NDArray[Any], rollouts: NDArray[Any], rng: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], Floats]:
        """Rolls out: the group of each rollout, whether its answer was right, and its reward."""
        groups = np.repeat(np.arange(len(rows)), rollouts)
        right = rng.random(len(groups)) < self.pass_rates(rows)[groups]
        flipped = rng.random(len(groups)) < self.config.reward_noise
        return groups, right, (right ^ flipped).astype(np.float64)

    def update(
        self,
        rows: NDArray[Any],
        groups: NDArray[Any],
        right: NDArray[np.bool_],
        rewards: Floats,
        nominal: int,
    ) -> Update:
        """One policy-gradient step: the mean over rollouts of advantage × ∇ log π.

        Args:
            nominal: rollouts of a full batch.
        """
        if len(groups) == 0:
            return Update(0.0, 0.0)
        count = len(rows)
        sizes = np.bincount(groups, minlength=count)
        means = np.bincount(groups, rewards, minlength=count) / np.maximum(sizes, 1)
        centred = rewards - means[groups]
        squares = np.bincount(groups, centred * centred, minlength=count)
        advantages = centred
        if self.config.advantage == "grpo":
            deviations = np.sqrt(squares / np.maximum(sizes - 1, 1))
            advantages = centred / (deviations[groups] + 1e-6)
        before = self.pass_rates(rows)
        # ∇ log π = (right − p) x.
        slopes = np.bincount(groups, advantages * (right - before[groups]), minlength=count)
        divisor = {
            "nominal": max(nominal, len(groups)),
            "kept": len(groups),
            "mixed": max(int(sizes[squares > 0].sum()), 1),
        }[self.config.normaliser]
        slopes = slopes / divisor
        gradient = slopes @ self.pool.skills_N_S[rows]
        self.updates += 1
        if self.config.optimizer == "adam":
            self._first = 0.9 * self._first + 0.1 * gradient
            self._second = 0.99 * self._second + 0.01 * gradient**2
            first = self._first / (1.0 - 0.9**self.updates)
            second = self._second / (1.0 - 0.99**self.updates)
            self.theta = self.theta + self.config.learning_rate * first / (np.sqrt(second) + 1e-8)
        else:
            self.theta = self.theta + self.config.learning_rate * gradient
        if self.config.memorisation:
            np.add.at(self.phi, rows, self.config.learning_rate * self.config.memorisation * slopes)
        after = self.pass_rates(rows)
        kl = before * np.log(before / after) + (1 - before) * np.log((1 - before) / (1 - after))
        mixed = (squares[sizes > 0] > 0).mean()
        return Update(float(np.mean(np.maximum(kl, 0.0))), float(mixed))


def _sigmoid(logits: Floats) -> Floats:
    # Bounded away from 0 and 1, so that logarithms are finite.
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -30.0, 30.0))), dtype=np.float64)
