"""What other prompts say about a prompt: where its posterior starts from."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.shared_evidence.base import SharedEvidence
from sampler_service.curriculum.shared_evidence.cluster import ClusterPrior
from sampler_service.curriculum.shared_evidence.drifting import Drifting
from sampler_service.curriculum.shared_evidence.item_response import ItemResponse
from sampler_service.curriculum.shared_evidence.none import NoSharedEvidence

__all__ = ["SHARED_EVIDENCE", "SharedEvidence"]

SHARED_EVIDENCE: Registry[SharedEvidence] = Registry(
    "shared evidence",
    {"none": NoSharedEvidence, "cluster": ClusterPrior, "drifting": Drifting, "item_response": ItemResponse},
)
