"""The docs' pictures are those that the code draws, and say what the text beside them says."""

from __future__ import annotations

import re

import numpy as np
import pytest

from docs_pictures import FOLDER, pictures
from docs_pictures.wasted import GROUP, wasted_shares


@pytest.mark.parametrize("name", sorted(pictures()))
def test_the_picture_on_the_page_is_the_one_the_code_draws(name: str) -> None:
    drawn, kept = pictures()[name], (FOLDER / name).read_text(encoding="utf-8")
    shape = re.compile(r"-?\d+\.\d")
    assert shape.sub("", kept) == shape.sub("", drawn), "draw it anew: python -m docs_pictures"
    numbers = [[float(number) for number in shape.findall(text)] for text in (kept, drawn)]
    # The last digit of a coordinate may depend on the machine.
    np.testing.assert_allclose(numbers[0], numbers[1], atol=0.11)


def test_no_picture_is_kept_that_nothing_draws() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted(pictures())


@pytest.mark.parametrize("name", ["wasted.svg", "posterior.svg"])
def test_curves_differ_in_more_than_colour(name: str) -> None:
    styles = set(re.findall(r'class="curve (\w)"', pictures()[name]))
    patterns = [re.findall(rf"\.{style} {{ [^}}]*dasharray: ([\d ]+)", pictures()[name]) for style in styles]
    assert len(styles) == len({tuple(pattern) for pattern in patterns}) >= 3


def test_wasted_groups_are_those_of_the_textbook() -> None:
    rates = np.array([0.02, 0.1, 0.5, 0.9])
    np.testing.assert_allclose(wasted_shares(rates), rates**GROUP + (1 - rates) ** GROUP, atol=1e-6)


def test_the_shares_in_the_text_are_those_of_the_curve() -> None:
    text = (FOLDER.parent / "concepts.md").read_text(encoding="utf-8")
    tenth, fiftieth, half = wasted_shares(np.array([0.1, 0.02, 0.5]))
    assert f"at 10 % (and at 90 %) it is {100 * tenth:.0f} %, at 2 % it is {100 * fiftieth:.0f} %" in text
    assert half < 0.01
