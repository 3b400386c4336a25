"""The site holds more than docs/: a reference read off the code, and README, changelog, protos, files linked to."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent
sys.path[:0] = [str(ROOT), str(ROOT / "proto")]  # mkdocs' own command knows nothing of this checkout.
from docs_reference import reference_pages  # noqa: E402

DOCS = ROOT / "docs"
OWN_PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
_LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_config(config: Any) -> Any:
    """Every decision has its place in the navigation, without being listed by hand."""
    pages = [page.relative_to(DOCS).as_posix() for page in _decisions()]
    last = next(iter(config.nav[-1].values()))
    last[-1]["Decisions"] = ["decisions/index.md", *pages]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the reference, pages for the repository's own, a list of the decisions, and copies of linked files."""
    for place, content in reference_pages().items():
        files.append(File.generated(config, place, content=content))
    for page in OWN_PAGES:
        files.append(File.generated(config, _place(page), content=_moved(page.read_text(), page)))
    decisions = _decisions()
    titles = [page.read_text().partition("\n")[0].removeprefix("# ") for page in decisions]
    lines = [f"- [{title}]({page.name})" for page, title in zip(decisions, titles, strict=True)]
    content = "# Decisions\n\nWhat was hard to decide, and why it is as it is.\n\n" + "\n".join(lines)
    files.append(File.generated(config, "decisions/index.md", content=content))
    for page in [*DOCS.rglob("*.md"), *OWN_PAGES]:
        for match in _LINK.finditer(page.read_text()):
            target = (page.parent / match["target"]).resolve()
            place = _place(target)
            if target.is_file() and target.suffix != ".md" and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, abs_src_path=str(target)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of a page, to where their targets are on the site."""
    source = DOCS / page.file.src_uri
    return _moved(markdown, source) if source.exists() else markdown


def _decisions() -> list[Path]:
    return sorted((DOCS / "decisions").glob("[0-9]*.md"))


def _place(path: Path) -> str:
    """Where a file of the repository is on the site."""
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    place = path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name
    return place.lower() if path in OWN_PAGES else f"files/{place}"


def _moved(markdown: str, source: Path) -> str:
    here = Path(_place(source)).parent

    def move(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        path = (source.parent / target).resolve()
        if "://" in target or not path.exists():
            return match[0]
        place = _place(path) + ("/index.md" if path.is_dir() else "")
        return f"]({Path(os.path.relpath(place, here)).as_posix()}{anchor})"

    return _LINK.sub(move, markdown)
