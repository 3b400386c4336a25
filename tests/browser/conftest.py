"""A real Chromium, a real server, simulated curricula, and a watch on everything the page asks for."""

from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright, expect

from sampler_service.dashboard import DashboardServer, create_app
from tests.browser.simulated_reader import SimulatedCurriculum, SimulatedReader
from tests.host_programs import INSTALL_CHROMIUM, chromium_path

ARTIFACTS = Path(__file__).parents[2] / "test-artifacts"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


def find_chromium() -> str:
    """The browser; its absence fails the test."""
    path = chromium_path()
    if path is None:
        pytest.fail(f"No Chromium found. Install it: {INSTALL_CHROMIUM}.", pytrace=False)
    return path


@pytest.fixture
def reader() -> SimulatedReader:
    trained = SimulatedCurriculum("math-frontier", 1_000_000)
    trained.step(40)
    cures = SimulatedCurriculum("code cures Größe", 3_000, seed=1, preset="cures")
    cures.step(12)
    return SimulatedReader(trained, cures, SimulatedCurriculum("untouched", 5_000))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a browser share its event loop; so must their asynchronous fixtures, see `server`."""
    for item in items:
        if item.get_closest_marker("browser") is not None:
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


# A page on a busy machine takes its time; what never comes is noticed all the same.
PATIENCE_MILLIS = 60_000
expect.set_options(timeout=PATIENCE_MILLIS)


@pytest_asyncio.fixture(loop_scope="session")
async def server(reader: SimulatedReader) -> AsyncIterator[DashboardServer]:
    running = await DashboardServer.start(create_app(reader, writer=reader, stream_interval_seconds=0.1))
    yield running
    await running.stop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One for all tests of a process; each page has a context of its own, and so nothing of the others'."""
    path = find_chromium()
    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield chromium
        await chromium.close()


@dataclass
class Watch:
    """What a page complained of and where it sent requests."""

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)


OpenPage = Callable[..., Coroutine[None, None, Page]]


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest_asyncio.fixture(loop_scope="session")
async def open_page(browser: Browser, server: DashboardServer, watch: Watch) -> AsyncIterator[OpenPage]:
    pages: list[Page] = []

    async def open_at(path: str = "", *, width: int = 1360, height: int = 900, scheme: str = "light") -> Page:
        page = await browser.new_page(
            viewport={"width": width, "height": height}, color_scheme=scheme, accept_downloads=True
        )
        page.set_default_timeout(PATIENCE_MILLIS)
        page.on(
            "console",
            lambda m: watch.complaints.append(m.text) if m.type in ("error", "warning") else None,
        )
        page.on("pageerror", lambda error: watch.complaints.append(str(error)))
        page.on("request", lambda request: watch.hosts.add(urlsplit(request.url).netloc))
        await page.goto(server.url + path)
        pages.append(page)
        return page

    yield open_at
    for page in pages:
        await page.close()


@pytest.fixture
def keep() -> Callable[[Page, str], Coroutine[None, None, None]]:
    """Keeps a screenshot as an artefact of the run."""

    async def shoot(page: Page, name: str) -> None:
        ARTIFACTS.mkdir(exist_ok=True)
        await page.screenshot(path=ARTIFACTS / f"dashboard-{name}.png", full_page=True)

    return shoot
