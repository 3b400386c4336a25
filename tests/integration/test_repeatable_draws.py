"""A caller that gives a seed and goes back to a checkpoint gets the batches again that it had, whoever draws them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.presets import PRESETS
from sampler_service.log import LogClient
from sampler_service.replica import ReplicaHost, ReplicaSettings
from tests.replica_calls import create, next_batch, report_of
from tests.service_process import ServiceProcess, service_process
from trainer_client.client import Action, CurriculumClient
from trainer_client.exceptions import InvalidArgumentError

PROMPTS, BATCH, BUDGET = 300, 12, 96
# Rules and shares that no preset has, each with chance of its own.
COMPOSED: dict[str, dict[str, Any]] = {
    "requeue": {
        "preset": "uniform-grpo",
        "stopping": {"requeue": {"probability": 0.5, "max_rounds": 1}},
    },
    "cluster-shares": {"preset": "cures", "clusters": {"thompson": {}}},
    "subsets": {"preset": "cures", "iterations": {"subsets": 3, "steps": 2, "least_prompts": 20}},
}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("repeatable")
    with service_process("--data-dir", str(folder / "data"), log=folder / "log") as running:
        yield running


def fill(client: CurriculumClient, name: str) -> None:
    rng = np.random.default_rng(7)
    known = rng.random(PROMPTS)
    client.add_prompts(
        name,
        [f"p{i}" for i in range(PROMPTS)],
        clusters=[f"cluster-{i % 5}" for i in range(PROMPTS)],
        reference_pass_rates=known.tolist(),
        anchor_pass_rates=np.stack([known * 0.5, np.sqrt(known)], axis=1),
        embeddings=rng.normal(size=(PROMPTS, 8)).astype(np.float32),
    )


def verdicts(prompt_id: str, step: int, round_: int, count: int) -> list[float]:
    """What a repeatable trainer would find: the same rollouts of the same prompt at the same step."""
    rng = np.random.default_rng([zlib.crc32(prompt_id.encode()), step, round_])
    return (rng.random(count) < rng.random()).astype(float).tolist()


def play(client: CurriculumClient, name: str, steps: range) -> list[Any]:
    """Steps of a trainer; everything that the service told it."""
    told: list[Any] = []
    for step in steps:
        batch = client.next_batch(
            name, batch_size=BATCH, rollout_budget=BUDGET, policy_version=step, seed=1000 + step
        )
        columns = (batch.quotas, batch.pass_rates, batch.baselines, batch.probabilities, batch.sources)
        told.append((batch.prompt_ids, [column.tolist() for column in columns], batch.notes))
        pending = {id_: int(n) for id_, n in zip(batch.prompt_ids, batch.quotas, strict=True) if n}
        round_ = 0
        while pending:
            rewards = [verdicts(id_, step, round_, n) for id_, n in pending.items()]
            answer = client.report(batch, list(pending), rewards=rewards)
            told.append([(d.prompt_id, d.action, d.rollouts, d.keep_positives) for d in answer.directives])
            pending = {d.prompt_id: d.rollouts for d in answer.directives.with_action(Action.SAMPLE_MORE)}
            round_ += 1
        client.release(batch)
        client.advance_policy(name, step + 1, kl=0.01)
    return told


@pytest.mark.parametrize("name", [*PRESETS, *COMPOSED])
def test_steps_after_a_checkpoint_are_repeated_to_the_bit(process: ServiceProcess, name: str) -> None:
    with CurriculumClient(process.target) as client:
        client.create_curriculum(name, COMPOSED.get(name, name))
        fill(client, name)
        play(client, name, range(3))
        client.create_checkpoint(name, "three")
        uninterrupted = play(client, name, range(3, 7))
        client.restore_checkpoint(name, "three")
        assert play(client, name, range(3, 7)) == uninterrupted


def test_another_seed_draws_other_prompts(process: ServiceProcess) -> None:
    with CurriculumClient(process.target) as client:
        client.create_curriculum("seeds", "frontier")
        fill(client, "seeds")
        drawn = []
        for seed in (1, 2, 1, 2**64 - 1):
            batch = client.next_batch("seeds", batch_size=BATCH, seed=seed)
            drawn.append(batch.prompt_ids)
            client.release(batch)
    assert len({tuple(ids) for ids in drawn}) >= 3


def test_a_seed_is_part_of_the_request(process: ServiceProcess) -> None:
    with CurriculumClient(process.target) as client:
        client.create_curriculum("same", "frontier")
        fill(client, "same")
        first = client.next_batch("same", batch_size=BATCH, seed=1, request_id="one")
        again = client.next_batch("same", batch_size=BATCH, seed=1, request_id="one")
        assert again.duplicate
        assert again.prompt_ids == first.prompt_ids
        with pytest.raises(InvalidArgumentError, match="request_id"):
            client.next_batch("same", batch_size=BATCH, seed=2, request_id="one")


async def test_any_replica_draws_the_same_batch_from_the_same_state(log_client: LogClient) -> None:
    """One that weighs its pool in threads and has drawn ahead, and one that has drawn nothing yet."""
    settings = [ReplicaSettings(tick_seconds=3600, background_refresh_prompts=n) for n in (10, 10**6)]
    first, second = (ReplicaHost(log_client, one, seed=place) for place, one in enumerate(settings))
    await create(first, "frontier", 200)
    for step in range(3):
        batch = await next_batch(first, f"warm-{step}")
        await first.report_rollouts(report_of(batch, f"report-{step}", float(step % 2)))
    await first.create_checkpoint(
        pb.CreateCheckpointRequest(curriculum_id="math", request_id="keep", checkpoint_id="kept")
    )
    drawn = []
    for place, host in enumerate((first, second)):
        restored = await host.restore_checkpoint(
            pb.RestoreCheckpointRequest(
                curriculum_id="math", request_id=f"back-{place}", checkpoint_id="kept"
            )
        )
        batch = await next_batch(host, f"seeded-{place}", seed=5, min_revision=restored.revision)
        drawn.append((list(batch.prompt_ids), list(batch.quotas), list(batch.probabilities)))
    assert drawn[0] == drawn[1]


async def test_seeded_draws_at_once_get_different_prompts_and_others_keep_theirs(
    log_client: LogClient,
) -> None:
    host = ReplicaHost(log_client, ReplicaSettings(tick_seconds=3600), seed=1)
    await create(host, "frontier", 40)
    calls = [next_batch(host, f"seeded-{place}", 5, seed=3) for place in range(4)]
    calls += [next_batch(host, f"free-{place}", 5) for place in range(4)]
    batches = await asyncio.gather(*calls)
    assert len({id_ for batch in batches for id_ in batch.prompt_ids}) == 40
