"""Loads a model and its tokenizer by name or path."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from trainer_client.config import ModelConfig
from trainer_client.models.smollm2 import smollm2_directory
from trainer_client.models.tiny import TINY_CONTEXT, tiny_model, tiny_tokenizer
from trainer_client.trainer_errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(settings: ModelConfig) -> tuple[Any, Any]:
    """Model and tokenizer, on the device. Raises ModelError with the path and the reason."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    # Of files read and written: they would tear the run's own display.
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    tokenizer = load_tokenizer(settings)
    if settings.path == "tiny":
        return tiny_model(tokenizer).to(device=device, dtype=DTYPES[settings.dtype]), tokenizer
    with _loading(settings.path):
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(_folder(settings.path)), dtype=DTYPES[settings.dtype], local_files_only=True
        )
    return model.to(device), tokenizer


def load_tokenizer(settings: ModelConfig) -> Any:
    """The tokenizer alone. Raises ModelError with the path and the reason."""
    if settings.path == "tiny":
        return tiny_tokenizer()
    folder = _folder(settings.path)
    from transformers import AutoTokenizer

    with _loading(settings.path):
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def context_tokens(settings: ModelConfig) -> int | None:
    """How many tokens the model can read; None where its folder does not say."""
    if settings.path == "tiny":
        return TINY_CONTEXT
    from transformers import AutoConfig

    with _loading(settings.path):
        config = AutoConfig.from_pretrained(str(_folder(settings.path)), local_files_only=True)
    return getattr(config.get_text_config(), "max_position_embeddings", None)


def _folder(path: str) -> Path:
    folder = smollm2_directory() if path == "smollm2" else Path(path)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"model.path {path!r}: no config.json there; give a folder in Hugging Face format, "
            "'smollm2' or 'tiny'"
        )
    return folder


@contextmanager
def _loading(path: str) -> Iterator[None]:
    try:
        yield
    # A file that was cut short is an error of whoever reads its format.
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"model.path {path!r}: cannot be loaded: {error}; is the folder complete?"
        ) from error


def pick_device(name: str) -> torch.device:
    """The device by name; `auto` prefers a GPU, under torchrun the one of this process.

    Raises ModelError when there is none of that name.
    """
    if name == "auto":
        place = int(os.environ.get("LOCAL_RANK", "0"))
        return torch.device("cuda", place) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"model.device {name!r}: unknown; use auto, cpu or cuda") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError(f"model.device {name!r}: this machine has no usable GPU; use auto or cpu")
    return device
