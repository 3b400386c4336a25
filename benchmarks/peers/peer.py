"""What is compared: something that draws prompts by weight and learns from rewards."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Peer", "weights_of"]


class Peer(Protocol):
    """Keeps a Beta posterior per prompt, draws by √(p̄(1 − p̄)), and takes in groups of 0/1 rewards."""

    name: str
    law: str
    """Whether a draw follows the weights, and if not, what it does instead."""

    def fill(self, prompts: int) -> None:
        """Begins with so many prompts of flat posterior."""
        ...

    def draw(self, count: int) -> Any:
        """`count` prompts, in whatever form `report` wants them."""
        ...

    def report(self, drawn: Any, successes: NDArray[np.int64], group: int) -> float | None:
        """Successes of `group` rollouts for every prompt drawn.

        A peer in a process of its own answers with the milliseconds that it measured there; `draw` likewise.
        """
        ...

    def close(self) -> None:
        """Gives everything back."""
        ...


def weights_of(alphas: NDArray[np.float64], betas: NDArray[np.float64]) -> NDArray[np.float64]:
    """√(p̄(1 − p̄)) of Beta posteriors."""
    rates = alphas / (alphas + betas)
    weights: NDArray[np.float64] = np.sqrt(rates * (1.0 - rates))
    return weights
