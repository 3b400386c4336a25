"""How a batch is shared among clusters of prompts: one small module per method."""

from sampler_service.curriculum.clusters.base import ClusterGroups, ClusterShares
from sampler_service.curriculum.clusters.minimax import MinimaxClusters
from sampler_service.curriculum.clusters.thompson import ThompsonClusters
from sampler_service.curriculum.clusters.ucb import UcbClusters
from sampler_service.curriculum.parts import Registry

__all__ = ["CLUSTERS", "ClusterGroups", "ClusterShares"]

CLUSTERS: Registry[ClusterShares] = Registry(
    "clusters", {"thompson": ThompsonClusters, "minimax": MinimaxClusters, "ucb": UcbClusters}
)
