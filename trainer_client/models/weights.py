"""Puts saved weights into a model: adapters, or all of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def load_weights(model: Any, folder: Path) -> None:
    """Loads adapters into a PEFT model, or all weights into a plain one."""
    if not folder.is_dir():
        # peft would look for a name that is no folder on a hub.
        raise FileNotFoundError(f"{folder}: there is no such folder")
    if hasattr(model, "peft_config"):
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(str(folder), device="cpu")
        if not weights:
            raise ValueError(f"{folder} holds no adapter weights")
        outcome: Any = set_peft_model_state_dict(model, weights)
        _check_missing(outcome.unexpected_keys, folder)
        return
    from safetensors.torch import load_file

    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights.update(load_file(str(file)))
    # Tied weights are stored once; only names the model does not know are wrong.
    _check_missing(model.load_state_dict(weights, strict=False).unexpected_keys, folder)


def _check_missing(unexpected: Sequence[str], folder: Path) -> None:
    if unexpected:
        raise ValueError(f"{folder} holds weights the model does not have, for instance {unexpected[0]}")
