"""LoRA adapters on a causal language model (by peft)."""

from collections.abc import Sequence
from typing import Any


def add_lora(
    model: Any,
    *,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    seed: int = 0,
) -> Any:
    """Wraps the model; its own weights are frozen.

    modules: names of the linear layers to adapt; None: all of them but the output head.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(modules) if modules else "all-linear",
        bias="none",
    )
    # The adapters' start is random: seeded apart, so that it depends on nothing drawn before.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)
