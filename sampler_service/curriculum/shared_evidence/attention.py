"""DOTS: attention over a reference set of prompts that were rolled out (arXiv 2506.05316)."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sampler_service.curriculum.hashing import hashed_sample
from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.predictors.platt import calibrated, fit_platt
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["Attention", "attend"]

Floats = NDArray[np.float64]


def attend(
    queries_BD: Floats, references_KD: Floats, rates_K: Floats, scale: float, *, leave_own_out: bool = False
) -> Floats:
    """Σ softmax(q·r_i·scale)·d_i for every query.

    Args:
        leave_own_out: queries are the references; none attends to itself.
    """
    logits = np.einsum("bd,kd->bk", queries_BD, references_KD) * scale
    if leave_own_out:
        np.fill_diagonal(logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    predicted: Floats = (weights * rates_K).sum(axis=1) / weights.sum(axis=1)
    return predicted


class Attention(SharedEvidence):
    """`strength` pseudo-rollouts at the attention-weighted rate of the references, calibrated on them.

    The authors draw 256 prompts uniformly every so often and roll each out 8 times. So it is here with
    `refresh_steps`: the set is served as ordinary batches whose source is REFERENCE. Without, the references
    are the prompts reported last (ours): no rollout is spent for prediction alone. Calibration is a Platt
    scale and bias, refitted at each policy step on predictions that leave the reference itself out.
    """

    needs: ClassVar[tuple[str, ...]] = ("embeddings",)
    uses_embeddings: ClassVar[bool] = True
    uses_id_hashes: ClassVar[bool] = True

    references: int = Field(default=256, ge=8, le=4096)
    """K: prompts in the reference set."""
    strength: float = Field(default=8.0, gt=0)
    """Pseudo-rollouts of a prediction (ours)."""
    temperature: float = Field(default=0.0, ge=0)
    """Divides q·r; 0 is √d as in the paper, whose embeddings were trained for it. Unit vectors want 0.05."""
    minimum: int = Field(default=16, ge=2)
    """References below which nothing is predicted (ours)."""

    @model_validator(mode="after")
    def _within_reach(self) -> Self:
        if self.minimum > self.references:
            raise ValueError(f"minimum = {self.minimum} must not exceed references = {self.references}")
        return self

    refresh_steps: int = Field(default=0, ge=0)
    """Policy steps after which a new reference set is drawn and rolled out; 0: never (the interval is ours)."""
    reference_rollouts: int = Field(default=8, ge=1, le=4096)
    """Rollouts of each prompt of such a set."""

    @property
    def rollouts_per_reference(self) -> int:
        """As `reference_rollouts` says."""
        return self.reference_rollouts

    def _scale(self, dim: int) -> float:
        return 1.0 / (self.temperature or np.sqrt(dim))

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[Floats, Floats]:
        """O(rows · K · d)."""
        count = len(table.column("clusters")[rows])
        references = memory.get("rows")
        if table.embeddings is None or references is None or len(references) < self.minimum:
            return np.zeros(count), np.zeros(count)
        queries = table.embeddings[: table.size][rows].astype(np.float64)
        predicted = attend(
            queries,
            table.embeddings[references].astype(np.float64),
            memory["rates"],
            self._scale(queries.shape[1]),
        )
        if "platt" in memory:
            predicted = calibrated(predicted, *memory["platt"].tolist())
        strength = np.where(queries.any(axis=1), self.strength, 0.0)
        return strength * predicted, strength * (1.0 - predicted)

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """The reported prompts join the references, newest result each; the oldest leave."""
        if table.embeddings is None:
            return
        usable = (counts.rollouts > 0) & table.embeddings[rows].any(axis=1)
        if self.refresh_steps:
            # Prompts that training chose are no uniform sample.
            usable &= np.isin(rows, memory.get("set", rows[:0]))
        new = rows[usable].astype(np.int64)
        old = memory.get("rows", np.zeros(0, dtype=np.int64))
        stays = ~np.isin(old, new)
        rates = counts.successes[usable] / counts.rollouts[usable]
        memory["rows"] = np.concatenate([old[stays], new])[-self.references :]
        memory["rates"] = np.concatenate([memory.get("rates", np.zeros(0))[stays], rates])[-self.references :]

    def new_references(self, table: PromptTable, memory: Memory, moment: Moment) -> NDArray[Any] | None:
        """At the first step, then every `refresh_steps`: K prompts, at most a quarter of the pool. O(N).

        Uniform over the pool, though nothing is drawn: chosen by hashes of the ids and the step's number.
        """
        if not self.refresh_steps or table.embeddings is None:
            return None
        last = memory.get("refreshed")
        if last is not None and moment.policy_step - int(last[0]) < self.refresh_steps:
            return None
        memory["refreshed"] = np.array([moment.policy_step], dtype=np.int64)
        wanted = min(self.references, max(self.minimum, table.size // 4), table.size)
        # Some may have no embedding: twice as many are looked at.
        best = hashed_sample(table.id_hashes()[: table.size], moment.policy_step, 2 * wanted)
        memory["set"] = np.sort(best[table.embeddings[best].any(axis=1)][:wanted]).astype(np.int64)
        return memory["set"]

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """Recalibrates. O(K² · d)."""
        references = memory.get("rows")
        if table.embeddings is None or references is None or len(references) < self.minimum:
            return
        vectors, rates = table.embeddings[references].astype(np.float64), memory["rates"]
        predicted = attend(vectors, vectors, rates, self._scale(vectors.shape[1]), leave_own_out=True)
        memory["platt"] = np.array(fit_platt(predicted, rates, np.ones(len(rates))))
