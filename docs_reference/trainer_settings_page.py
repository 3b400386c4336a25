"""The page of a training run's settings, from the models."""

from __future__ import annotations

from docs_reference.markdown import code, prose, table
from trainer_client.settings_list import settings_list

__all__ = ["trainer_settings_page"]


def trainer_settings_page() -> str:
    """Every setting of a training run."""
    rows = [(code(name), code(default), prose(text)) for name, default, text in settings_list()]
    intro = (
        "# Settings of the trainer\n\nAs in `--set`, and nested in the YAML file of `--config`; `tasks.N` is an"
        " entry of the list of tasks. `trainer-client settings` prints them. What they are for:"
        " [Trainer](../trainer.md)."
    )
    return f"{intro}\n\n{table(('setting', 'default', ''), rows)}\n"
