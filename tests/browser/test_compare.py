"""Two curricula laid over one another: what is drawn and written is what the API says of each."""

from urllib.parse import quote

import pytest
from playwright.async_api import expect

from sampler_service.dashboard import ReadError

pytestmark = pytest.mark.browser

NAMES = ("math-frontier", "code cures Größe")
PAGE = f"compare?a={quote(NAMES[0])}&b={quote(NAMES[1])}"
READ_PLOT = "name => document.querySelector(`[data-chart=${name}]`).plotData()[0]"


async def summary(page, name):
    path = f"/api/v1/curricula/{quote(name)}/summary?bins=20"
    return await page.evaluate("path => fetch(path).then(r => r.json())", path)


async def opened(open_page, path=PAGE, **options):
    page = await open_page(path, **options)
    await expect(page.locator("#pair-figures table")).to_be_visible()
    return page


def cell(page, figure, column):
    return page.locator(f"tr[data-figure='{figure}'] td").nth(column)


async def test_the_figures_of_both_stand_side_by_side_with_their_difference(open_page, keep, watch):
    page = await opened(open_page)
    a, b = [await summary(page, name) for name in NAMES]
    assert await page.locator("#pair-figures thead th").all_inner_texts() == ["", *NAMES, "difference", ""]
    for column, own in enumerate((a, b)):
        await expect(cell(page, "Prompts", column)).to_have_text(f"{own['prompts']:,}")
        await expect(cell(page, "Rollouts spent", column)).to_have_text(f"{own['rollouts_spent']:,}")
        mixed = own["mixed_groups"] / own["groups"]
        await expect(cell(page, "Effective-prompt ratio, whole run", column)).to_have_text(
            f"{100 * mixed:.1f} %"
        )
    await expect(cell(page, "Rollouts spent", 2)).to_have_text(
        f"−{a['rollouts_spent'] - b['rollouts_spent']:,}"
    )
    await expect(cell(page, "Wasted rollouts", 3)).to_have_text(f"{NAMES[1]} is worse")
    await expect(cell(page, "Brier score", 3)).to_have_text("")
    await keep(page, "compare")
    assert watch.complaints == []


async def test_the_charts_hold_the_data_of_both(open_page):
    page = await opened(open_page)
    pair = [await summary(page, name) for name in NAMES]
    _, *shares = await page.evaluate(READ_PLOT, "pair-difficulty")
    for share, own in zip(shares, pair, strict=True):
        counts = own["difficulty_histogram"]["counts"]
        assert share == pytest.approx([count / sum(counts) for count in counts])
    x, *waste = await page.evaluate(READ_PLOT, "pair-waste")
    assert x == pair[0]["history"]["policy_versions"]
    for line, own in zip(waste, pair, strict=True):
        points = len(own["history"]["groups"])
        assert line[points - 1] == own["rollouts_wasted"]
        assert line[points:] == [None] * (len(x) - points)
    _, *briers = await page.evaluate(READ_PLOT, "pair-brier")
    assert briers[0] == pair[0]["history"]["briers"]
    assert briers[1][:12] == pair[1]["history"]["briers"]
    _, *ratios = await page.evaluate(READ_PLOT, "pair-ratio")
    assert ratios[0][-1] == pytest.approx(pair[0]["effective_prompt_ratio"])
    assert ratios[1][11] == pytest.approx(pair[1]["effective_prompt_ratio"])
    predicted, *observed = await page.evaluate(READ_PLOT, "pair-reliability")
    calibration = pair[0]["calibration"]
    filled = [i for i, count in enumerate(calibration["bin_counts"]) if count]
    assert predicted == [calibration["bin_predicted"][i] for i in filled]
    assert observed[0] == [calibration["bin_observed"][i] for i in filled]


async def test_the_lines_run_over_rollouts_too_and_the_choice_is_in_the_address(open_page, keep):
    page = await opened(open_page, scheme="dark")
    await page.locator("select[name=over]").select_option("rollouts")
    history = (await summary(page, NAMES[0]))["history"]
    x, line, _ = await page.evaluate(READ_PLOT, "pair-waste")
    spent = sum(history["rollouts"])
    assert x[-1] == spent
    assert line[-1] == sum(history["wasted_rollouts"])
    assert "over=rollouts" in page.url
    await page.reload()
    await expect(page.locator("select[name=over]")).to_have_value("rollouts")
    await expect(page.locator("#pair-figures table")).to_be_visible()
    await keep(page, "compare-dark")


async def test_a_step_of_either_appears_without_a_reload(open_page, reader):
    page = await opened(open_page)
    reader.curricula[NAMES[1]].step(2)
    await expect(cell(page, "Policy version", 1)).to_have_text("14")


async def test_another_one_is_chosen_by_name_and_the_link_is_deep(open_page):
    page = await opened(open_page, "compare")
    assert await page.locator("#pair-figures thead th").all_inner_texts() == [
        "",
        NAMES[1],
        NAMES[0],
        "difference",
        "",
    ]
    await page.locator("select[name=b]").select_option("untouched")
    await expect(page.locator("#pair-figures thead th").nth(2)).to_have_text("untouched")
    assert "b=untouched" in page.url
    await expect(cell(page, "Effective-prompt ratio, recent", 1)).to_have_text("–")
    await page.get_by_role("link", name="Swap").click()
    await expect(page.locator("#pair-figures thead th").nth(1)).to_have_text("untouched")


async def test_one_that_is_not_there_or_away_is_said_and_fewer_than_two_are_none_to_compare(
    open_page, reader
):
    page = await open_page("compare?a=math-frontier&b=absent")
    await expect(page.locator("#banner")).to_contain_text("absent: There is no curriculum 'absent'.")
    await expect(page.locator("#connection")).to_have_text("Not found")
    page = await opened(open_page)
    reader.failure = ReadError(14, "LOG_UNREACHABLE", "The log cannot be reached; is Redis up?")
    await expect(page.locator("#banner")).to_contain_text("is Redis up?")
    await expect(cell(page, "Policy version", 0)).to_have_text("40")
    reader.failure = None
    for name in (*NAMES, "untouched")[1:]:
        del reader.curricula[name]
    page = await open_page("compare")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Nothing to compare yet")


async def test_a_phone_shows_both_without_sideways_scrolling(open_page, keep):
    page = await opened(open_page, width=360, height=740)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await keep(page, "phone-compare")
