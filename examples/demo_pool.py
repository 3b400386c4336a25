"""The demo's pool: tasks that the small model has mastered, can learn, and cannot do."""

from typing import Any

# Pass rates of SmolLM2-135M at temperature 1 before training, in brackets.
ARITHMETIC = [
    "copy-3",  # mastered (.97)
    "max-2",  # half right
    "add-1",  # learnable (.23)
    "sub-1",
    "mul-1",
    "add-2",  # hard (.06)
    "mul-2",  # impossible (.00)
    "mul-3",
]


def _generated(dataset: str, label: str, size: int, **parameters: Any) -> dict[str, Any]:
    return {
        "type": "reasoning_gym",
        "dataset": dataset,
        "label": label,
        "size": size,
        "shots": 1,
        "parameters": parameters,
    }


REASONING = [
    # nearly mastered (.73)
    _generated("chain_sum", "chain_sum", 80, min_terms=2, max_terms=2, min_digits=1, max_digits=1),
    # a coin's throw (.25)
    _generated("calendar_arithmetic", "leap_year", 80, tasks=["is_leap_year"]),
    # impossible (.00)
    _generated("spell_backward", "spell_backward", 80, min_word_len=3, max_word_len=4),
]


def demo_tasks(name: str) -> list[dict[str, Any]]:
    """Task settings: `mixed`, `arithmetic`, `reasoning`, or a JSONL file's path."""
    arithmetic = {"type": "arithmetic", "kinds": ARITHMETIC, "per_kind": 100}
    chosen: dict[str, list[dict[str, Any]]] = {
        "mixed": [arithmetic, *REASONING],
        "arithmetic": [arithmetic],
        "reasoning": list(REASONING),
    }
    return chosen.get(name) or [{"type": "jsonl", "path": name, "stop": ["\n"], "held_out_share": 0.2}]
