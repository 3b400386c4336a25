"""What a method may look at: columns of some prompts, and the moment the curriculum is at."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GradientNorms", "Moment", "PromptView", "TableView"]


@dataclass(frozen=True)
class Moment:
    """Where the curriculum stands, the same for all prompts."""

    policy_step: int = 0
    """How often the policy has advanced."""
    iteration: int = 0
    visits: int = 0
    """Groups counted so far."""
    prompts: int = 0
    """Prompts in the pool."""
    mean_reward: float = 0.5
    """Of the last policy step, where methods track a moving target."""
    movement: NDArray[np.float64] | None = None
    """Cumulative KL of the policy at each policy step, `policy_step + 1` entries."""
    reference_pass_rates: NDArray[Any] | None = None
    """Of the whole pool by row, NaN where unknown; for methods that rank it. None: there are none."""
    memory: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """What the proposal remembers: changed by its `observe` and `advance` only."""


@dataclass(frozen=True)
class GradientNorms:
    """Per prompt: means of ‖∇ log π(rollout)‖ and of its square, over right and over wrong rollouts.

    NaN where there was none.
    """

    mean_right: NDArray[np.float64]
    square_right: NDArray[np.float64]
    mean_wrong: NDArray[np.float64]
    square_wrong: NDArray[np.float64]


@dataclass(frozen=True)
class PromptView:
    """Columns of a selection of prompts; all arrays have one entry per selected prompt."""

    rows: NDArray[Any]
    alphas: NDArray[np.float64]
    """Beta posterior of the pass rate: prior, shared evidence and decay included."""
    betas: NDArray[np.float64]
    ema_means: NDArray[Any]
    """NaN before the first visit."""
    ema_variances: NDArray[Any]
    visits: NDArray[Any]
    rollouts: NDArray[Any]
    last_steps: NDArray[Any]
    clusters: NDArray[Any]
    reference_pass_rates: NDArray[Any]
    """NaN where unknown."""
    successes: NDArray[Any]
    """The prompt's own evidence, decayed, without any prior."""
    failures: NDArray[Any]
    gradient_norms: GradientNorms | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def pass_rates(self) -> NDArray[np.float64]:
        """Posterior means."""
        mean: NDArray[np.float64] = self.alphas / (self.alphas + self.betas)
        return mean

    @cached_property
    def pass_rate_stddevs(self) -> NDArray[np.float64]:
        """Posterior standard deviations."""
        total = self.alphas + self.betas
        deviation: NDArray[np.float64] = np.sqrt(self.alphas * self.betas / (total * total * (total + 1)))
        return deviation

    @cached_property
    def expected_variances(self) -> NDArray[np.float64]:
        """E[p(1−p)] = αβ / ((α+β)(α+β+1)) under the posterior."""
        total = self.alphas + self.betas
        expected: NDArray[np.float64] = self.alphas * self.betas / (total * (total + 1))
        return expected


class TableView(PromptView):
    """A view that gathers a column when a method first looks at it: most look at few.

    For use at once: a column is as it is when looked at.
    """

    _column: Callable[[str], NDArray[Any]]
    _selection: NDArray[Any] | slice

    def __init__(
        self,
        column: Callable[[str], NDArray[Any]],
        size: int,
        rows: NDArray[Any] | slice,
        alphas: NDArray[np.float64],
        betas: NDArray[np.float64],
        gradient_norms: GradientNorms | None,
    ) -> None:
        # The base is frozen: a view is not written to but by itself.
        vars(self).update(
            rows=np.arange(*rows.indices(size)) if isinstance(rows, slice) else rows,
            alphas=alphas,
            betas=betas,
            gradient_norms=gradient_norms,
            _column=column,
            _selection=rows,
        )

    def __getattr__(self, name: str) -> NDArray[Any]:
        if name not in PromptView.__dataclass_fields__:
            raise AttributeError(name)
        values: NDArray[Any] = self._column(name)[self._selection]
        vars(self)[name] = values
        return values
