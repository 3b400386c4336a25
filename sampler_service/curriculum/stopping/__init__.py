"""When a prompt has enough rollouts: one small module per method."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.stopping.balanced import Balanced
from sampler_service.curriculum.stopping.base import DONE, DROP, SAMPLE_MORE, Decision, SlotTallies, Stopping
from sampler_service.curriculum.stopping.one_shot import OneShot

__all__ = ["DONE", "DROP", "SAMPLE_MORE", "STOPPINGS", "Decision", "SlotTallies", "Stopping"]

STOPPINGS: Registry[Stopping] = Registry("stopping", {"one_shot": OneShot, "balanced": Balanced})
