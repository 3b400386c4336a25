"""`sampler-service`, also as `python -m sampler_service`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command; names the extra where only the SDK is installed."""
    try:
        from sampler_service.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("sampler_service", "curriculum")):
            raise
        sys.exit(
            f"error: {error.name} is not installed; the service and its commands come with extras: "
            "pip install 'curriculum-sampler[service,embedded]'"
        )
    run()


if __name__ == "__main__":
    main()
