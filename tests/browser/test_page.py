"""The page as people meet it: live, away, empty, dark, on a phone, by keyboard, by link."""

from urllib.parse import quote

import pytest
from playwright.async_api import expect

from sampler_service.dashboard import DashboardServer, ReadError, create_app
from tests.browser.simulated_reader import CLUSTERS
from tests.ports import free_port

pytestmark = pytest.mark.browser

PAGE = "c/math-frontier"
LUMINANCE = """() => {
  const [r, g, b] = getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number);
  return (r + g + b) / 765;
}"""


async def live(page):
    await expect(page.locator("#connection")).to_have_text("Live")
    return page


async def test_the_overview_shows_every_curriculum_and_leads_to_it(open_page, keep, reader):
    page = await open_page()
    rows = page.locator("tr[data-curriculum]")
    await expect(rows).to_have_count(3)
    row = page.locator("tr[data-curriculum='math-frontier']")
    ratio = reader.curricula["math-frontier"].summary(1).effective_prompt_ratio
    for text in ("1M", "10.2K", f"{100 * ratio:.1f} %", "frontier", "1,280", "0.2 s"):
        await expect(row).to_contain_text(text)
    await keep(page, "overview")
    await page.get_by_role("link", name="code cures Größe").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("code cures Größe")


async def test_nothing_complains_and_no_request_leaves_the_origin(open_page, server, watch):
    await open_page()
    await live(await open_page(PAGE))
    page = await live(await open_page(f"{PAGE}?prompt={quote('Größe/单位/prompt 00004')}"))
    await expect(page.locator("dialog h2")).to_have_text("Größe/单位/prompt 00004")
    await page.wait_for_timeout(500)
    assert watch.complaints == []
    assert watch.hosts == {f"127.0.0.1:{server.port}"}


async def test_a_step_of_training_appears_without_a_reload(open_page, reader):
    page = await live(await open_page(PAGE))
    await page.evaluate("window.notReloaded = true")
    reader.curricula["math-frontier"].step(3)
    await expect(page.locator("[data-figure=policy] .value")).to_have_text("43")
    drawn = await page.evaluate("document.querySelector('[data-chart=groups]').plotData()[0][0]")
    assert drawn == list(range(1, 44))
    await expect(page.locator("#shift .moment")).to_have_text("policy version 43 (newest)")
    assert await page.evaluate("window.notReloaded")


async def test_a_service_that_cannot_read_leaves_the_last_data_and_says_so(open_page, reader, keep):
    page = await live(await open_page(PAGE))
    reader.failure = ReadError(14, "LOG_UNREACHABLE", "The log cannot be reached; is Redis up?")
    await expect(page.locator("#connection")).to_have_text("Service away")
    await expect(page.locator("#banner")).to_contain_text("is Redis up?")
    await expect(page.locator("#banner")).to_contain_text("Showing the state of")
    await expect(page.locator("[data-figure=policy] .value")).to_have_text("40")
    await keep(page, "away")
    reader.failure = None
    reader.curricula["math-frontier"].step()
    await live(page)
    await expect(page.locator("#banner")).to_be_hidden()
    await expect(page.locator("[data-figure=policy] .value")).to_have_text("41")


async def test_a_server_that_restarts_is_found_again(open_page, reader):
    port = free_port()
    first = await DashboardServer.start(create_app(reader, stream_interval_seconds=0.1), port=port)
    page = await open_page()
    await page.goto(first.url + PAGE)
    await live(page)
    await first.stop()
    await expect(page.locator("#connection")).to_have_text("Service away")
    reader.curricula["math-frontier"].step()
    second = await DashboardServer.start(create_app(reader, stream_interval_seconds=0.1), port=port)
    await expect(page.locator("#connection")).to_have_text("Live")
    await expect(page.locator("[data-figure=policy] .value")).to_have_text("41")
    await second.stop()


async def test_where_streams_are_blocked_the_page_polls(open_page, reader):
    page = await open_page()
    await page.route("**/stream*", lambda route: route.abort())
    await page.goto(page.url + PAGE)
    await expect(page.locator("#connection")).to_have_text("Polling")
    reader.curricula["math-frontier"].step()
    await expect(page.locator("[data-figure=policy] .value")).to_have_text("41")


async def test_stale_state_is_called_stale(open_page, reader):
    reader.curricula["math-frontier"].stale = True
    page = await live(await open_page(PAGE))
    await expect(page.locator("#banner")).to_contain_text("last state it knows")


async def test_no_curricula_says_how_to_make_one(open_page, reader, keep):
    reader.curricula.clear()
    page = await open_page()
    await expect(page.get_by_role("heading", level=2)).to_have_text("No curricula yet")
    await expect(page.locator("pre")).to_contain_text("curriculum.v1.CurriculumService/CreateCurriculum")
    await keep(page, "no-curricula")


async def test_a_curriculum_without_data_explains_each_empty_chart(open_page, keep):
    page = await live(await open_page("c/untouched"))
    for chart in ("groups", "ratio", "rollouts", "exploration", "quota", "shift", "reliability", "brier"):
        await expect(page.locator(f"[data-chart={chart}] .empty")).to_be_visible()
    await expect(page.locator(".split-text")).to_contain_text("5,000 never (100.0 %)")
    for figure, words in (("ratio", "no group finished"), ("spent", "none reported yet")):
        await expect(page.locator(f"[data-figure={figure}] .detail")).to_have_text(words)
    await expect(page.locator("[data-chart=groups] a[download]").first).to_be_hidden()
    await keep(page, "untouched")


@pytest.mark.parametrize("path", ["c/%ZZ", "c/%ZZ/prompt?id=x"])
async def test_an_address_that_is_not_one_is_said_to_be_of_nothing(open_page, path):
    page = await open_page(path)
    await expect(page.get_by_role("heading", level=1)).to_contain_text("There is no")


async def test_a_page_beyond_the_last_leads_back_to_the_first(open_page):
    page = await open_page("?page_token=100")
    await page.get_by_role("link", name="See the first ones").click()
    await expect(page.locator("tr[data-curriculum]")).to_have_count(3)


async def test_a_rate_of_long_ago_says_until_when_it_was(open_page, reader):
    page = await live(await open_page(PAGE))
    await expect(page.locator("[data-figure=rate] .detail")).to_contain_text("until 9 Oct 2025")


async def test_an_axis_counts_in_whole_numbers_and_a_share_has_the_decimals_it_needs(open_page):
    page = await open_page()
    counts, shares, fine, words = await page.evaluate(
        """async () => {
          const { countAxis, percentAxis } = await import('/static/js/charts/plot.js');
          const { compact, counted } = await import('/static/js/format.js');
          const ticks = (axis, values) => axis.values(null, values);
          return [countAxis.incrs, ticks(percentAxis, [0, 0.05, 0.1]), ticks(percentAxis, [0, 0.025, 0.05]),
                  [compact(-826), counted(1, 'prompt'), counted(2048, 'prompt')]];
        }"""
    )
    assert counts[:4] == [1, 2, 5, 10]
    assert all(float(step).is_integer() for step in counts)
    assert (shares, fine) == (["0 %", "5 %", "10 %"], ["0.0 %", "2.5 %", "5.0 %"])
    assert words == ["−826", "1 prompt", "2,048 prompts"]


async def test_a_curriculum_that_is_not_there_is_named_with_a_way_back(open_page):
    page = await open_page("c/absent")
    await expect(page.get_by_role("heading", level=1)).to_contain_text("absent")
    await expect(page.locator("#connection")).to_have_text("Not found")
    await page.get_by_role("link", name="See the curricula there are").click()
    await expect(page.locator("tr[data-curriculum]")).to_have_count(3)


async def test_the_theme_follows_the_system_and_the_switch_is_remembered(open_page, keep):
    page = await live(await open_page(PAGE, scheme="dark"))
    assert await page.evaluate(LUMINANCE) < 0.2
    await keep(page, "dark")
    await page.get_by_role("button", name="Switch to light colours").click()
    assert await page.evaluate(LUMINANCE) > 0.8
    await page.reload()
    await live(page)
    assert await page.evaluate(LUMINANCE) > 0.8
    await keep(page, "light")


@pytest.mark.parametrize("path", ["", PAGE, "c/untouched"])
async def test_a_phone_needs_no_sideways_scrolling(open_page, keep, path):
    page = await open_page(path, width=360, height=740)
    await expect(page.get_by_role("heading", level=1)).to_be_visible()
    await page.wait_for_timeout(400)
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await keep(page, f"phone-{path.rpartition('/')[2] or 'overview'}")


async def test_prompts_are_searched_filtered_and_paged(open_page, reader):
    page = await live(await open_page(PAGE))
    rows = page.locator("tr[data-prompt]")
    await expect(rows).to_have_count(25)
    first = await rows.first.get_attribute("data-prompt")
    await page.locator("#prompts").get_by_role("button", name="Next").click()
    await expect(rows.first).not_to_have_attribute("data-prompt", first)
    await page.locator("#prompts").get_by_role("button", name="Previous").click()
    await expect(rows.first).to_have_attribute("data-prompt", first)
    await page.get_by_label("Search").fill("0012")
    await page.locator("select[name=cluster]").select_option(CLUSTERS[2])
    await page.get_by_role("button", name="Apply").click()
    expected = [i for i in reader.curricula["math-frontier"].prompt_ids if "0012" in i and CLUSTERS[2] in i]
    await expect(rows).to_have_count(len(expected))
    assert await rows.evaluate_all("rows => rows.map(row => row.dataset.prompt)") == expected
    await page.reload()
    await expect(rows).to_have_count(len(expected))
    await page.get_by_label("Search").fill("no such prompt")
    await page.keyboard.press("Enter")
    await expect(page.locator("#prompts .note")).to_have_text("No prompt passes this filter.")


async def test_one_prompt_opens_by_keyboard_has_an_address_and_closes_by_escape(open_page):
    page = await live(await open_page(PAGE))
    button = page.locator("tr[data-prompt] button").first
    await button.focus()
    await page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    await expect(dialog).to_contain_text("Beta(")
    _, density = await page.evaluate("document.querySelector('[data-chart=posterior]').plotData()[0]")
    assert max(density) == 1
    assert "prompt=" in page.url
    await page.keyboard.press("Escape")
    await expect(dialog).to_have_count(0)
    assert "prompt=" not in page.url


async def test_the_strategy_is_spelt_out_part_by_part(open_page):
    page = await live(await open_page(PAGE))
    await expect(page.locator("[data-part=quota]")).to_contain_text("max")
    await expect(page.locator("[data-part=stopping]")).to_contain_text("balanced")
    await expect(page.locator("[data-part=iterations]")).to_contain_text("none")
    await expect(page.locator(".scalars")).to_contain_text("10.0 %")


async def test_a_hostile_prompt_id_is_shown_as_text(open_page, reader, watch):
    hostile = "<img src=x onerror=\"document.title='owned'\">/../?#"
    reader.curricula["math-frontier"].prompt_ids[0] = hostile
    page = await live(await open_page(PAGE))
    await page.locator("tr[data-prompt] button").first.click()
    await expect(page.locator("dialog h2")).to_have_text(hostile)
    await expect(page.locator("dialog")).to_contain_text("Beta(")
    assert await page.title() == "math-frontier"
    assert watch.complaints == []


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("", "tr[data-curriculum]"),
        (PAGE, "tr[data-prompt]"),
        (f"{PAGE}/prompt?id={quote('Größe/单位/prompt 00004')}", "table.visits"),
        ("compare", "#pair-figures table"),
    ],
)
async def test_everything_that_acts_has_a_name_and_a_place_for_the_keyboard(open_page, path, shown):
    page = await open_page(path)
    await expect(page.locator(shown).first).to_be_visible()
    nameless = await page.evaluate(
        """() => [...document.querySelectorAll('a, button, input, select, [role=img], [role=region]')].filter(
          node => !(node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.length)
        ).map(node => node.outerHTML)"""
    )
    assert nameless == []
    beyond_reach = await page.evaluate(
        """() => [...document.querySelectorAll('.plot, .scroll, a[href], button, input, select, textarea, summary')]
          .filter(node => node.tabIndex < 0).map(node => node.outerHTML)"""
    )
    assert beyond_reach == []
    assert await page.locator("main h1").count() == 1


async def test_prompts_are_sorted_by_a_column_and_the_order_is_in_the_address_and_the_files(
    open_page, reader
):
    page = await live(await open_page(PAGE))
    rates = reader.curricula["math-frontier"].pass_rates()
    ids = reader.curricula["math-frontier"].prompt_ids
    rising = [ids[i] for i in rates.argsort(kind="stable")]
    rows = page.locator("tr[data-prompt]")
    head = page.locator("#prompts").get_by_role("columnheader", name="pass rate")
    await expect(head).to_have_attribute("aria-sort", "none")
    await head.get_by_role("button").focus()
    await page.keyboard.press("Enter")
    await expect(head).to_have_attribute("aria-sort", "descending")
    await expect(rows.first).to_have_attribute("data-prompt", rising[-1])
    await expect(head.get_by_role("button")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(head).to_have_attribute("aria-sort", "ascending")
    await expect(rows.first).to_have_attribute("data-prompt", rising[0])
    assert "sort=pass_rate" in page.url
    await page.reload()
    await expect(rows.first).to_have_attribute("data-prompt", rising[0])
    for name in ("CSV of all that match", "Parquet of all that match"):
        assert "order_by=pass_rate" in await page.get_by_role("link", name=name).get_attribute("href")
