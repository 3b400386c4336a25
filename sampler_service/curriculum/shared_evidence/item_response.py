"""A dynamic item-response model of pass rates (ours): what `frontier` knows about every prompt.

logit p_i = θ·x_i + c_{cluster i} + u_i. θ drifts as the policy learns; c and u are offsets of clusters and
prompts, which a policy that improves as a whole need not forget: that is the advantage over counts that
decay. Without any features x is an intercept alone, the policy's drifting ability.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.shared_evidence.linear_model import coefficients
from sampler_service.curriculum.shared_evidence.logit_filter import (
    LogitBelief,
    beta_of_logit,
    merge_groups,
    observe_groups,
)
from sampler_service.curriculum.shared_evidence.prompt_features import fit_directions, prompt_features
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["ItemResponse"]

Floats = NDArray[np.float64]


class ItemResponse(SharedEvidence):
    """Assumed-density filter over (θ, c, u), their posteriors kept independent of one another.

    One report costs O(groups · features²), vectorised over its groups. The variance τ² of u is learned from
    first visits (empirical Bayes). A prompt's own outcomes live in u, so the estimator's counts and decay are
    not added.
    """

    holds_own_evidence: ClassVar[bool] = True
    uses_embeddings: ClassVar[bool] = True

    intercept_variance: float = Field(default=9.0, gt=0)
    """Prior variance of the intercept, in logits²."""
    feature_variance: float = Field(default=1.0, gt=0)
    """Prior variance of every other entry of θ."""
    cluster_variance: float = Field(default=1.0, ge=0)
    """Prior variance of a cluster's offset; 0 ignores clusters."""
    prompt_variance: float = Field(default=9.0, gt=0)
    """First value of τ², the variance of a prompt's offset."""
    variance_rate: float = Field(default=0.05, ge=0, le=1)
    """How far one first visit moves τ²; 0 keeps it."""
    drift: float = Field(default=0.01, ge=0)
    """Variance added to every entry of θ at each policy step."""
    offset_drift: float = Field(default=0.02, ge=0)
    """Variance added to c and u at each policy step, up to their prior variance."""
    directions: int = Field(default=48, ge=1, le=256)
    """Main directions of the embeddings used as features."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[Floats, Floats]:
        """The whole posterior, as the Beta with its E[p] and E[p(1−p)]. O(rows · features²)."""
        means, variances = self.logits(table, rows, memory)
        return beta_of_logit(means, variances)

    def logits(self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory) -> tuple[Floats, Floats]:
        """Mean and variance of the prompts' logits."""
        features = prompt_features(table, rows, memory)
        theta, covariance = coefficients(memory, self._prior(features.shape[1]))
        means = features @ theta
        variances = ((features @ covariance) * features).sum(axis=1)
        clusters = table.column("clusters")[rows].astype(np.int64)
        c_means, c_variances = _read(memory, "cluster", clusters, 0.0, self.cluster_variance)
        inside = clusters >= 0
        index = np.arange(*rows.indices(table.size)) if isinstance(rows, slice) else rows
        u_means, u_variances = _read(memory, "prompt", index, 0.0, self._tau2(memory))
        means = means + np.where(inside, c_means, 0.0) + u_means
        return means, np.maximum(variances, 0.0) + np.where(inside, c_variances, 0.0) + u_variances

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Takes in all groups together; several of one prompt count as one."""
        rows, successes, rollouts = merge_groups(rows, counts)
        if len(rows) == 0:
            return
        fit_directions(table, memory, self.directions)
        features = prompt_features(table, rows, memory)
        theta, covariance = coefficients(memory, self._prior(features.shape[1]))
        clusters = table.column("clusters")[rows].astype(np.int64)
        if self.cluster_variance == 0:
            clusters[:] = -1
        _grow(memory, "prompt", table.size)
        _grow(memory, "cluster", int(clusters.max(initial=-1)) + 1)
        tau2 = self._tau2(memory)
        first = np.isnan(memory["prompt_variances"][rows])
        names, of = _named(clusters, len(memory["cluster_means"]))
        prior = LogitBelief(
            theta,
            covariance,
            *_read(memory, "cluster", names, 0.0, self.cluster_variance),
            *_read(memory, "prompt", rows, 0.0, tau2),
        )
        after = observe_groups(prior, features, of, successes, rollouts)
        memory["theta"], memory["covariance"] = after.theta_F, after.covariance_FF
        memory["cluster_means"][names] = after.cluster_means_K
        memory["cluster_variances"][names] = after.cluster_variances_K
        memory["prompt_means"][rows] = after.own_means_B
        memory["prompt_variances"][rows] = after.own_variances_B
        seconds = (after.own_means_B * after.own_means_B + after.own_variances_B)[first]
        memory["tau2"] = np.array([self._moved(tau2, seconds)])

    def _moved(self, tau2: float, seconds: Floats) -> float:
        """τ² after each of these second moments has pulled it by `variance_rate`, in turn."""
        keep = (1.0 - self.variance_rate) ** np.arange(len(seconds), -1, -1)
        pulled = keep[0] * tau2 + self.variance_rate * float((keep[1:] * seconds).sum())
        return float(min(max(pulled, 0.1), 100.0))

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """Everything drifts by one step. O(prompts)."""
        if "covariance" not in memory:
            return
        covariance = memory["covariance"].copy()
        # The diagonal alone grows; unbounded growth of what is never observed stops at its prior.
        diagonal = np.einsum("ii->i", covariance)
        prior = np.maximum(self._prior(len(diagonal)), diagonal)
        diagonal[:] = np.minimum(diagonal + self.drift, prior)
        memory["covariance"] = covariance
        for name, most in (("prompt", self._tau2(memory)), ("cluster", self.cluster_variance)):
            old = memory[f"{name}_variances"]
            memory[f"{name}_variances"] = np.minimum(old + self.offset_drift, np.maximum(old, most))

    def forget_prompts(self, memory: Memory) -> None:
        """All prompts' offsets back to the prior."""
        for name in ("prompt_means", "prompt_variances"):
            if name in memory:
                memory[name] = memory[name][:0]

    # -- memory --------------------------------------------------------------

    def _prior(self, size: int) -> Floats:
        prior = np.full(size, self.feature_variance)
        prior[0] = self.intercept_variance
        return prior

    def _tau2(self, memory: Memory) -> float:
        return float(memory["tau2"][0]) if "tau2" in memory else self.prompt_variance


def _read(
    memory: Memory, name: str, index: NDArray[np.int64], mean: float, variance: float
) -> tuple[Floats, Floats]:
    """Means and variances at `index`; the given prior where nothing was observed."""
    variances = memory.get(f"{name}_variances")
    if variances is None or len(variances) == 0:
        return np.full(len(index), mean), np.full(len(index), variance)
    inside = (index >= 0) & (index < len(variances))
    at = np.where(inside, index, 0)
    known = inside & ~np.isnan(variances[at])
    return (
        np.where(known, memory[f"{name}_means"][at], mean).astype(np.float64),
        np.where(known, variances[at], variance).astype(np.float64),
    )


def _named(clusters_B: NDArray[np.int64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The clusters to update, and each prompt's place among them, −1 for none."""
    if count <= len(clusters_B):
        return np.arange(count), clusters_B
    names, of = np.unique(clusters_B, return_inverse=True)
    return (names[1:], of - 1) if names[0] < 0 else (names, of)


def _grow(memory: Memory, name: str, size: int) -> None:
    """Room for `size` offsets; NaN marks one never observed."""
    old = memory.get(f"{name}_variances", np.zeros(0))
    size = max(size, len(old))
    for key, fill in ((f"{name}_means", 0.0), (f"{name}_variances", np.nan)):
        array = memory.get(key)
        if array is None or len(array) < size:
            grown = np.full(size, fill, dtype=np.float32)
            grown[: len(old)] = [] if array is None else array
            memory[key] = grown
