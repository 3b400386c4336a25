"""What a run remembers of earlier rollouts, as one thing to keep with a checkpoint."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


class Keepable(Protocol):
    """Goes into arrays and comes out of them again."""

    def export(self) -> dict[str, NDArray[np.generic]]:
        """Everything that is in it, as arrays of numbers and text."""
        ...

    def restore(self, arrays: Arrays) -> None:
        """Takes up what `export` gave."""
        ...


class KeptTogether:
    """Several things to keep, each under its name."""

    def __init__(self, things: Mapping[str, Keepable]) -> None:
        self._things = things

    def export(self) -> dict[str, NDArray[np.generic]]:
        """All of them; names go before the arrays' own."""
        return {
            f"{name}/{column}": values
            for name, thing in self._things.items()
            for column, values in thing.export().items()
        }

    def restore(self, arrays: Arrays) -> None:
        """Those that are in the arrays; what is kept only since is left empty."""
        for name, thing in self._things.items():
            own = {
                column.removeprefix(f"{name}/"): values
                for column, values in arrays.items()
                if column.startswith(f"{name}/")
            }
            if own:
                thing.restore(own)
