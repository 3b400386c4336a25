"""Where the labels of prompts come from."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from sampler_service.curriculum.parts import Part, Registry

__all__ = ["CLUSTER_SOURCES", "ClusterSource", "GivenLabels", "KMeansLabels"]


class ClusterSource(Part):
    """Says which cluster a prompt belongs to. Labels that prompts were added with always stay."""


class GivenLabels(ClusterSource):
    """The labels of AddPrompts, and no others."""


class KMeansLabels(ClusterSource):
    """Prompts that were added without a label get one by k-means over their embeddings.

    Computed off the hot path by whichever replica finds it due, and entered into the log as an event:
    floating-point sums differ between processors, so a fold may not compute them.
    """

    needs: ClassVar[tuple[str, ...]] = ("embeddings",)
    uses_embeddings: ClassVar[bool] = True

    k: int = Field(default=15, ge=2, le=4096)
    """Clusters."""
    regroup_growth: float = Field(default=0.5, ge=0.01, le=100)
    """Centres are fitted anew when the pool has grown by this share since they last were (ours)."""


CLUSTER_SOURCES: Registry[ClusterSource] = Registry(
    "cluster source", {"labels": GivenLabels, "k_means": KMeansLabels}
)
