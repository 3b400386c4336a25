"""Every prompt alike: the floor every other method is compared with."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.proposals.base import WeightedProposal
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["Uniform"]


class Uniform(WeightedProposal):
    """Weight 1."""

    def weights(self, view: PromptView, moment: Moment) -> NDArray[np.float64]:
        """Ones."""
        return np.ones(len(view))
