"""The docs build as a site without a warning: no dead link or anchor, no page left out of the navigation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.torch  # The trainer's settings are on it.
def test_the_site_builds_strictly_and_has_the_reference(tmp_path: Path) -> None:
    answer = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert answer.returncode == 0, answer.stdout
    built = (tmp_path / "site" / "reference" / "rpc.html").read_text()
    assert 'id="call-NextBatch"' in built
    assert "admin" in built
    parts = (tmp_path / "site" / "reference" / "strategy-parts.html").read_text()
    assert "<code>Iterations | None</code>" in parts
    index = (tmp_path / "site" / "index.html").read_text()
    assert "reference/strategy-parts.html" in index
    assert "decisions/001-state-is-a-fold-over-a-log.html" in index
