"""A checkpoint as a model of its own."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from trainer_client.assembly import build_model
from trainer_client.checkpoint import MODEL_FOLDER, CheckpointStore
from trainer_client.config import TrainConfig
from trainer_client.disk import writing
from trainer_client.learner.lora import merged
from trainer_client.models.weights import load_weights
from trainer_client.trainer_errors import ConfigError, TrainerError


def load_checkpoint(config: TrainConfig, model: Any, checkpoint: Path | None) -> str:
    """Puts a checkpoint's weights into the model and gives its name; None: the run's newest.

    `none` leaves the model bare. Raises TrainerError when the weights do not fit.
    """
    if str(checkpoint) == "none" and checkpoint is not None:
        return "the bare model"
    store = CheckpointStore(config.run_directory / "checkpoints")
    folder = checkpoint or store.path(store.latest())
    try:
        load_weights(model, folder / MODEL_FOLDER)
    except (OSError, ValueError, RuntimeError) as error:
        raise TrainerError(f"--checkpoint {folder}: does not fit this configuration: {error}") from error
    return str(folder)


def export_model(
    config: TrainConfig, output: Path, checkpoint: Path | None = None, *, adapters_only: bool = False
) -> str:
    """Writes model and tokenizer in Hugging Face format; gives the checkpoint's name.

    The folder appears under its name only when it is complete. Raises TrainerError when it exists.
    """
    if output.exists():
        raise TrainerError(f"--output {output}: exists already; give a folder that does not")
    if adapters_only and config.lora is None:
        raise ConfigError("--adapters: this configuration has none (lora is null); export without it")
    model, tokenizer = build_model(config)
    label = load_checkpoint(config, model, checkpoint)
    plain = model if adapters_only else merged(model)
    with writing(output, "make room, or give another --output"):
        _save(plain, tokenizer, output)
    return label


def _save(model: Any, tokenizer: Any, output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        model.save_pretrained(str(work))
        tokenizer.save_pretrained(str(work))
        work.chmod(0o755)
        work.rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
