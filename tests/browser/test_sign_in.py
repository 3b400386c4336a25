"""A browser before a service that wants tokens: the form, the cookie, the end of a session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import expect

from sampler_service.access import AuthSettings, Credential, Gate, Role
from sampler_service.access import gate as gate_module
from sampler_service.access.credentials import digest, write_token_file
from sampler_service.dashboard import DashboardServer, create_app
from tests.browser.simulated_reader import SimulatedReader

pytestmark = pytest.mark.browser

TOKEN = "the-token-of-the-reader-in-the-browser"


@pytest.fixture
def token_file(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.yaml"
    write_token_file(file, [Credential(name="reader", sha256=digest(TOKEN), role=Role.READ)])
    return file


@pytest_asyncio.fixture(loop_scope="session")
async def server(
    reader: SimulatedReader, token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[DashboardServer]:
    monkeypatch.setattr(gate_module, "_LOOK_SECONDS", 0.0)
    gate = Gate(AuthSettings(token_file=token_file))
    running = await DashboardServer.start(
        create_app(reader, stream_interval_seconds=0.1, stream_heartbeat_seconds=0.5, gate=gate)
    )
    yield running
    await running.stop()


async def test_a_token_opens_the_page_and_its_end_closes_it(open_page, keep, server, token_file: Path):
    page = await open_page("c/math-frontier")
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    await keep(page, "sign-in")

    await page.get_by_label("Token").fill("not-a-token-of-this-service")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("alert").filter(has_text="not known here")).to_be_visible()

    await page.get_by_label("Token").fill(TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="math-frontier")).to_be_visible()
    await expect(page.locator("#connection")).to_have_text("Live")
    assert await page.evaluate("document.cookie") == ""
    assert TOKEN not in await page.content()

    write_token_file(token_file, [])
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


async def test_signing_out_forgets_the_token(open_page, server):
    page = await open_page()
    await page.get_by_label("Token").fill(TOKEN)
    await page.get_by_role("button", name="Sign in").click()
    await expect(page.get_by_role("heading", name="Curricula")).to_be_visible()
    await page.get_by_role("button", name="Sign out").click()
    await expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert await page.context.cookies() == []
