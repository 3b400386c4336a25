"""What a group of rollouts can teach, against the pass rate of its prompt."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from docs_pictures.plot import Plot
from docs_pictures.sheet import sheet
from sampler_service.curriculum.presets import DEFAULT_PRESET
from sampler_service.curriculum.proposals import WeightedProposal
from sampler_service.curriculum.shadow import mixed_probability
from sampler_service.curriculum.strategy import resolve
from sampler_service.curriculum.views import Moment, PromptView

__all__ = ["GROUP", "wasted_picture", "wasted_shares"]

GROUP = 8
"""Rollouts of a group."""
# So many rollouts seen that the pass rate is as good as known; never quite 0 or 1, which no posterior is.
_SURE = 1e9
_LEAST = 1e-6


def wasted_picture() -> str:
    """The share of groups without a gradient, the bell of p(1 − p), and where the default strategy looks."""
    rates = np.linspace(0.0, 1.0, 201)
    view = _known(rates)
    proposal = resolve(DEFAULT_PRESET, {}).proposal
    assert isinstance(proposal, WeightedProposal)
    weights = proposal.weights(view, Moment())
    plot = Plot(
        "What a prompt can teach depends on how often it is solved",
        1.0,
        [(0.0, "0"), (0.25, "25 %"), (0.5, "50 %"), (0.75, "75 %"), (1.0, "100 %")],
    )
    plot.curve(
        "b", rates, wasted_shares(rates), f"Groups of {GROUP} all right or all wrong: no gradient, wasted"
    )
    plot.curve(
        "a", rates, 4.0 * view.expected_variances, "p(1 − p), how much rewards vary, as a share of its most"
    )
    plot.curve(
        "c", rates, weights, "How readily the default strategy draws such a prompt, compared with p = 0.5"
    )
    return sheet(
        "Wasted rollouts",
        "Three curves over the pass rate; the values are in the text.",
        plot.height,
        plot.body(),
    )


def wasted_shares(rates: NDArray[np.float64]) -> NDArray[np.float64]:
    """pⁿ + (1 − p)ⁿ: the share of groups that come out all right or all wrong."""
    view = _known(rates)
    return 1.0 - mixed_probability(view.alphas, view.betas, np.full(len(rates), float(GROUP)))


def _known(rates: NDArray[np.float64]) -> PromptView:
    count = len(rates)
    nothing, unknown = np.zeros(count, dtype=np.int64), np.full(count, np.nan)
    inside = np.clip(rates, _LEAST, 1.0 - _LEAST)
    alphas, betas = inside * _SURE, (1.0 - inside) * _SURE
    return PromptView(
        rows=np.arange(count),
        alphas=alphas,
        betas=betas,
        ema_means=unknown,
        ema_variances=unknown,
        visits=nothing,
        rollouts=nothing,
        last_steps=nothing,
        clusters=nothing,
        reference_pass_rates=unknown,
        successes=alphas,
        failures=betas,
    )
