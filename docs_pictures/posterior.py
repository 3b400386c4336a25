"""What is known of one prompt's pass rate, from nothing to a policy that has moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from docs_pictures.plot import Plot
from docs_pictures.sheet import sheet
from sampler_service.curriculum.beta_moments import beta_moments
from sampler_service.curriculum.posterior import count_groups, update_evidence
from sampler_service.curriculum.table import PromptTable

__all__ = ["posterior_picture"]

_GROUP = 8
_AGEING = 0.5


def posterior_picture() -> str:
    """Four Beta densities of one prompt."""
    rates = np.linspace(0.0, 1.0, 241)
    plot = Plot("What the service believes about one prompt", 5.6, [], axis_height=220)
    prompt = _Prompt()
    plot.curve("d", rates, prompt.density(rates), f"Nothing seen: {prompt.summary()}")
    prompt.visit(2)
    plot.curve("b", rates, prompt.density(rates), f"After 8 rollouts, 2 right: {prompt.summary()}")
    for _ in range(3):
        prompt.visit(2)
    plot.curve("a", rates, prompt.density(rates), f"After 32 rollouts, 8 right: {prompt.summary()}")
    for _ in range(2):
        prompt.visit(7, ageing=_AGEING)
    plot.curve(
        "c",
        rates,
        prompt.density(rates),
        f"Then twice 7 of 8 right, older evidence halved each time: {prompt.summary()}",
    )
    return sheet(
        "The posterior of a pass rate",
        "Four densities over the pass rate of one prompt.",
        plot.height,
        plot.body(),
    )


class _Prompt:
    """One row of the service's own table, under a flat prior."""

    def __init__(self) -> None:
        self._table = PromptTable()
        self._table.add([b"prompt"])

    def visit(self, right: int, ageing: float = 1.0) -> None:
        """One group of rollouts, `right` of them right."""
        rewards = np.array([1.0] * right + [0.0] * (_GROUP - right))
        counts = count_groups(np.zeros(_GROUP, dtype=np.int64), rewards, 1, 0.5, fractional=False)
        update_evidence(self._table, np.array([0]), counts, ageing)

    def density(self, rates: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of Beta(α, β); 1 / B(α, β) is what the moments of the flat prior say of it."""
        alpha, beta = self._parameters()
        one = np.ones(1)
        area = beta_moments(one, one, alpha - 1.0, beta - 1.0)
        values: NDArray[np.float64] = rates ** (alpha - 1.0) * (1.0 - rates) ** (beta - 1.0) / area
        return values

    def summary(self) -> str:
        """Mean and standard deviation."""
        alpha, beta = self._parameters()
        total = alpha + beta
        mean = alpha / total
        return f"{mean:.2f} ± {np.sqrt(mean * (1.0 - mean) / (total + 1.0)):.2f}"

    def _parameters(self) -> tuple[float, float]:
        return 1.0 + float(self._table.successes[0]), 1.0 + float(self._table.failures[0])
