"""When a prompt has enough rollouts: one small module per method."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.stopping.balanced import Balanced
from sampler_service.curriculum.stopping.base import DONE, DROP, SAMPLE_MORE, Decision, SlotTallies, Stopping
from sampler_service.curriculum.stopping.best_first import BestFirst
from sampler_service.curriculum.stopping.best_first_when_diluted import BestFirstWhenDiluted
from sampler_service.curriculum.stopping.one_shot import OneShot
from sampler_service.curriculum.stopping.pilot import Pilot
from sampler_service.curriculum.stopping.positives import Positives
from sampler_service.curriculum.stopping.requeue import Requeue
from sampler_service.curriculum.stopping.screen import Screen
from sampler_service.curriculum.stopping.tiers import Tiers
from sampler_service.curriculum.stopping.variance_floor import VarianceFloor
from sampler_service.curriculum.stopping.zero_variance import ZeroVariance

__all__ = ["DONE", "DROP", "SAMPLE_MORE", "STOPPINGS", "BestFirst", "Decision", "SlotTallies", "Stopping"]

STOPPINGS: Registry[Stopping] = Registry(
    "stopping",
    {
        "one_shot": OneShot,
        "positives": Positives,
        "balanced": Balanced,
        "tiers": Tiers,
        "screen": Screen,
        "pilot": Pilot,
        "best_first": BestFirst,
        "best_first_when_diluted": BestFirstWhenDiluted,
        "zero_variance": ZeroVariance,
        "variance_floor": VarianceFloor,
        "requeue": Requeue,
    },
)
