"""A log that was recorded once, and what it came to under every preset: no release may fold it otherwise.

`python -m tests.recorded_log` records both anew. That is right when a preset was added or given other parts, or
when the log is to hold more; a change of arithmetic is not a reason, but a case for a new fold version
(`sampler_service/curriculum/fold_version.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.machine import CurriculumMachine, create_state
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

FOLDER: Final = Path(__file__).parent / "recorded"
PROMPTS, STEPS = 48, 14


def record() -> list[bytes]:
    """A run of some steps: groups of all kinds, an advance per step, a late report, a batch given back."""
    run = Run("uniform-grpo", seed=7)
    rng = np.random.default_rng(7)
    ids = [b"p%d" % i for i in range(PROMPTS)]
    anchors = np.sort(rng.random((PROMPTS, 2)), axis=1)
    run.send(
        prompts_added=log_pb2.PromptsAdded(
            ids=b"".join(ids),
            id_lengths=to_bytes(np.array([len(id_) for id_ in ids]), "u2"),
            cluster_names=[f"cluster-{i}" for i in range(4)],
            clusters=to_bytes(np.arange(PROMPTS) % 4, "i4"),
            reference_pass_rates=to_bytes(rng.random(PROMPTS), "f4"),
            anchor_pass_rates=to_bytes(anchors, "f4"),
            embeddings=to_bytes(rng.normal(size=(PROMPTS, 4)), "f2"),
            embedding_dim=4,
        )
    )
    ability = rng.normal(size=PROMPTS)
    for step in range(STEPS):
        lease_id = f"lease-{step}"
        plan = run.planner.plan(8, 64)
        run.grant(plan, lease_id, policy_version=step)
        rates = 1.0 / (1.0 + np.exp(-(ability[plan.rows] + 0.2 * step)))
        rewards = [
            (rng.random(n) < p).astype(float).tolist() for n, p in zip(plan.quotas, rates, strict=True)
        ]
        if step == 3:
            run.send(batch_released=log_pb2.BatchReleased(lease_id=lease_id))
        elif step == 5:
            run.send(leases_expired=log_pb2.LeasesExpired(lease_ids=[lease_id]))
        half = len(rewards) // 2
        norms = [rng.gamma(2.0, size=len(group)).tolist() for group in rewards]
        statuses = [rng.choice([1, 1, 1, 1, 2, 3], size=len(group)).tolist() for group in rewards]
        run.report(lease_id, list(range(half)), rewards[:half], step, norms=norms[:half])
        run.report(lease_id, list(range(half, 8)), rewards[half:], step, statuses=statuses[half:])
        run.advance(step + 1, **({"kl": 0.01 * step} if step % 2 else {}), start_iteration=step == 9)
    return [event.SerializeToString() for event in run.log]


def read() -> list[log_pb2.Event]:
    """The recorded events, in order."""
    with np.load(FOLDER / "log.npz") as stored:
        events, lengths = stored["events"].tobytes(), stored["lengths"]
    ends = np.cumsum(lengths).tolist()
    return [log_pb2.Event.FromString(events[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def fold(events: list[log_pb2.Event], preset: str) -> dict[str, NDArray[Any]]:
    """What the log comes to when it is created with `preset`: evidence, counts, and all answers to reports."""
    first = log_pb2.Event()
    first.CopyFrom(events[0])
    first.curriculum_created.strategy_json = resolve(preset, {}).to_json()
    machine = CurriculumMachine(create_state(first, "1-0", 1000))
    answers: dict[str, list[NDArray[Any]]] = {
        name: [] for name in ("actions", "rollouts", "baselines", "advantage_weights")
    }
    dtypes = {"actions": "u1", "rollouts": "i4", "baselines": "f4", "advantage_weights": "f4"}
    for number, event in enumerate(events[1:], 2):
        outcome = machine.apply(event, f"{number}-0", 10_000 * number)
        for name, listed in answers.items():
            listed.append(from_bytes(getattr(outcome.rollouts_reported, name), dtypes[name]))
    state = machine.state
    alphas, betas = state.posterior(slice(None))
    return {
        "alphas": alphas[:PROMPTS],
        "betas": betas[:PROMPTS],
        "ema_means": np.array(state.table.column("ema_means")[:PROMPTS]),
        "visits": np.array(state.table.column("visits")[:PROMPTS]),
        "rollouts_counted": np.array(state.table.column("rollouts")[:PROMPTS]),
        **{name: np.concatenate(listed) for name, listed in answers.items()},
    }


def main() -> None:
    """Records log and results."""
    payloads = record()
    lengths = np.array([len(payload) for payload in payloads])
    events = np.frombuffer(b"".join(payloads), dtype=np.uint8)
    np.savez_compressed(FOLDER / "log.npz", events=events, lengths=lengths)
    results = {
        f"{preset}/{name}": array for preset in PRESETS for name, array in fold(read(), preset).items()
    }
    np.savez_compressed(FOLDER / "fold_version_1.npz", **results)


if __name__ == "__main__":
    main()
