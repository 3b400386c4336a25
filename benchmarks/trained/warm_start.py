"""A small Llama that was taught to calculate and then bad habits: made once, the start of every run."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.trained.pool import habit_text, skill_text
from trainer_client.models.tiny import tiny_model, tiny_tokenizer

__all__ = ["warm_start"]

_ROWS = 128
_SKILL_RATE = 4e-3
_HABIT_RATE = 1e-3

Text = Callable[[np.random.Generator], tuple[str, str]]


def warm_start(folder: Path, skill_updates: int = 900, habit_updates: int = 300, *, seed: int = 0) -> Path:
    """Folder of the model in Hugging Face format; trained there first if there is none, in two minutes."""
    target = folder / f"warm-start-{skill_updates}-{habit_updates}-{seed}"
    if (target / "config.json").exists():
        return target
    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer, hidden_size=128, layers=3, seed=seed)
    rng = np.random.default_rng([seed, skill_updates, habit_updates])
    _supervise(model, tokenizer, skill_text, skill_updates, _SKILL_RATE, rng)
    _supervise(model, tokenizer, habit_text, habit_updates, _HABIT_RATE, rng)
    building = folder / f".building-{os.getpid()}"
    model.save_pretrained(building)
    tokenizer.save_pretrained(building)
    building.rename(target)
    return target


def _supervise(
    model: Any, tokenizer: Any, text: Text, updates: int, peak_rate: float, rng: np.random.Generator
) -> None:
    """Next-token training on the answers alone."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak_rate, total_steps=updates + 1)
    pad = tokenizer.pad_token_id
    for _ in range(updates):
        chosen = [_example(tokenizer, *text(rng)) for _ in range(_ROWS)]
        width = max(len(question) + len(answer) for question, answer in chosen)
        ids = torch.full((_ROWS, width), pad)
        labels = torch.full((_ROWS, width), -100)
        for row, (question, answer) in enumerate(chosen):
            ids[row, : len(question) + len(answer)] = torch.tensor(question + answer)
            labels[row, len(question) : len(question) + len(answer)] = torch.tensor(answer)
        loss = model(input_ids=ids, attention_mask=(ids != pad).long(), labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


def _example(tokenizer: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    return tokenizer(question)["input_ids"], tokenizer(answer + "\n")["input_ids"]
