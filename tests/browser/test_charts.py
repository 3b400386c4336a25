"""What is drawn equals what the API says: in the arrays, in the tables, and in the pixels."""

import re

import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.async_api import expect

pytestmark = pytest.mark.browser

PAGE = "c/math-frontier"
SUMMARY = "/api/v1/curricula/math-frontier/summary?bins=20"
READ_PLOTS = "name => document.querySelector(`[data-chart=${name}]`).plotData()"

# Heights in pixels of the bars at the centre of every bin, read off the canvas from the bottom up.
BAR_HEIGHTS = """([name, bins]) => {
  const card = document.querySelector(`[data-chart=${name}]`);
  const canvas = card.querySelector('canvas');
  const over = card.querySelector('.u-over').getBoundingClientRect();
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  const context = canvas.getContext('2d');
  const blue = getComputedStyle(document.documentElement).getPropertyValue('--blue').trim();
  const want = [1, 3, 5].map(i => parseInt(blue.slice(i, i + 2), 16));
  return Array.from({length: bins}, (_, b) => {
    const x = Math.round((over.left - box.left + (b + 0.5) / bins * over.width) * scale);
    const top = Math.round((over.top - box.top) * scale);
    const height = Math.round(over.height * scale);
    const column = context.getImageData(x, top, 1, height).data;
    let filled = 0;
    for (let y = 0; y < height; y += 1) {
      const near = want.every((value, i) => Math.abs(column[4 * y + i] - value) < 12);
      if (near && column[4 * y + 3] > 200) filled += 1;
    }
    return filled;
  });
}"""


async def read_api(page, path=SUMMARY):
    return await page.evaluate("path => fetch(path).then(r => r.json())", path)


async def opened(open_page, path=PAGE):
    page = await open_page(path)
    await expect(page.locator("#connection")).to_have_text("Live")
    # The charts have their data by now; their pixels they have when the layout has settled.
    await page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return page


async def test_every_histogram_bar_is_as_tall_as_its_count(open_page):
    page = await opened(open_page)
    counts = (await read_api(page))["difficulty_histogram"]["counts"]
    assert (await page.evaluate(READ_PLOTS, "difficulty"))[0][1] == counts
    await page.wait_for_function(
        f"input => Math.max(...({BAR_HEIGHTS})(input)) > 50", arg=["difficulty", len(counts)]
    )
    heights = await page.evaluate(BAR_HEIGHTS, ["difficulty", len(counts)])
    per_prompt = max(heights) / max(counts)
    for count, height in zip(counts, heights, strict=True):
        assert height == pytest.approx(count * per_prompt, abs=2.5)


async def test_unseen_prompts_stand_apart_from_the_bars(open_page):
    page = await opened(open_page)
    unseen = (await read_api(page))["difficulty_histogram"]["unseen"]
    await expect(page.locator(".split-text")).to_contain_text(f"{unseen:,} never")


async def test_the_charts_over_training_hold_the_history(open_page):
    page = await opened(open_page)
    summary = await read_api(page)
    history = summary["history"]
    x, stacked_all, stacked_correct, mixed = (await page.evaluate(READ_PLOTS, "groups"))[0]
    assert x == history["policy_versions"]
    assert mixed == history["mixed_groups"]
    assert [a - b for a, b in zip(stacked_correct, mixed, strict=True)] == history["all_correct_groups"]
    assert [a - b for a, b in zip(stacked_all, stacked_correct, strict=True)] == history["all_wrong_groups"]
    _, each, trailing = (await page.evaluate(READ_PLOTS, "ratio"))[0]
    assert each == pytest.approx(
        [m / g for m, g in zip(history["mixed_groups"], history["groups"], strict=True)]
    )
    assert trailing[-1] == pytest.approx(summary["effective_prompt_ratio"])
    _, spent, wasted = (await page.evaluate(READ_PLOTS, "rollouts"))[0]
    assert (spent[-1], wasted[-1]) == (summary["rollouts_spent"], summary["rollouts_wasted"])
    _, rollouts, explored = (await page.evaluate(READ_PLOTS, "exploration"))[0]
    assert (rollouts, explored) == (history["rollouts"], history["exploration_rollouts"])
    _, briers, rewards = (await page.evaluate(READ_PLOTS, "brier"))[0]
    assert (briers, rewards) == (history["briers"], history["mean_rewards"])


async def test_the_quota_curve_has_no_point_where_nothing_was_granted(open_page):
    page = await opened(open_page)
    profile = (await read_api(page))["quota_profile"]
    _, means = (await page.evaluate(READ_PLOTS, "quota"))[0]
    assert means == profile["mean_quotas"]
    assert means[0] is None
    assert means[10] > means[2]


async def test_the_reliability_diagram_leaves_out_empty_bins(open_page):
    page = await opened(open_page)
    calibration = (await read_api(page))["calibration"]
    predicted, observed = (await page.evaluate(READ_PLOTS, "reliability"))[0]
    filled = [i for i, count in enumerate(calibration["bin_counts"]) if count]
    assert len(filled) == 9
    assert predicted == [calibration["bin_predicted"][i] for i in filled]
    assert observed == [calibration["bin_observed"][i] for i in filled]


async def test_the_slider_holds_a_moment_against_now_and_into_the_address(open_page):
    page = await opened(open_page)
    history = (await read_api(page))["history"]
    bins = history["histogram_bins"]

    def shares(point):
        row = history["histogram_counts"][point * bins : (point + 1) * bins]
        return pytest.approx([count / sum(row) for count in row])

    await page.locator("#shift-time").fill("11")
    await expect(page.locator("#shift .moment")).to_have_text("policy version 12")
    _, then, now = (await page.evaluate(READ_PLOTS, "shift"))[1]
    assert then == shares(11)
    assert now == shares(39)
    assert "at=12" in page.url
    await page.reload()
    await expect(page.locator("#shift .moment")).to_have_text("policy version 12")
    await page.get_by_role("button", name="Follow newest").click()
    await expect(page.locator("#shift .moment")).to_have_text("policy version 40 (newest)")


async def test_the_heat_map_is_darker_where_more_prompts_are(open_page):
    page = await opened(open_page)
    history = (await read_api(page))["history"]
    bins = history["histogram_bins"]
    last = history["histogram_counts"][-2 * bins : -bins]
    # The last but one column: the newest lies under the marker.
    lightness = await page.evaluate(
        """([bins, points]) => {
          const card = document.querySelector('[data-chart=shift]');
          const canvas = card.querySelector('canvas');
          const over = card.querySelector('.u-over').getBoundingClientRect();
          const box = canvas.getBoundingClientRect();
          const scale = canvas.width / box.width;
          const x = (over.left - box.left + (points - 1.5) / points * over.width) * scale;
          return Array.from({length: bins}, (_, b) => {
            const y = (over.top - box.top + (1 - (b + 0.5) / bins) * over.height) * scale;
            const pixel = canvas.getContext('2d').getImageData(Math.round(x), Math.round(y), 1, 1).data;
            return pixel[0] + pixel[1] + pixel[2];
          });
        }""",
        [bins, len(history["policy_versions"])],
    )
    for a in range(bins):
        for b in range(bins):
            if last[a] > 1.2 * last[b] > 0:
                assert lightness[a] < lightness[b]


async def test_the_numbers_behind_a_chart_are_a_table_on_the_page(open_page):
    page = await opened(open_page)
    histogram = (await read_api(page))["difficulty_histogram"]
    assert await page.locator("#difficulty table").count() == 0
    await page.locator("#difficulty").get_by_text("Numbers").click()
    cells = await page.locator("#difficulty tbody tr td:nth-child(2)").all_inner_texts()
    assert [int(cell.replace(",", "")) for cell in cells] == [*histogram["counts"], histogram["unseen"]]


async def test_the_figures_on_top_are_the_summarys(open_page):
    page = await opened(open_page)
    summary = await read_api(page)
    figure = page.locator("[data-figure=ratio] .value")
    await expect(figure).to_have_text(f"{100 * summary['effective_prompt_ratio']:.1f} %")
    await expect(page.locator("[data-figure=policy] .value")).to_have_text(str(summary["policy_version"]))
    await expect(page.locator("[data-figure=leases] .value")).to_have_text(str(len(summary["leases"])))
    await expect(page.locator("#rollouts .note")).to_contain_text(f"{summary['rollouts_spent']:,} spent")
    await expect(page.locator("[data-count=rollouts_truncated] .value")).to_have_text("20")


async def test_arrow_keys_read_a_chart_out(open_page):
    page = await opened(open_page)
    counts = (await read_api(page))["difficulty_histogram"]["counts"]
    plot = page.locator("#difficulty .plot")
    await plot.focus()
    await page.keyboard.press("End")
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#difficulty .readout")).to_have_text(
        f"pass rate 0.90–0.95: {counts[-2]:,} prompts"
    )


async def test_a_chart_downloads_as_png_and_csv(open_page):
    page = await opened(open_page)
    async with page.expect_download() as picture:
        await page.get_by_role("button", name="Download Difficulty now as PNG").click()
    download = await picture.value
    assert download.suggested_filename == "math-frontier-difficulty.png"
    image = Image.open(await download.path())
    assert image.width > 300
    assert len(image.convert("RGB").getcolors(100_000)) > 2
    async with page.expect_download() as numbers:
        await page.get_by_role("link", name=re.compile("Download Difficulty now as CSV")).click()
    assert (await numbers.value).suggested_filename == "math-frontier-histogram.csv"


async def test_a_chart_downloads_as_parquet(open_page):
    page = await opened(open_page)
    counts = (await read_api(page))["difficulty_histogram"]["counts"]
    async with page.expect_download() as numbers:
        await page.get_by_role("link", name="Download Difficulty now as Parquet").click()
    download = await numbers.value
    assert download.suggested_filename == "math-frontier-histogram.parquet"
    assert pq.read_table(await download.path()).column("prompts").to_pylist()[:-1] == counts


async def test_how_sure_the_estimates_are_is_drawn_as_the_api_says(open_page):
    page = await opened(open_page)
    uncertainty = (await read_api(page))["uncertainty"]
    (_, counts), (_, means) = await page.evaluate(READ_PLOTS, "uncertainty")
    assert counts == uncertainty["counts"]
    assert means == uncertainty["mean_stddevs"]
    await expect(page.locator("#uncertainty .note")).to_contain_text(f"Mean {uncertainty['mean_stddev']:.3f}")


async def test_the_slider_moves_by_keyboard_and_says_where_it_is(open_page):
    page = await opened(open_page)
    history = (await read_api(page))["history"]
    slider = page.locator("#shift-time")
    await slider.focus()
    for key, version in (("Home", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("End", 40), ("ArrowLeft", 39)):
        await page.keyboard.press(key)
        await expect(slider).to_have_attribute("aria-valuetext", f"policy version {version}")
    bins = history["histogram_bins"]
    row = history["histogram_counts"][38 * bins : 39 * bins]
    _, then, _now = (await page.evaluate(READ_PLOTS, "shift"))[1]
    assert then == pytest.approx([count / sum(row) for count in row])


async def test_the_weight_of_a_cluster_is_its_share_of_the_last_batches(open_page):
    page = await opened(open_page)
    clusters = {c["cluster"]: c for c in (await read_api(page))["clusters"]}
    for row in await page.locator("#clusters tbody tr").all():
        name = await row.locator("th").inner_text()
        weight = await row.locator("td").nth(2).inner_text()
        assert weight == f"{100 * clusters[name]['recent_share']:.1f} %"
