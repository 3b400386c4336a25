"""How many rollouts: one small module per method."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.quotas.ada_est import AdaEstPaperQuota, AdaEstQuota
from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.cures import CuresQuota
from sampler_service.curriculum.quotas.cures_ref import CuresRefQuota
from sampler_service.curriculum.quotas.fixed import FixedQuota
from sampler_service.curriculum.quotas.frontier import FrontierQuota
from sampler_service.curriculum.quotas.gvm import GvmQuota
from sampler_service.curriculum.quotas.knapsack import KnapsackQuota
from sampler_service.curriculum.quotas.objective import ObjectiveQuota
from sampler_service.curriculum.quotas.vip import VipQuota

__all__ = ["QUOTAS", "Quota"]

QUOTAS: Registry[Quota] = Registry(
    "quota",
    {
        "fixed": FixedQuota,
        "cures": CuresQuota,
        "cures_ref": CuresRefQuota,
        "gvm": GvmQuota,
        "ada_est": AdaEstQuota,
        "ada_est_paper": AdaEstPaperQuota,
        "objective": ObjectiveQuota,
        "knapsack": KnapsackQuota,
        "vip": VipQuota,
        "frontier": FrontierQuota,
    },
)
