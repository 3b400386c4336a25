"""DEPO's pass-rate model, trained online: cross-entropy and a pairwise rank loss (arXiv 2602.06375)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.predictors.platt import sigmoid
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.shared_evidence.linear_model import predicted_pseudo_counts
from sampler_service.curriculum.shared_evidence.prompt_features import fit_directions, prompt_features
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["OnlineLogistic", "loss_gradient"]

Floats = NDArray[np.float64]


def loss_gradient(
    logits_B: Floats, rates_B: Floats, rank_weight: float, least_gap: float, margin: float
) -> Floats:
    """Gradient over the logits of mean BCE + rank_weight · mean hinge(margin − (z_i − z_j)).

    The mean of the hinge is over pairs whose rates differ by more than `least_gap`.
    """
    gradient = (sigmoid(logits_B) - rates_B) / len(logits_B)
    pairs = (rates_B[:, None] - rates_B[None, :]) > least_gap
    if rank_weight > 0 and pairs.any():
        short = pairs & (logits_B[:, None] - logits_B[None, :] < margin)
        pull = short.sum(axis=1) - short.sum(axis=0)
        gradient = gradient - rank_weight * pull / pairs.sum()
    return gradient


class OnlineLogistic(SharedEvidence):
    """`strength` pseudo-rollouts at σ(w·x), w trained at each policy step on the last groups.

    The authors fine-tune a text model; here w is linear over what the pool has: an intercept, known pass
    rates, the main directions of the embeddings. Their third loss needs token log-probabilities, which a
    report does not carry. AdaGrad, full batch, so that a fold is deterministic.
    """

    needs: ClassVar[tuple[str, ...]] = ("embeddings", "reference_pass_rates", "anchor_pass_rates")
    uses_embeddings: ClassVar[bool] = True

    strength: float = Field(default=8.0, gt=0)
    """Pseudo-rollouts of a prediction (ours)."""
    rank_weight: float = Field(default=3.0, ge=0)
    """Weight of the rank loss."""
    least_gap: float = Field(default=0.05, ge=0, le=1)
    """Pairs count whose observed rates differ by more."""
    margin: float = Field(default=0.5, ge=0)
    """Margin of the rank loss, in logits."""
    memory_groups: int = Field(default=512, ge=16, le=8192)
    """Groups trained on (ours)."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Of AdaGrad (ours)."""
    passes: int = Field(default=10, ge=1, le=1000)
    """Passes over the groups at each policy step (ours)."""
    decay: float = Field(default=1e-3, ge=0)
    """Weight decay, the intercept excepted (ours)."""
    directions: int = Field(default=32, ge=1, le=256)
    """Main directions of the embeddings used as features."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[Floats, Floats]:
        """Nothing before the first step has ended."""
        return predicted_pseudo_counts(table, rows, memory, self.strength)

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Keeps the groups' rates."""
        fit_directions(table, memory, self.directions)
        some = counts.rollouts > 0
        rates = counts.successes[some] / counts.rollouts[some]
        kept = slice(-self.memory_groups, None)
        old_rows, old_rates = (
            memory.get("rows", np.zeros(0, dtype=np.int64)),
            memory.get("rates", np.zeros(0)),
        )
        memory["rows"] = np.concatenate([old_rows, rows[some].astype(np.int64)])[kept]
        memory["rates"] = np.concatenate([old_rates, rates])[kept]

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """Trains. O(passes · groups · (features + groups))."""
        if "rows" not in memory or len(memory["rows"]) < 2:
            return
        features, rates = prompt_features(table, memory["rows"], memory), memory["rates"]
        width = features.shape[1]
        weights, squares = np.zeros(width), np.zeros(width)
        for name, array in (("weights", weights), ("squares", squares)):
            if name in memory:
                array[: len(memory[name])] = memory[name][:width]
        shrink = np.full(width, self.decay)
        shrink[0] = 0.0
        for _ in range(self.passes):
            logits = np.einsum("bf,f->b", features, weights)
            pull = loss_gradient(logits, rates, self.rank_weight, self.least_gap, self.margin)
            gradient = np.einsum("bf,b->f", features, pull) + shrink * weights
            squares += gradient * gradient
            weights -= self.learning_rate * gradient / np.sqrt(squares + 1e-12)
        memory["weights"], memory["squares"] = weights, squares
