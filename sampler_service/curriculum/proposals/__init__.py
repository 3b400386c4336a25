"""Which prompts: one small module per method."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.proposals.base import Proposal, ScoredProposal, WeightedProposal
from sampler_service.curriculum.proposals.cures import Cures
from sampler_service.curriculum.proposals.frontier import Frontier
from sampler_service.curriculum.proposals.uniform import Uniform

__all__ = ["PROPOSALS", "Proposal", "ScoredProposal", "WeightedProposal"]

PROPOSALS: Registry[Proposal] = Registry(
    "proposal", {"uniform": Uniform, "cures": Cures, "frontier": Frontier}
)
