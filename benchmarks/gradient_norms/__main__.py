"""What gradient norms per rollout cost, and how well the cheap ones stand for the exact ones.

The floor is the update on the same rollouts, measured in the same run: `python -m benchmarks gradient_norms`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from benchmarks.environment import environment
from trainer_client.config import ModelConfig
from trainer_client.learner.gradient_norms import Method, PolicyGradientNorms
from trainer_client.learner.lora import add_lora
from trainer_client.learner.policy import Policy, UpdateSettings
from trainer_client.learner.samples import Sample
from trainer_client.models.load import load_model
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.transformers_engine import TransformersEngine

METHODS: tuple[Method, ...] = ("last_layer", "exact")


def rolled_out(policy: Policy, tokenizer: object, prompts: int, group: int, tokens: int) -> list[Sample]:
    """Groups on sums, with advantages of both signs."""
    engine = TransformersEngine(policy.model, tokenizer)
    asked = [
        RolloutRequest(f"p{place}", tuple(tokenizer(f"6*2=12\n7+{place}=")["input_ids"]), group)  # type: ignore[operator]
        for place in range(prompts)
    ]
    groups = engine.generate(asked, SamplingParams(max_tokens=tokens), seed=1)
    return [
        Sample(one.prompt_id, one.prompt_token_ids, c.token_ids, c.log_probs, (-1.0) ** place)
        for one in groups
        for place, c in enumerate(one.completions)
    ]


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of `repeats`, after one that is not counted."""
    work()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def measure(model_name: str, prompts: int, group: int, tokens: int, repeats: int) -> dict[str, object]:
    """Seconds of an update and of each kind of norm; rank correlation of the cheap one with the exact one."""
    model, tokenizer = load_model(ModelConfig(path=model_name))
    policy = Policy(add_lora(model, seed=1), UpdateSettings(learning_rate=1e-4))
    samples = rolled_out(policy, tokenizer, prompts, group, tokens)
    # A first update: adapters that start at zero have gradients in one of their two factors only.
    policy.update(samples)
    floor = seconds(lambda: policy.update(samples), repeats)
    result: dict[str, object] = {
        "model": model_name,
        "rollouts": len(samples),
        "completion_tokens": sum(len(s.completion_token_ids) for s in samples),
        "update_seconds": round(floor, 3),
    }
    norms = {}
    for method in METHODS:
        measurer = PolicyGradientNorms(policy, method)
        spent = seconds(lambda measurer=measurer: measurer.measure(samples), repeats)  # type: ignore[misc]
        norms[method] = measurer.measure(samples)
        result[method] = {"seconds": round(spent, 3), "of_an_update": round(spent / floor, 2)}
    result["rank_correlation"] = round(float(spearmanr(norms["last_layer"], norms["exact"]).statistic), 3)
    lengths = [len(s.completion_token_ids) for s in samples]
    result["rank_correlation_of_length"] = round(float(spearmanr(lengths, norms["exact"]).statistic), 3)
    result["spread_of_exact"] = round(float(np.std(norms["exact"]) / np.mean(norms["exact"])), 3)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks gradient_norms", description=__doc__)
    parser.add_argument("--models", default="tiny,smollm2")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="Writes the figures there.")
    options = parser.parse_args()
    rows = [
        measure(name, options.prompts, options.group, options.tokens, options.repeats)
        for name in options.models.split(",")
    ]
    for row in rows:
        print(json.dumps(row))
    if options.json:
        options.json.write_text(json.dumps({"environment": environment(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
