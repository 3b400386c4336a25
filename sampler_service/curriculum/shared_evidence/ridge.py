"""Ridge regression of the pass rate's logit on prompt features, with forgetting (ours)."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.shared_evidence.linear_model import predicted_pseudo_counts
from sampler_service.curriculum.shared_evidence.prompt_features import fit_directions, prompt_features
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["Ridge"]

Floats = NDArray[np.float64]


class Ridge(SharedEvidence):
    """`strength` pseudo-rollouts at σ(w·x), w = (Σ λ^age·c·xxᵀ + penalty)⁻¹ Σ λ^age·c·x·z.

    z is the logit of (k + ½)/(n + 1) and c = n·q(1 − q) its weight at that rate q. The sums are all that is
    kept, so a report costs one matrix product and every group ever counted still speaks, the less the
    older it is. x: intercept, known pass rates, main directions of the embeddings.
    """

    uses_embeddings: ClassVar[bool] = True
    needs: ClassVar[tuple[str, ...]] = ("embeddings", "reference_pass_rates", "anchor_pass_rates")

    strength: float = Field(default=1.0, gt=0)
    """Pseudo-rollouts of a prediction: embeddings say little next to a prompt's own outcomes."""
    penalty: float = Field(default=4.0, gt=0)
    """Added to the diagonal; a hundredth of it for the intercept."""
    factor: float = Field(default=0.97, gt=0, le=1)
    """λ: discount of the sums at each policy step."""
    directions: int = Field(default=48, ge=1, le=256)
    """Main directions of the embeddings used as features."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[Floats, Floats]:
        """Nothing before the first step has ended."""
        return predicted_pseudo_counts(table, rows, memory, self.strength)

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Adds the groups to the sums. O(groups · features²)."""
        fit_directions(table, memory, self.directions)
        some = counts.rollouts > 0
        features = prompt_features(table, rows[some], memory)
        rollouts = counts.rollouts[some].astype(np.float64)
        rates = (counts.successes[some] + 0.5) / (rollouts + 1.0)
        weights = rollouts * rates * (1.0 - rates)
        weighted = features * weights[:, None]
        gram, pull = self._sums(memory, features.shape[1])
        memory["gram"] = gram + weighted.T @ features
        memory["pull"] = pull + weighted.T @ np.log(rates / (1.0 - rates))

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """Solves, and lets the sums fade. O(features³)."""
        if "gram" not in memory:
            return
        penalty = np.full(len(memory["gram"]), self.penalty)
        penalty[0] *= 0.01
        memory["weights"] = np.linalg.solve(memory["gram"] + np.diag(penalty), memory["pull"])
        memory["gram"] = memory["gram"] * self.factor
        memory["pull"] = memory["pull"] * self.factor

    @staticmethod
    def _sums(memory: Memory, width: int) -> tuple[Floats, Floats]:
        """Present sums, with room for features that are new."""
        gram, pull = np.zeros((width, width)), np.zeros(width)
        if "gram" in memory:
            old = min(len(memory["pull"]), width)
            gram[:old, :old], pull[:old] = memory["gram"][:old, :old], memory["pull"][:old]
        return gram, pull
