"""LoRA adapters on a causal language model (by peft)."""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer_client.trainer_errors import ModelError


def add_lora(
    model: Any,
    *,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.0,
    modules: Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    layers: Sequence[int] | None = None,
    ranks: Mapping[str, int] | None = None,
    rank_stabilised: bool = False,
    seed: int = 0,
) -> Any:
    """Wraps the model; its own weights are frozen.

    modules: names of the linear layers to adapt; None: all of them but the output head.
    layers: numbers of the blocks to adapt; None: all. ranks: by layer name, instead of `rank`; their
    alpha is scaled alike, so that a layer learns no faster for it.
    Raises ModelError naming a module that the model does not have.
    """
    import torch
    from peft import LoraConfig, get_peft_model

    linear = linear_modules(model)
    for name in (*(modules or ()), *exclude_modules, *(ranks or {})):
        if not any(path == name or path.endswith(f".{name}") for path in linear):
            raise ModelError(
                f"lora: the model has no linear layer {name!r}; it has {sorted({p.split('.')[-1] for p in linear})}"
            )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=_targets(model, linear, modules, layers),
        exclude_modules=list(exclude_modules) or None,
        rank_pattern=dict(ranks or {}),
        alpha_pattern={name: alpha * own / rank for name, own in (ranks or {}).items()},
        use_rslora=rank_stabilised,
        bias="none",
    )
    # The adapters' start is random: seeded apart, so that it depends on nothing drawn before.
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, config)


def linear_modules(model: Any) -> list[str]:
    """Paths of the model's linear layers, its output head left out."""
    import torch

    head = model.get_output_embeddings()
    return [
        path
        for path, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]


def merged(model: Any) -> Any:
    """The plain model with the adapters added into its weights; a model without adapters as it is."""
    return model.merge_and_unload() if hasattr(model, "peft_config") else model


def _targets(
    model: Any, linear: Sequence[str], modules: Sequence[str] | None, layers: Sequence[int] | None
) -> list[str] | str:
    if layers is None:
        return list(modules) if modules else "all-linear"
    count = int(model.config.num_hidden_layers)
    for number in layers:
        if not 0 <= number < count:
            raise ModelError(f"lora.layers: {number} is no block of this model; it has 0 to {count - 1}")
    wanted = {str(number) for number in layers}
    named = [path for path in linear if not modules or any(f".{path}".endswith(f".{m}") for m in modules)]
    chosen = [path for path in named if wanted & set(path.split("."))]
    if not chosen:
        raise ModelError(
            f"lora.layers {list(layers)} and lora.modules {list(modules or ())}: no layer is both"
        )
    return chosen
