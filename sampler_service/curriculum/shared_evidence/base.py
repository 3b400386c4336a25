"""The protocol of shared evidence."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sampler_service.curriculum.parts import Part
from sampler_service.curriculum.posterior import GroupCounts
from sampler_service.curriculum.table import PromptTable
from sampler_service.curriculum.views import Moment

__all__ = ["Memory", "SharedEvidence"]

Memory = dict[str, NDArray[Any]]
"""A model's state, by name; kept in snapshots."""


class SharedEvidence(Part):
    """A model of pass rates over prompts, fed with every counted group.

    It speaks as pseudo-counts added to the estimator's prior. Its state is `memory`, which only
    `observe` and `advance` change, and only from what they are given.
    """

    changes_other_rows: ClassVar[bool] = True
    """Whether a report about one prompt moves the posterior of others."""
    holds_own_evidence: ClassVar[bool] = False
    """`pseudo_counts` are a prompt's whole posterior, its own outcomes included: nothing is added to them."""

    def pseudo_counts(
        self, table: PromptTable, rows: NDArray[Any] | slice, memory: Memory
    ) -> tuple[NDArray[np.float64] | float, NDArray[np.float64] | float]:
        """Successes and failures to add to the prior of `rows`."""
        raise TypeError(f"{type(self).__name__} does not say what it predicts")

    def observe(
        self, table: PromptTable, rows: NDArray[Any], counts: GroupCounts, memory: Memory, moment: Moment
    ) -> None:
        """Takes in one group per row; `rows` are distinct."""

    def new_references(self, table: PromptTable, memory: Memory, moment: Moment) -> NDArray[Any] | None:
        """Rows to roll out for prediction's sake, `rollouts_per_reference` each; None at most steps.

        They become due, and are served before any other prompt.
        """
        return None

    @property
    def rollouts_per_reference(self) -> int:
        """Rollouts of every prompt that `new_references` names."""
        return 0

    def forget_prompts(self, memory: Memory) -> None:
        """An iteration starts: what it holds of single prompts goes, what it knows of the pool stays."""

    def advance(self, table: PromptTable, memory: Memory, moment: Moment) -> None:
        """The policy has moved by one step."""
