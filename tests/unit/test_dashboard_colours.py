"""The dashboard's colours are told apart with every kind of colour vision, and its text is legible, in both themes."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import sampler_service.dashboard

CSS = Path(sampler_service.dashboard.__file__).parent / "static" / "css" / "base.css"

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISIONS = {
    "all colours": np.eye(3),
    "no red": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "no green": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "no blue": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
# Drawn in one picture, side by side.
TOGETHER = [("blue", "orange"), ("blue", "sky"), ("sky", "orange"), ("blue", "surface")]


def themes() -> dict[str, dict[str, str]]:
    text = CSS.read_text(encoding="utf-8")
    blocks = re.findall(r"(:root[^{]*)\{([^}]*)\}", text)
    colours = [dict(re.findall(r"--([\w-]+):\s*(#[0-9a-f]{6})", body)) for _, body in blocks]
    light, dark, chosen_dark = colours
    assert dark == chosen_dark, "the system's dark theme is the switch's"
    return {"light": light, "dark": dark}


def linear(colour: str) -> NDArray[np.float64]:
    shares = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def lab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIE L*a*b* under D65."""
    t = TO_XYZ @ np.clip(rgb, 0, 1) / TO_XYZ.sum(axis=1)
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    """Of WCAG 2."""
    a, b = sorted(float(TO_XYZ[1] @ linear(colour)) for colour in (one, other))
    return (b + 0.05) / (a + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("vision", VISIONS)
def test_what_is_drawn_together_is_told_apart(theme: str, vision: str) -> None:
    colours = themes()[theme]
    seen = {name: lab(np.asarray(VISIONS[vision]) @ linear(colour)) for name, colour in colours.items()}
    for one, other in TOGETHER:
        # 2.3 is just noticeable between patches that touch.
        assert np.linalg.norm(seen[one] - seen[other]) > 20, (one, other)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_heat_map_is_ordered_by_lightness_alone(theme: str) -> None:
    colours = themes()[theme]
    lightness = [float(lab(linear(colours[f"heat-{step}"]))[0]) for step in ("low", "mid", "high")]
    steps = np.diff(lightness)
    assert (np.abs(steps) > 20).all()
    assert steps[0] * steps[1] > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_is_legible_on_every_ground(theme: str) -> None:
    colours = themes()[theme]
    for text, ground in itertools.product(("ink", "muted", "accent"), ("page", "surface", "sunken")):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["warn-ink"], colours["warn-page"]) >= 4.5
    assert contrast(colours["warn-ink"], colours["sunken"]) >= 4.5
