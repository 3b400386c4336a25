"""README and docs say what works: every command and every piece of code on them is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from docs_reference.service_settings_page import service_settings_table
from sampler_service.access import errors as access_errors
from sampler_service.curriculum import errors
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.strategy import resolve
from tests.compat.markdown_blocks import ROOT, RUNNABLE, SHOWN, Block, Reader, blocks_of

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def runnable(page: Path) -> list[Block]:
    return [block for block in blocks_of(page) if block.language in RUNNABLE and block.marker != "skip"]


RUN_PAGES = [page for page in PAGES if any(block.marker != "slow" for block in runnable(page))]
SLOW_PAGES = [page for page in PAGES if any(block.marker == "slow" for block in runnable(page))]


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.torch if page.name == "trainer.md" else (), id=name_of(page))
        for page in RUN_PAGES
    ],
)
def test_what_a_page_tells_to_run_works(page: Path, reader: Reader):
    for block in runnable(page):
        if block.marker != "slow":
            reader.follow(block, timeout_seconds=600)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("page", SLOW_PAGES, ids=name_of)
def test_what_a_page_tells_to_run_works_from_a_fresh_checkout_on(page: Path, reader: Reader):
    for block in runnable(page):
        reader.follow(block, timeout_seconds=1800)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_names_its_language_and_every_exception_its_reason(page: Path):
    for block in blocks_of(page):
        assert block.language in (*RUNNABLE, *SHOWN), f"{block.place}: language {block.language!r}?"
        assert block.marker != "skip" or block.reason, f"{block.place}: skipped, but why?"
        if block.language == "yaml":
            assert yaml.safe_load(block.text) is not None, block.place


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_strategy_shown_is_one_the_service_takes(page: Path):
    for block in blocks_of(page):
        if block.language == "yaml" and "strategy:" in block.text:
            values = dict(yaml.safe_load(block.text)["strategy"])
            resolve(values.pop("preset", ""), values)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_to_a_file_leads_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{name_of(page)}: {target} does not exist"


def test_the_readme_names_every_preset_and_no_other():
    section = (ROOT / "README.md").read_text().partition("## Strategies")[2].partition("```")[0]
    named = re.findall(r"`([a-z-]+)`", section)
    assert sorted(named) == sorted(PRESETS), "the presets named in README.md are not those of presets.py"


def test_every_test_a_page_appeals_to_exists():
    appealed = [
        match
        for page in PAGES
        for match in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", page.read_text(encoding="utf-8"))
    ]
    assert appealed
    for file, name in appealed:
        assert re.search(rf"def {name}\b", (ROOT / file).read_text()), f"{file}::{name} does not exist"


def test_the_settings_on_the_page_are_those_of_the_models():
    page = (ROOT / "docs" / "operations.md").read_text()
    assert service_settings_table() in page, "paste in what `python -m tests.compat.settings_table` prints"


def test_every_reason_the_service_gives_is_on_the_page():
    page = (ROOT / "docs" / "api.md").read_text()
    # What only an event that no client wrote can meet is not a client's concern.
    internal = {
        "NOT_CREATED",
        "UNKNOWN_EVENT",
        "INVALID_GRANT",
        "INVALID_CLUSTERS",
        "INVALID_SHADOWS",
        "SHADOWS_CHANGED",
    }
    missing = sorted(reason for reason in reasons_given() - internal if f"`{reason}`" not in page)
    assert not missing, f"docs/api.md does not name {missing}"


def reasons_given() -> set[str]:
    """The reasons that refusals in the service's sources name."""
    found = set()
    for path in (ROOT / "sampler_service").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            known = hasattr(errors, name) or hasattr(access_errors, name) or name == "RefusedRequest"
            place = {"Refusal": 1}.get(name, 0 if known else None)
            if place is not None and len(node.args) > place and isinstance(node.args[place], ast.Constant):
                found.add(node.args[place].value)
    return found
