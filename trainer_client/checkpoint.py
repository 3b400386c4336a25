"""Checkpoints of a run: adapters (or weights), optimizer, random state, step, curriculum checkpoint.

A checkpoint is a folder `step-000040` that appears under its name only when it is complete.
"""

import contextlib
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from safetensors import SafetensorError

from trainer_client.disk import writing
from trainer_client.learner.kept import Keepable
from trainer_client.learner.policy import Policy
from trainer_client.models.weights import load_weights
from trainer_client.trainer_errors import CheckpointError, TrainerError

STATE_FILE = "state.json"
OPTIMIZER_FILE = "optimizer.pt"
MODEL_FOLDER = "policy"
REPLAY_FILE = "replay.npz"
FORMAT = 1


@dataclass(frozen=True)
class RunState:
    """Where a run stands. step: batches trained on; the policy's version is the same number.

    first_version: what the service calls version 0.
    """

    step: int
    updates: int
    curriculum_id: str
    curriculum_checkpoint_id: str
    rollouts: int = 0
    tokens: int = 0
    first_version: int = 0
    format: int = FORMAT


class CheckpointStore:
    """The checkpoints of one run's folder."""

    def __init__(self, directory: Path, keep: int = 2) -> None:
        self.directory = directory
        self.keep = keep

    def path(self, step: int) -> Path:
        """Folder of a step's checkpoint."""
        return self.directory / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, in order."""
        if not self.directory.is_dir():
            return []
        names = [p.name for p in self.directory.iterdir() if (p / STATE_FILE).exists()]
        return sorted(int(name.removeprefix("step-")) for name in names if name.startswith("step-"))

    def save(self, policy: Policy, state: RunState, memory: Keepable | None = None) -> list[RunState]:
        """Writes a checkpoint, removes the oldest beyond `keep`, and gives what those said.

        Each is one folder under its own name: a save that is cut short leaves the ones before it.
        Raises CheckpointError when it cannot be written.
        """
        kept = self.steps()
        remedy = f"go on with --resume from step {kept[-1]}" if kept else "start again"
        try:
            with writing(self.path(state.step), f"make room or correct `directory`, then {remedy}"):
                self._write(policy, state, memory)
        except TrainerError as error:
            raise CheckpointError(str(error)) from error
        removed = []
        for step in self.steps()[: -self.keep]:
            with contextlib.suppress(CheckpointError):
                removed.append(self.read_state(step))
            shutil.rmtree(self.path(step), ignore_errors=True)
        return removed

    def _write(self, policy: Policy, state: RunState, memory: Keepable | None) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".writing-", dir=self.directory))
        try:
            policy.model.save_pretrained(str(work / MODEL_FOLDER))
            torch.save(
                {
                    "optimizer": policy.optimizer.state_dict(),
                    "random": torch.get_rng_state(),
                    "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
                },
                work / OPTIMIZER_FILE,
            )
            if memory is not None:
                np.savez(work / REPLAY_FILE, allow_pickle=False, **memory.export())
            (work / STATE_FILE).write_text(json.dumps(asdict(state), indent=1), encoding="utf-8")
            target = self.path(state.step)
            # Training the same step again after a resume replaces what was there.
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def latest(self) -> int:
        """The newest checkpoint's step. Raises CheckpointError when there is none."""
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.directory}: no checkpoint to resume from; start without --resume")
        return steps[-1]

    def read_state(self, step: int) -> RunState:
        """What a checkpoint says about the run. Raises CheckpointError when it cannot be read."""
        path = self.path(step) / STATE_FILE
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path}: format {data.get('format')!r}, this version reads {FORMAT}; "
                    "resume with the version that wrote it"
                )
            return RunState(**data)
        except (OSError, ValueError, TypeError) as error:
            raise _damaged(self.path(step), error) from error

    def load(self, policy: Policy, step: int, memory: Keepable | None = None) -> RunState:
        """Puts a checkpoint's weights, optimizer, random state and replay buffer in place.

        A buffer of which the checkpoint knows nothing stays as it is.
        """
        state = self.read_state(step)
        folder = self.path(step)
        kept, arrays = self._read(folder)
        try:
            load_weights(policy.model, folder / MODEL_FOLDER)
            policy.optimizer.load_state_dict(kept["optimizer"])
            torch.set_rng_state(kept["random"])
            if len(kept["random_cuda"]) == torch.cuda.device_count():
                torch.cuda.set_rng_state_all(kept["random_cuda"])
            if memory is not None and arrays:
                memory.restore(arrays)
        except (OSError, SafetensorError) as error:
            raise _damaged(folder, error) from error
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{folder}: does not fit this run's model: {error}; was lora or model changed since?"
            ) from error
        policy.updates = state.updates
        return state

    def _read(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """Optimizer and random state; the arrays of what the run remembers."""
        try:
            kept = torch.load(folder / OPTIMIZER_FILE, map_location="cpu", weights_only=True)
            if not (folder / REPLAY_FILE).exists():
                return kept, {}
            with np.load(folder / REPLAY_FILE, allow_pickle=False) as arrays:
                return kept, dict(arrays)
        # A file that was cut short is none of torch's, pickle's or zip's.
        except (OSError, EOFError, RuntimeError, ValueError, UnpicklingError, BadZipFile) as error:
            raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{folder}: is damaged: {error}; remove it: --resume goes on from the one before, if there is one"
    )
