"""Axes over pass rates, curves with a pattern each, and what each means in words below."""

from __future__ import annotations

from collections.abc import Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from docs_pictures.sheet import WIDTH

__all__ = ["Plot"]

_LEFT, _RIGHT, _TOP = 70, 20, 50
_LEGEND_LINE = 24


class Plot:
    """A plot with pass rates from 0 to 1 on its horizontal axis.

    Args:
        most: upper end of the vertical axis.
        ticks: places on the vertical axis, with their labels.
    """

    def __init__(self, heading: str, most: float, ticks: Sequence[tuple[float, str]], axis_height: int = 250):
        self._most = most
        self._bottom = _TOP + axis_height
        self._curves: list[str] = []
        self._legend: list[str] = []
        self._axes = [f'<text class="strong" x="{_LEFT}" y="30">{escape(heading)}</text>']
        for value, label in ticks:
            y = self._y(value)
            self._axes.append(f'<path class="grid" d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}"/>')
            self._axes.append(
                f'<text class="small muted end" x="{_LEFT - 8}" y="{y + 4.5:.1f}">{label}</text>'
            )
        for tick in range(0, 11, 2):
            x = self._x(tick / 10)
            self._axes.append(f'<path class="line" d="M{x:.1f} {self._bottom}v5"/>')
            self._axes.append(
                f'<text class="small muted middle" x="{x:.1f}" y="{self._bottom + 20}">{tick / 10:g}</text>'
            )
        self._axes.append(f'<path class="line" d="M{_LEFT} {self._bottom}H{WIDTH - _RIGHT}"/>')
        middle = self._x(0.5)
        self._axes.append(
            f'<text class="small muted middle" x="{middle:.1f}" y="{self._bottom + 40}">pass rate of a prompt</text>'
        )

    def curve(
        self, style: str, rates: NDArray[np.float64], values: NDArray[np.float64], meaning: str
    ) -> None:
        """A curve in one of the styles of the sheet, and its line in the legend."""
        points = " ".join(f"{self._x(x):.1f} {self._y(y):.1f}" for x, y in zip(rates, values, strict=True))
        self._curves.append(f'<path class="curve {style}" d="M{points}"/>')
        y = self._bottom + 68 + _LEGEND_LINE * len(self._legend)
        self._legend.append(
            f'<path class="curve {style}" d="M{_LEFT} {y - 5}h48"/>'
            f'<text x="{_LEFT + 60}" y="{y}">{escape(meaning)}</text>'
        )

    @property
    def height(self) -> int:
        """Of the whole picture."""
        return self._bottom + 64 + _LEGEND_LINE * len(self._legend)

    def body(self) -> str:
        """All of it, as SVG elements."""
        return "\n".join([*self._axes, *self._curves, *self._legend])

    def _x(self, rate: float) -> float:
        return _LEFT + rate * (WIDTH - _LEFT - _RIGHT)

    def _y(self, value: float) -> float:
        return self._bottom - value / self._most * (self._bottom - _TOP)
