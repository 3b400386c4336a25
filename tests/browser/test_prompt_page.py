"""One prompt's own page: its visits are drawn and written as the API tells them, and where they end is said."""

import csv
import io
from pathlib import Path
from urllib.parse import quote, urlsplit

import pyarrow.parquet as pq
import pytest
from playwright.async_api import expect

from sampler_service.dashboard import ReadError
from tests.browser.simulated_reader import SimulatedCurriculum

pytestmark = pytest.mark.browser

API = "/api/v1/curricula/math-frontier"
READ_PLOT = "name => document.querySelector(`[data-chart=${name}]`).plotData()[0]"


@pytest.fixture
def prompt_id(reader):
    return reader.curricula["math-frontier"].prompt_ids[4]


def address(prompt_id):
    return f"c/math-frontier/prompt?id={quote(prompt_id, safe='')}"


async def told(page, prompt_id):
    path = f"{API}/prompt-history?prompt_id={quote(prompt_id, safe='')}"
    return await page.evaluate("path => fetch(path).then(r => r.json())", path)


async def opened(open_page, prompt_id, **options):
    page = await open_page(address(prompt_id), **options)
    await expect(page.locator("table.visits")).to_be_visible()
    return page


async def test_belief_outcomes_and_quotas_are_drawn_visit_by_visit(open_page, prompt_id, keep, watch):
    page = await opened(open_page, prompt_id)
    history = await told(page, prompt_id)
    _, above, believed, below, right = await page.evaluate(READ_PLOT, "belief")
    assert believed[:-1] == history["pass_rates"]
    assert above[3] - below[3] == pytest.approx(2 * history["pass_rate_stddevs"][3])
    assert below[0] == 0, "a band ends where pass rates do"
    assert right == [
        *(s / n if n else None for s, n in zip(history["successes"], history["outcomes"], strict=True)),
        None,
    ]
    _, outcomes, successes, quotas = await page.evaluate(READ_PLOT, "visit-groups")
    assert (outcomes, successes, quotas) == (history["outcomes"], history["successes"], history["quotas"])
    await keep(page, "prompt")
    assert watch.complaints == []


async def test_every_visit_is_a_row_the_newest_first(open_page, prompt_id):
    page = await opened(open_page, prompt_id)
    history = await told(page, prompt_id)
    rows = [
        await row.locator("th, td").all_inner_texts() for row in await page.locator(".visits tbody tr").all()
    ]
    count = len(history["quotas"])
    assert [row[0] for row in rows] == [str(i) for i in range(count, 0, -1)]
    for row, i in zip(rows, reversed(range(count)), strict=True):
        assert row[2:5] == [str(history["policy_versions"][i]), "trainer-0", history["lease_ids"][i]]
        assert row[6] == f"{history['pass_rates'][i]:.3f} ± {history['pass_rate_stddevs'][i]:.3f}"
        assert row[7:10] == [str(history[name][i]) for name in ("quotas", "rollouts", "successes")]
    assert rows[0][-1] == "out now"
    assert {row[-1] for row in rows[1:]} == {"reported"}


async def test_how_far_back_the_log_goes_is_said(open_page, prompt_id):
    page = await opened(open_page, prompt_id)
    history = await told(page, prompt_id)
    reach = page.locator(".reach")
    await expect(reach).to_contain_text("The log goes back to 9 Oct 2025")
    shown = sum(history["outcomes"])
    await expect(reach).to_contain_text(f"{shown} of the {history['rollouts_counted']} rollouts")


async def test_a_prompt_without_visits_says_so(open_page, reader):
    prompt_id = reader.curricula["untouched"].prompt_ids[2]
    page = await open_page(f"c/untouched/prompt?id={quote(prompt_id, safe='')}")
    await expect(page.locator("[data-chart=belief] .empty")).to_contain_text("no visit")
    await expect(page.locator("[data-chart=visit-groups] .empty")).to_be_visible()
    await expect(page.locator(".reach")).to_contain_text("No rollout of this prompt has counted yet")
    await expect(page.locator("table.visits")).to_be_hidden()


async def test_the_page_is_reached_from_the_list_by_keyboard_and_leads_back(open_page):
    page = await open_page("c/math-frontier")
    await page.locator("tr[data-prompt] button").first.focus()
    await page.keyboard.press("Enter")
    link = page.locator("dialog").get_by_role("link")
    await link.focus()
    await page.keyboard.press("Enter")
    await expect(page.locator("table.visits")).to_be_visible()
    await page.locator("[data-chart=belief] .plot").focus()
    await page.keyboard.press("Home")
    await expect(page.locator("#belief .readout")).to_contain_text("believed 0.100 ± 0.280, 0.125 of 8 right")
    await page.get_by_role("link", name="math-frontier").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("math-frontier")


async def test_one_that_is_not_there_is_named_and_a_service_that_is_away_is_tried_again(
    open_page, prompt_id, reader
):
    page = await open_page(address("nobody <b>"))
    await expect(page.get_by_role("heading", level=1)).to_have_text("There is no prompt “nobody <b>”")
    page = await open_page()
    reader.failure = ReadError(14, "LOG_UNREACHABLE", "The log cannot be reached; is Redis up?")
    await page.goto(page.url + address(prompt_id))
    await expect(page.get_by_role("heading", level=1)).to_have_text("The service does not answer")
    reader.failure = None
    await expect(page.locator("table.visits")).to_be_visible()


async def test_the_visits_download_as_csv_and_as_parquet(open_page, prompt_id):
    page = await opened(open_page, prompt_id)
    history = await told(page, prompt_id)

    async def file(kind):
        async with page.expect_download() as download:
            await page.get_by_role("link", name=f"Download Visits as {kind}").click()
        return Path(await (await download.value).path())

    rows = list(csv.DictReader(io.StringIO((await file("CSV")).read_text(encoding="utf-8"))))
    assert [int(row["quota"]) for row in rows] == history["quotas"]
    assert pq.read_table(await file("Parquet")).column("quota").to_pylist() == history["quotas"]


async def test_every_file_is_linked_whatever_curriculum_and_prompt_are_called(open_page, reader):
    named = SimulatedCurriculum("a.csv", 50)
    named.step(8)
    named.prompt_ids[0] = "b.csv?c=.csv"
    reader.curricula["a.csv"] = named
    page = await open_page(f"c/a.csv/prompt?id={quote(named.prompt_ids[0], safe='')}")
    await expect(page.locator("table.visits")).to_be_visible()
    links = await page.locator("a[download]").evaluate_all("links => links.map(link => link.href)")
    await page.goto(page.url.partition("/prompt")[0])
    await expect(page.locator("#difficulty-title")).to_be_visible()
    links += await page.locator("a[download]").evaluate_all("links => links.map(link => link.href)")
    kinds = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet"}
    for kind in kinds:
        assert sum(f".{kind}?" in link for link in links) >= 4
    for link in links:
        answer = await page.request.get(link)
        kind = urlsplit(link).path.rpartition(".")[2]
        assert answer.headers["content-type"].partition(";")[0] == kinds[kind], link


async def test_a_phone_in_the_dark_needs_no_sideways_scrolling(open_page, prompt_id, keep):
    page = await opened(open_page, prompt_id, width=360, height=740, scheme="dark")
    assert await page.evaluate("document.documentElement.scrollWidth") <= 360
    await keep(page, "phone-prompt-dark")
