"""The pictures of docs/concepts.md: plots computed by the service's own functions, diagrams from templates."""

from __future__ import annotations

from pathlib import Path

from docs_pictures.posterior import posterior_picture
from docs_pictures.sheet import sheet
from docs_pictures.wasted import wasted_picture

__all__ = ["FOLDER", "pictures"]

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
_TEMPLATES = Path(__file__).parent / "templates"


def pictures() -> dict[str, str]:
    """SVG text of every picture, by file name."""
    batch = (_TEMPLATES / "batch.svg").read_text(encoding="utf-8")
    log = (_TEMPLATES / "log.svg").read_text(encoding="utf-8")
    return {
        "wasted.svg": wasted_picture(),
        "posterior.svg": posterior_picture(),
        "batch.svg": sheet(
            "How a batch is made",
            "Posterior, proposal, quota and lease, then the trainer's rollouts, and back by report and stopping rule.",
            470,
            batch,
        ),
        "log.svg": sheet(
            "One log, any number of replicas",
            "Every replica folds the same log into the same state; a new one begins from a snapshot.",
            400,
            log,
        ),
    }
