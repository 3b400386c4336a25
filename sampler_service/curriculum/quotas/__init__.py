"""How many rollouts: one small module per method."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.quotas.base import Quota
from sampler_service.curriculum.quotas.cures import CuresQuota
from sampler_service.curriculum.quotas.fixed import FixedQuota
from sampler_service.curriculum.quotas.frontier import FrontierQuota

__all__ = ["QUOTAS", "Quota"]

QUOTAS: Registry[Quota] = Registry(
    "quota", {"fixed": FixedQuota, "cures": CuresQuota, "frontier": FrontierQuota}
)
