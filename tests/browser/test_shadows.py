"""The panel of shadow strategies: what is drawn and listed equals what the API says."""

import csv
import io

import pytest
from playwright.async_api import expect

pytestmark = pytest.mark.browser

PAGE = "c/math-frontier"
API = "/api/v1/curricula/math-frontier"
CELLS = """() => [...document.querySelectorAll('#shadows tbody tr')].map(
  row => [...row.children].map(cell => cell.textContent))"""

# Lengths of strokes and gaps of each line's mark, as the browser paints them.
LEGEND_STRIPES = """() => [...document.querySelectorAll('[data-chart=shadow-steps] .legend i')].map(mark => {
  const ends = [...getComputedStyle(mark).backgroundImage.matchAll(/([0-9.]+)px/g)].map(match => Number(match[1]));
  return ends.flatMap((end, i) => (i % 2 ? [end - ends[i - 1]] : []));
})"""


async def opened(open_page, path=PAGE):
    page = await open_page(path)
    await expect(page.locator("#connection")).to_have_text("Live")
    return page


async def said(page):
    summary = await page.evaluate("path => fetch(path).then(r => r.json())", f"{API}/summary?bins=20")
    return summary["shadows"]


def percent(value):
    return "–" if value is None else f"{100 * value:.1f} %"


async def test_the_table_lists_every_strategy_as_the_api_says(open_page, keep):
    page = await opened(open_page)
    shadows = await said(page)
    assert [one["strategy"] for one in shadows["strategies"]] == ["in force", "mopps", "cures-0.3"]
    await expect(page.locator("#shadows .note")).to_contain_text(
        f"{shadows['batches']} batches since the strategy last changed, {shadows['compared_batches']} of them"
    )
    cells = await page.evaluate(CELLS)
    for row, one in zip(cells, shadows["strategies"], strict=True):
        shared = f"{percent(one['shared_mixed_share'])} of {one['shared_groups']:,}"
        assert row == [
            one["strategy"],
            f"{one['calibration']['brier']:.4f}",
            f"{one['calibration']['log_loss']:.4f}",
            f"{one['calibration']['spearman']:.3f}",
            percent(one["predicted_mixed_share"]),
            percent(one["expected_mixed_share"]),
            percent(one["quota_overlap"]),
            percent(one["batch_overlap"]),
            shared,
            percent(one["weighted_mixed_share"]),
        ]
    await page.locator("#s-shadows").scroll_into_view_if_needed()
    await keep(page, "shadows")


async def test_every_line_is_the_series_of_its_strategy(open_page, reader):
    page = await opened(open_page)
    for step in (0, 2):
        reader.curricula["math-frontier"].step(step)
        series = (await said(page))["series"]
        expected = [
            [series[0]["policy_versions"], *(one[name] for one in series)]
            for name in ("briers", "expected_mixed_shares")
        ]
        await page.wait_for_function(
            "e => JSON.stringify(document.querySelector('[data-chart=shadow-steps]').plotData()) === JSON.stringify(e)",
            arg=expected,
        )
    legend = page.locator("[data-chart=shadow-steps] .legend li")
    await expect(legend).to_have_text([one["strategy"] for one in series])


async def test_the_lines_are_on_the_canvas_in_their_colours(open_page):
    page = await opened(open_page)
    seen = """name => {
      const canvas = document.querySelector('[data-chart=shadow-steps] canvas');
      const colour = getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
      const want = [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      for (let i = 0; i < data.length; i += 4)
        if (data[i + 3] > 200 && want.every((value, c) => Math.abs(data[i + c] - value) < 12)) return true;
      return false;
    }"""
    for colour in ("blue", "orange", "green"):
        await page.wait_for_function(seen, arg=colour)


async def test_every_line_has_a_pattern_of_its_own_and_the_legend_shows_it(open_page, keep):
    page = await opened(open_page)
    await page.wait_for_function(
        "document.querySelector('[data-chart=shadow-steps]').plotDashes().every(dashes => dashes?.length === 3)"
    )
    upper, lower = await page.evaluate("document.querySelector('[data-chart=shadow-steps]').plotDashes()")
    assert upper == lower
    assert len({tuple(dash) for dash in upper}) == 3
    marks = await page.evaluate(LEGEND_STRIPES)
    assert marks[0] == []  # Solid, as the line of the strategy in force.
    assert marks == upper
    await keep(page, "shadow-lines")


async def test_a_curriculum_without_shadows_says_how_to_follow_one(open_page):
    page = await opened(open_page, "c/untouched")
    await expect(page.locator("#shadows .note")).to_contain_text("curricula shadows NAME --add PRESET")
    await expect(page.locator("[data-chart=shadow-steps]")).to_be_hidden()


async def test_the_csv_holds_what_the_api_says(open_page):
    page = await opened(open_page)
    shadows = await said(page)
    text = await page.evaluate("path => fetch(path).then(r => r.text())", f"{API}/tables/shadows.csv")
    listed = list(csv.DictReader(io.StringIO(text)))
    assert [one["strategy"] for one in listed] == [one["strategy"] for one in shadows["strategies"]]
    assert float(listed[1]["brier"]) == shadows["strategies"][1]["calibration"]["brier"]
    text = await page.evaluate("path => fetch(path).then(r => r.text())", f"{API}/tables/shadow_series.csv")
    assert len(list(csv.reader(io.StringIO(text)))) == 1 + 3 * len(shadows["series"][0]["briers"])
