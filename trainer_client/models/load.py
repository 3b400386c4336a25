"""Loads a model and its tokenizer by name or path."""

import os
from pathlib import Path
from typing import Any

import torch

from trainer_client.config import ModelConfig
from trainer_client.models.smollm2 import smollm2_directory
from trainer_client.models.tiny import tiny_model, tiny_tokenizer
from trainer_client.trainer_errors import ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(settings: ModelConfig) -> tuple[Any, Any]:
    """Model and tokenizer, on the device. Raises ModelError with the path and the reason."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    if settings.path == "tiny":
        tokenizer = tiny_tokenizer()
        return tiny_model(tokenizer).to(device=device, dtype=DTYPES[settings.dtype]), tokenizer
    folder = smollm2_directory() if settings.path == "smollm2" else Path(settings.path)
    if not (folder / "config.json").exists():
        raise ModelError(
            f"model.path {settings.path!r}: no config.json there; give a folder in Hugging Face format, "
            "'smollm2' or 'tiny'"
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), dtype=DTYPES[settings.dtype], local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"model.path {settings.path!r}: cannot be loaded: {error}") from error
    return model.to(device), tokenizer


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
