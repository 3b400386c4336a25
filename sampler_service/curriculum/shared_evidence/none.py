"""No shared evidence: every prompt speaks for itself."""

from __future__ import annotations

from typing import Any, ClassVar

from numpy.typing import NDArray

from sampler_service.curriculum.shared_evidence.base import Memory, SharedEvidence
from sampler_service.curriculum.table import PromptTable

__all__ = ["NoSharedEvidence"]


class NoSharedEvidence(SharedEvidence):
    """Every prompt speaks for itself."""

    changes_other_rows: ClassVar[bool] = False

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[float, float]:
        """Nothing."""
        return 0.0, 0.0
