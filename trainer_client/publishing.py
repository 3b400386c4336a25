"""The policy's weights as folders that an engine with a copy of its own loads from."""

import shutil
from pathlib import Path
from typing import Any

from trainer_client.disk import writing


class PublishedPolicies:
    """One folder per version below `directory`; those no longer in use are dropped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def write(self, model: Any, version: int) -> Path:
        """Saves the model's adapters (or all its weights) as this version."""
        target = self.directory / f"version-{version:08d}"
        # A run that was resumed trains the same version again.
        shutil.rmtree(target, ignore_errors=True)
        with writing(target, "make room, then go on with --resume"):
            model.save_pretrained(str(target))
        return target

    def drop_before(self, in_use: Path | None) -> None:
        """Removes the versions before this one: no engine reads them any more.

        A newer one may be being written meanwhile.
        """
        for folder in self.directory.glob("version-*"):
            if in_use is not None and folder.name < in_use.name:
                shutil.rmtree(folder, ignore_errors=True)

    def clear(self) -> None:
        """Removes all; checkpoints are what outlives a run."""
        shutil.rmtree(self.directory, ignore_errors=True)
