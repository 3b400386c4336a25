"""`trainer-client`, also as `python -m trainer_client`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Runs the command; names the extra where only the SDK is installed."""
    try:
        from trainer_client.cli import main as run
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("trainer_client", "curriculum")):
            raise
        sys.exit(
            f"error: {error.name} is not installed; the trainer comes with an extra: "
            "pip install 'curriculum-sampler[trainer]'"
        )
    run()


if __name__ == "__main__":
    main()
