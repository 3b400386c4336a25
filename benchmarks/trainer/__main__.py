"""`python -m benchmarks.trainer`: seconds per step by phase, tokens/s, the service's share, padding."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# Before transformers is imported: the models lie on this disk.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

from benchmarks.environment import environment
from benchmarks.trainer.padding import padding
from benchmarks.trainer.runs import PHASES, Case, measure
from examples.service_process import ServiceProcess

BASELINE = Path(__file__).with_name("baseline.json")
CASES = {
    case.name: case
    for case in (
        Case("tiny-8", "tiny", batch_size=8, steps=12),
        Case("tiny-512", "tiny", batch_size=512, steps=4),
        Case("smollm2-8", "smollm2", batch_size=8, steps=6),
        Case("smollm2-8-vllm", "smollm2", batch_size=8, steps=6, engine="vllm"),
    )
}
# A step of a 7B model on one node of GPUs, for the projection; a minute is short.
LARGE_STEP_SECONDS = 60.0


def main() -> None:
    options = _arguments()
    figures: dict[str, Any] = {"environment": environment(), "cases": {}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with ServiceProcess(folder / "data", folder) as service:
            for case in (CASES[name] for name in options.cases.split(",")):
                found = measure(case, service.target, folder, options.threads)
                figures["cases"][case.name] = found
                _print(case, found)
    figures["padding"] = padding()
    print(f"padding: {figures['padding']}")
    figures["service_at_512_prompts"] = _projection(figures["cases"])
    print(f"service at 512 prompts: {figures['service_at_512_prompts']}")
    text = json.dumps(figures, indent=2) + "\n"
    if options.output:
        options.output.write_text(text)
    if options.save_baseline:
        BASELINE.write_text(text)


def _print(case: Case, found: dict[str, Any]) -> None:
    parts = "  ".join(
        f"{phase} {found['seconds'][phase]:.3f} s ({found['shares'][phase]:.1%})" for phase in PHASES
    )
    print(
        f"{case.name}: {found['seconds_per_step']:.2f} s/step, {found['rollouts_per_step']:.0f} rollouts, "
        f"{found['generated_tokens_per_second']:.0f} tok/s while generating, "
        f"{found['tokens_per_second_of_a_step']:.0f} over the step\n    {parts}",
        flush=True,
    )


def _projection(cases: dict[str, Any]) -> dict[str, Any]:
    """The service's seconds at 512 prompts are measured; the models' steps of that size are not."""
    if "tiny-512" not in cases:
        return {}
    at_512 = cases["tiny-512"]
    service = at_512["seconds"]["service"]
    found = {
        "service_seconds": service,
        f"share_of_a_step_of_{LARGE_STEP_SECONDS:.0f}_seconds": round(service / LARGE_STEP_SECONDS, 6),
    }
    if "smollm2-8" in cases:
        step = cases["smollm2-8"]["seconds_per_rollout"] * at_512["rollouts_per_step"]
        found["projected_smollm2_seconds_per_step"] = round(step, 1)
        found["projected_smollm2_share"] = round(service / step, 6)
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    # vLLM wants an environment of its own (make test-vllm makes one).
    here = [case.name for case in CASES.values() if case.engine != "vllm" or find_spec("vllm")]
    parser.add_argument("--cases", default=",".join(here), help=f"comma-separated, of {', '.join(CASES)}")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its choice")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--save-baseline", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
