"""Pools of prompts of graded difficulty, with what a curriculum may be told about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEATURES", "SHAPES", "Features", "Pool", "Shape", "make_pool"]

Shape = Literal["skewed", "broad", "hard", "easy", "bimodal"]
SHAPES: Final[tuple[Shape, ...]] = ("skewed", "broad", "hard", "easy", "bimodal")
Features = Literal["none", "clusters", "references", "embeddings", "all"]
FEATURES: Final[tuple[Features, ...]] = ("none", "clusters", "references", "embeddings", "all")

Floats = NDArray[np.float64]

_EMBEDDING_DIM: Final = 48
# Mixtures over the difficulty logit: (weight, mean, deviation).
_DIFFICULTIES: Final[dict[str, tuple[tuple[float, float, float], ...]]] = {
    # Most prompts are out of reach, some are mastered, few are at the frontier.
    "skewed": ((0.80, 8.0, 3.0), (0.15, -5.0, 1.5), (0.05, 1.0, 1.5)),
    # Everything from mastered to impossible.
    "broad": ((1.0, 3.0, 8.0),),
    "hard": ((1.0, 6.0, 2.0),),
    "easy": ((0.8, -4.0, 1.5), (0.2, 2.5, 2.0)),
    "bimodal": ((0.5, -5.0, 1.0), (0.5, 6.0, 1.5)),
}


@dataclass(frozen=True)
class Pool:
    """Training prompts, held-out prompts of the same law, and what the curriculum is told."""

    skills_N_S: Floats
    """How much of each skill a prompt takes; rows have unit length."""
    difficulties_N: Floats
    """Logit of failing under the first policy."""
    held_out_skills_M_S: Floats
    held_out_difficulties_M: Floats
    clusters_N: NDArray[np.int32] | None = None
    reference_pass_rates_N: Floats | None = None
    embeddings_N_E: Floats | None = None

    def __len__(self) -> int:
        return len(self.difficulties_N)


def _skills(count: int, skills: int, rng: np.random.Generator) -> Floats:
    """One main skill and up to two lesser ones, and a little of everything."""
    x = np.abs(rng.normal(0.0, 0.05, (count, skills)))
    rows = np.arange(count)
    for weight in (1.0, 0.6, 0.3):
        used = rng.random(count) < (1.0 if weight == 1.0 else 0.6)
        x[rows[used], rng.integers(skills, size=int(used.sum()))] += weight * rng.uniform(
            0.6, 1.4, int(used.sum())
        )
    unit: Floats = x / np.linalg.norm(x, axis=1, keepdims=True)
    return unit


def _difficulties(shape: str, count: int, rng: np.random.Generator) -> Floats:
    weights, means, deviations = (np.array(column) for column in zip(*_DIFFICULTIES[shape], strict=True))
    part = rng.choice(len(weights), size=count, p=weights)
    drawn: Floats = rng.normal(means[part], deviations[part])
    return drawn


def make_pool(
    shape: Shape,
    rng: np.random.Generator,
    features: Features = "none",
    prompts: int = 3000,
    held_out: int = 1000,
    skills: int = 24,
    noise: float = 1.0,
) -> Pool:
    """Draws a pool.

    Args:
        features: what the curriculum is told: nothing; clusters (main skill × level, the level read off
            a noisy difficulty); pass rates of another model (4 rollouts each); embeddings (a random
            projection of skills and difficulty drowned in noise); or all of it.
        noise: scale of the noise in the features; 1 is "moderately informative", where the best linear
            reading of the difficulty leaves about half of its variance.
    """
    count = prompts + held_out
    x = _skills(count, skills, rng)
    b = _difficulties(shape, count, rng)
    spread = b.std()
    noisy = b + noise * spread * rng.normal(size=count)
    reference_b = b + 0.6 * noise * spread * rng.normal(size=count) - 1.0
    references = rng.binomial(4, 1.0 / (1.0 + np.exp(reference_b))) / 4.0
    levels = np.digitize(noisy, np.quantile(noisy, [0.2, 0.4, 0.6, 0.8]))
    clusters = (np.argmax(x, axis=1) * 5 + levels).astype(np.int32)
    signal = np.concatenate([x * np.sqrt(skills), (noisy - noisy.mean())[:, None] / spread], axis=1)
    embeddings = signal @ rng.normal(size=(skills + 1, _EMBEDDING_DIM)) / np.sqrt(skills + 1)
    embeddings += 0.5 * noise * embeddings.std() * rng.normal(size=embeddings.shape)
    told = {"none": "", "clusters": "c", "references": "r", "embeddings": "e", "all": "cre"}[features]
    return Pool(
        x[:prompts],
        b[:prompts],
        x[prompts:],
        b[prompts:],
        clusters[:prompts] if "c" in told else None,
        references[:prompts] if "r" in told else None,
        embeddings[:prompts] if "e" in told else None,
    )
