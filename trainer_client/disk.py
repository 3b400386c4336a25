"""What a disk refuses, as the trainer's error: full, read-only, out of quota, not ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from trainer_client.trainer_errors import TrainerError


@contextmanager
def writing(path: Path, remedy: str) -> Iterator[None]:
    """A block that writes `path`; what is refused becomes a TrainerError with the remedy.

    torch and safetensors have errors of their own for what the disk says.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise TrainerError(f"{path}: cannot be written: {said}; {remedy}") from error
