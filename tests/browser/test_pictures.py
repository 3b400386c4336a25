"""The docs' pictures as a browser draws them: nothing overlaps, nothing runs out of its box, in light and dark."""

from __future__ import annotations

import pytest

from docs_pictures import FOLDER, pictures

pytestmark = pytest.mark.browser

# Texts that leave the sheet or the box they stand in, meet another text, or have a line run through them.
COLLISIONS = """() => {
  const area = element => element.getBoundingClientRect();
  const inside = (inner, outer, gap) => inner.left >= outer.left + gap && inner.right <= outer.right - gap
    && inner.top >= outer.top && inner.bottom <= outer.bottom;
  const svg = document.querySelector('svg');
  const texts = [...svg.querySelectorAll('text')];
  const boxes = [...svg.querySelectorAll('rect')].map(area);
  const points = [...svg.querySelectorAll('path.line, path.curve')].flatMap(path => {
    const toScreen = path.getScreenCTM();
    const count = Math.ceil(path.getTotalLength() / 2);
    return Array.from({length: count}, (_, i) => path.getPointAtLength(2 * i).matrixTransform(toScreen));
  });
  const found = [];
  texts.forEach((text, i) => {
    const place = area(text);
    const [x, y] = [(place.left + place.right) / 2, (place.top + place.bottom) / 2];
    for (const box of boxes) {
      const around = x > box.left && x < box.right && y > box.top && y < box.bottom;
      if (around && !inside(place, box, 4)) found.push(`${text.textContent} runs out of its box`);
    }
    for (const other of texts.slice(i + 1)) {
      const that = area(other);
      if (place.left < that.right && that.left < place.right
          && place.top + 2 < that.bottom && that.top + 2 < place.bottom) {
        found.push(`${text.textContent} meets ${other.textContent}`);
      }
    }
    if (points.some(p => p.x > place.left && p.x < place.right && p.y > place.top + 3 && p.y < place.bottom - 3)) {
      found.push(`a line runs through ${text.textContent}`);
    }
  });
  return found;
}"""
CONTRAST = """() => {
  const channels = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(value => {
    const share = value / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  const light = colour => channels(colour).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const fill = element => light(getComputedStyle(element).fill);
  const grounds = [...document.querySelectorAll('.ground, .band, .box')].map(fill);
  return Math.min(...[...document.querySelectorAll('text')].flatMap(text => grounds.map(ground => {
    const [low, high] = [fill(text), ground].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  })));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", sorted(pictures()))
async def test_a_picture_is_legible(browser, name, scheme):
    page = await browser.new_page(viewport={"width": 800, "height": 600}, color_scheme=scheme)
    await page.goto((FOLDER / name).as_uri())
    try:
        assert await page.evaluate(COLLISIONS) == []
        assert await page.evaluate(CONTRAST) >= 4.5
    finally:
        await page.close()
