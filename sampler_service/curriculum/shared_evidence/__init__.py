"""What other prompts say about a prompt: where its posterior starts from."""

from sampler_service.curriculum.parts import Registry
from sampler_service.curriculum.shared_evidence.anchors import Anchors
from sampler_service.curriculum.shared_evidence.attention import Attention
from sampler_service.curriculum.shared_evidence.base import SharedEvidence
from sampler_service.curriculum.shared_evidence.cluster import ClusterPrior
from sampler_service.curriculum.shared_evidence.drifting import Drifting
from sampler_service.curriculum.shared_evidence.item_response import ItemResponse
from sampler_service.curriculum.shared_evidence.none import NoSharedEvidence
from sampler_service.curriculum.shared_evidence.online_logistic import OnlineLogistic
from sampler_service.curriculum.shared_evidence.ridge import Ridge

__all__ = ["SHARED_EVIDENCE", "SharedEvidence"]

SHARED_EVIDENCE: Registry[SharedEvidence] = Registry(
    "shared evidence",
    {
        "none": NoSharedEvidence,
        "cluster": ClusterPrior,
        "anchors": Anchors,
        "attention": Attention,
        "online_logistic": OnlineLogistic,
        "ridge": Ridge,
        "drifting": Drifting,
        "item_response": ItemResponse,
    },
)
