"""Which prompts: one small module per method."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.proposals.adarft import AdaRft
from sampler_service.curriculum.proposals.base import Proposal, ScoredProposal, WeightedProposal
from sampler_service.curriculum.proposals.cures import Cures
from sampler_service.curriculum.proposals.cures_ref import CuresRef
from sampler_service.curriculum.proposals.depo import Depo
from sampler_service.curriculum.proposals.dots import Dots
from sampler_service.curriculum.proposals.frontier import Frontier
from sampler_service.curriculum.proposals.hardest import Hardest
from sampler_service.curriculum.proposals.learnability import Learnability
from sampler_service.curriculum.proposals.speed import Speed
from sampler_service.curriculum.proposals.thompson import Thompson
from sampler_service.curriculum.proposals.ucb import Ucb
from sampler_service.curriculum.proposals.uniform import Uniform
from sampler_service.curriculum.proposals.vcrl import Vcrl

__all__ = ["PROPOSALS", "Proposal", "ScoredProposal", "WeightedProposal"]

PROPOSALS: Registry[Proposal] = Registry(
    "proposal",
    {
        "uniform": Uniform,
        "cures": Cures,
        "cures_ref": CuresRef,
        "vcrl": Vcrl,
        "dots": Dots,
        "hardest": Hardest,
        "speed": Speed,
        "thompson": Thompson,
        "ucb": Ucb,
        "learnability": Learnability,
        "adarft": AdaRft,
        "depo": Depo,
        "frontier": Frontier,
    },
)
