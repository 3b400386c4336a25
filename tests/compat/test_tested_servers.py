"""The table of log servers in the docs names the very versions that are tested."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.redis_servers import SERVERS, binary_of

OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"


def documented() -> set[str]:
    """What the rows begin with, as `Valkey 9.0.0`."""
    return set(re.findall(r"^\| ((?:Valkey|Redis) [\d.]+)", OPERATIONS.read_text(), re.MULTILINE))


def test_every_kind_of_server_that_is_tested_has_a_row() -> None:
    assert len(documented()) == len(SERVERS)


# The system's Redis is whatever the system has.
@pytest.mark.parametrize("name", [each for each in SERVERS if each.values != ("redis_7",)])
def test_the_row_of_a_server_says_its_version(name: str) -> None:
    said = subprocess.run([binary_of(name), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.match(r"(Valkey|Redis) server v=([\d.]+)", said)
    assert found
    assert " ".join(found.groups()) in documented()
