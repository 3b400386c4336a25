"""The strategy changed in the browser: by those who may, on what is in force, wrong where the service says."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from sampler_service.access import AuthSettings, Credential, Gate, Role
from sampler_service.access.credentials import digest, write_token_file
from sampler_service.dashboard import DashboardServer, create_app
from tests.browser.simulated_reader import SimulatedReader

pytestmark = pytest.mark.browser

PAGE = "c/math-frontier"
TOKENS = {role: f"the-token-of-a-browser-that-may-{role}" for role in Role}


async def editing(open_page, path=PAGE):
    page = await open_page(path)
    await page.get_by_role("button", name="Change …").click()
    await expect(page.locator("#strategy-text")).to_be_visible()
    return page


async def change(page, then="Put in force", **values):
    text = json.loads(await page.input_value("#strategy-text"))
    await page.fill("#strategy-text", json.dumps({**text, **values}, indent=2))
    await page.get_by_role("button", name=then).click()


async def test_a_preset_is_taken_changed_and_put_in_force(open_page, reader, watch):
    page = await editing(open_page)
    before = json.loads(await page.input_value("#strategy-text"))
    assert (before["preset"], before["exploration"]) == ("frontier", 0.1)
    await page.get_by_label("Begin from a preset").select_option("dapo")
    assert json.loads(await page.input_value("#strategy-text"))["preset"] == "dapo"
    await change(page, exploration=0.3)
    await expect(page.locator("#strategy .scalars")).to_contain_text("30.0 %")
    await expect(page.locator("#strategy-status")).to_contain_text("Put in force: dapo")
    await expect(page.locator("form.editor")).to_be_hidden()
    changed = reader.curricula["math-frontier"].changed
    assert (changed.preset, changed.exploration) == ("dapo", 0.3)
    assert watch.complaints == []


async def test_what_the_service_refuses_is_marked_at_its_field(open_page, reader, keep):
    page = await editing(open_page)
    await change(page, exploration=7)
    await expect(page.get_by_role("alert").filter(has_text="must be at most 1")).to_contain_text("Line")
    selected = await page.evaluate(
        "() => { const t = document.getElementById('strategy-text');"
        " return t.value.slice(t.selectionStart, t.selectionEnd); }"
    )
    assert selected == '"exploration"'
    await expect(page.locator("#strategy-text")).to_have_attribute("aria-invalid", "true")
    await keep(page, "strategy-refused")
    await page.fill("#strategy-text", "{")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(page.locator("#strategy-complaint")).to_contain_text("not JSON")
    assert reader.curricula["math-frontier"].etag == "e1"
    await page.get_by_role("button", name="Cancel").click()
    await expect(page.locator("form.editor")).to_be_hidden()


async def test_a_strategy_is_checked_shown_as_it_would_be_and_not_put_in_force(
    open_page, reader, keep, watch
):
    page = await editing(open_page)
    await change(page, then="Check", exploration=0.3, stopping={"one_shot": {}})
    await expect(page.locator("form.editor [role=status]")).to_contain_text("Nothing has been changed")
    rows = [
        await row.locator("th, td").all_inner_texts() for row in await page.locator(".checked tbody tr").all()
    ]
    assert ["exploration", "0.1", "0.3"] in rows
    assert ["stopping.one_shot", "–", "no parameters"] in rows
    assert ["stopping.balanced", "keep 8, max 32, round 8", "–"] in rows
    assert not any(row[0].startswith("quota") for row in rows), "what stays the same is not listed"
    await page.get_by_text("Every part of it spelt out").click()
    await expect(page.locator(".checked .scalars")).to_contain_text("30.0 %")
    await expect(page.locator(".checked [data-part=stopping]")).to_contain_text("one_shot")
    await keep(page, "strategy-checked")
    curriculum = reader.curricula["math-frontier"]
    assert (curriculum.etag, curriculum.changed.exploration) == ("e1", 0)
    await page.locator("#strategy-text").press("End")
    await page.locator("#strategy-text").press("Space")
    await expect(page.locator(".checked")).to_be_empty()
    assert watch.complaints == []


async def test_a_check_says_what_is_wrong_and_that_what_is_in_force_is_so(open_page):
    page = await editing(open_page)
    await page.get_by_role("button", name="Check").click()
    await expect(page.locator("form.editor [role=status]")).to_contain_text("It is the strategy in force")
    await change(page, then="Check", exploration=7)
    await expect(page.locator("#strategy-complaint")).to_contain_text("must be at most 1")
    await expect(page.locator("form.editor [role=status]")).to_be_empty()


async def test_a_change_that_was_sent_and_not_answered_is_sent_again_as_the_same(open_page, reader):
    page = await editing(open_page)
    sent = []
    await page.route(
        "**/strategy", lambda route: (sent.append(route.request.post_data_json), route.abort())[1]
    )
    for times in (1, 2):
        await change(page, exploration=0.3)
        await expect(page.locator("#strategy-complaint")).to_have_text("The service does not answer.")
        await expect(page.get_by_role("button", name="Put in force")).to_be_enabled()
        assert len(sent) == times
    await change(page, exploration=0.4)
    await expect(page.get_by_role("button", name="Put in force")).to_be_enabled()
    ids = [body["request_id"] for body in sent]
    assert ids[0] == ids[1] != ids[2]


async def test_a_strategy_that_somebody_else_changed_meanwhile_is_not_overwritten(open_page, reader):
    page = await editing(open_page)
    curriculum = reader.curricula["math-frontier"]
    curriculum.etag = "of another"
    curriculum.changed.exploration = 0.5
    await change(page, exploration=0.3)
    await expect(page.locator("#strategy-complaint")).to_contain_text("Somebody changed the strategy")
    assert curriculum.changed.exploration == 0.5
    await page.get_by_role("button", name="Take what is in force now").click()
    await expect(page.locator("#strategy-complaint")).to_have_text("")
    assert json.loads(await page.input_value("#strategy-text"))["exploration"] == 0.5
    await change(page, exploration=0.3)
    await expect(page.locator("#strategy .scalars")).to_contain_text("30.0 %")


async def test_the_place_of_a_field_in_a_text_is_found_whatever_stands_around_it(open_page):
    page = await open_page(PAGE)
    find = """async ([text, path]) => {
      const { placeOf } = await import('/static/js/views/json-place.js');
      const place = placeOf(text, path);
      return place && [place.start, text.slice(place.start, place.end)];
    }"""
    text = '{"a": [1, {"min": 2}], "b\\"x": {}, "quota": {"knapsack": {"max": 3, "min": -1}}, "min": 0}'
    for path, key in (("quota.knapsack.min", '"min"'), ("quota.other.min", '"quota"'), ("min", '"min"')):
        place = await page.evaluate(find, [text, path])
        assert place[1] == key
    assert (await page.evaluate(find, [text, "quota.knapsack.min"]))[0] == text.index('"min": -1')
    assert (await page.evaluate(find, [text, "min"]))[0] == text.index('"min": 0')
    assert await page.evaluate(find, [text, "absent"]) is None
    assert await page.evaluate(find, ["not { json", "a"]) is None


class TestWithTokens:
    @pytest_asyncio.fixture(loop_scope="session")
    async def server(self, reader: SimulatedReader, tmp_path: Path) -> AsyncIterator[DashboardServer]:
        file = tmp_path / "tokens.yaml"
        write_token_file(
            file,
            [
                Credential(name=f"the {role}", sha256=digest(token), role=role)
                for role, token in TOKENS.items()
            ],
        )
        gate = Gate(AuthSettings(token_file=file))
        app = create_app(reader, writer=reader, stream_interval_seconds=0.1, gate=gate)
        running = await DashboardServer.start(app)
        yield running
        await running.stop()

    async def signed_in(self, open_page, role):
        page = await open_page(PAGE)
        await page.get_by_label("Token").fill(TOKENS[role])
        await page.keyboard.press("Enter")
        await expect(page.locator("#connection")).to_have_text("Live")
        return page

    @pytest.mark.parametrize("role", [Role.READ, Role.TRAIN])
    async def test_who_may_not_change_it_is_told_why_and_refused_all_the_same(self, open_page, role):
        page = await self.signed_in(open_page, role)
        await expect(page.get_by_role("button", name="Change …")).to_be_disabled()
        await expect(page.locator(".strategy-bar")).to_contain_text(f"the {role} has {role}")
        status = await page.evaluate(
            """() => fetch('/api/v1/curricula/math-frontier/strategy', {
                 method: 'PUT', headers: {'content-type': 'application/json'},
                 body: JSON.stringify({strategy: {preset: 'dapo'}, etag: 'e1'}),
               }).then(r => r.status)"""
        )
        assert status == 403

    async def test_an_administrator_changes_it_with_the_cookie_of_the_session(self, open_page, reader):
        page = await self.signed_in(open_page, Role.ADMIN)
        await page.get_by_role("button", name="Change …").click()
        await change(page, exploration=0.4)
        await expect(page.locator("#strategy .scalars")).to_contain_text("40.0 %")
        assert reader.curricula["math-frontier"].changed.exploration == 0.4
