"""How evidence about a prompt ages while the policy changes."""

from sampler_service.curriculum.decays.base import Decay, VisitTimes
from sampler_service.curriculum.decays.forget_all import ForgetAll
from sampler_service.curriculum.decays.iteration_reset import IterationReset
from sampler_service.curriculum.decays.none import NoDecay
from sampler_service.curriculum.decays.per_visit import PerVisit
from sampler_service.curriculum.decays.policy_kl import PolicyKL
from sampler_service.curriculum.decays.two_scale import TwoScale
from sampler_service.curriculum.parts import Registry

__all__ = ["DECAYS", "Decay", "VisitTimes"]

DECAYS: Registry[Decay] = Registry(
    "decay",
    {
        "none": NoDecay,
        "per_visit": PerVisit,
        "iteration_reset": IterationReset,
        "two_scale": TwoScale,
        "policy_kl": PolicyKL,
        "forget_all": ForgetAll,
    },
)
