"""Every preset trains a simulated policy through the real service: no error, and never over budget."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from sampler_service.curriculum.presets import PRESETS
from tests.service_process import ServiceProcess, service_process
from trainer_client.client import Action, CurriculumClient, Source

PROMPTS, BATCH, BUDGET = 400, 16, 128


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A service of its own, on an embedded log."""
    folder: Path = tmp_path_factory.mktemp("presets")
    with service_process("--data-dir", str(folder / "data"), log=folder / "log") as running:
        yield running


def train(client: CurriculumClient, preset: str, steps: int) -> int:
    """Steps of a policy whose pass rates rise on what it trains on; rollouts spent."""
    rng = np.random.default_rng(7)
    logits = rng.normal(-0.5, 2.0, PROMPTS)
    known = np.clip(1 / (1 + np.exp(-logits)) + rng.normal(0, 0.1, PROMPTS), 0, 1)
    client.create_curriculum(preset, preset)
    client.add_prompts(
        preset,
        [f"p{i}" for i in range(PROMPTS)],
        clusters=[f"cluster-{i % 5}" for i in range(PROMPTS)],
        reference_pass_rates=known.tolist(),
        anchor_pass_rates=np.stack([known * 0.5, np.sqrt(known)], axis=1),
        embeddings=rng.normal(size=(PROMPTS, 8)).astype(np.float32),
    )
    total = 0
    for step in range(steps):
        batch = client.next_batch(preset, batch_size=BATCH, rollout_budget=BUDGET, policy_version=step)
        spent = 0
        pending = dict(zip(batch.prompt_ids, batch.quotas.tolist(), strict=True))
        while pending:
            spent += sum(pending.values())
            rewards = []
            for id_, n in pending.items():
                rate = 1 / (1 + np.exp(-logits[int(id_[1:])]))
                rewards.append((rng.random(n) < rate).astype(float).tolist())
            result = client.report(batch, list(pending), rewards=rewards)
            assert not result.rejected
            pending = {d.prompt_id: d.rollouts for d in result.directives.with_action(Action.SAMPLE_MORE)}
        assert 0 < spent <= BUDGET, f"step {step}"
        total += spent
        trained = [int(id_[1:]) for id_ in batch.prompt_ids]
        logits[trained] += 0.05
        client.advance_policy(preset, step + 1, kl=0.01, start_iteration=step % 20 == 19)
    return total


@pytest.mark.parametrize("preset", PRESETS)
def test_two_hundred_steps_of_every_preset(process: ServiceProcess, preset: str) -> None:
    with CurriculumClient(process.target) as client:
        total = train(client, preset, 200)
        summary = client.summary(preset)
    assert summary.rollouts_spent == total
    assert summary.prompts_in_flight == 0
    assert summary.groups > 0


def test_an_iteration_begins_with_a_cold_start_in_ordinary_batches(process: ServiceProcess) -> None:
    iterations = {"subsets": 4, "steps": 3, "least_prompts": 20}
    with CurriculumClient(process.target) as client:
        client.create_curriculum("iterating", {"preset": "cures", "iterations": iterations})
        client.add_prompts("iterating", [f"p{i}" for i in range(200)])
        served: dict[int, set[str]] = {}
        for step in range(30):
            iteration = client.get_curriculum("iterating").iteration
            batch = client.next_batch(
                "iterating", batch_size=BATCH, rollout_budget=BUDGET, policy_version=step
            )
            cold = batch.sources == Source.COLD_START
            if cold.any():
                assert set(batch.quotas.tolist()) == {4}
                assert "Cold start" in batch.notes[0]
                fresh = {id_ for id_, marked in zip(batch.prompt_ids, cold, strict=True) if marked}
                assert not fresh & served.setdefault(iteration, set())
                served[iteration] |= fresh
            client.report(batch, rewards=[[float(i % 2) for i in range(n)] for n in batch.quotas])
            client.advance_policy("iterating", step + 1)
        whole = client.create_curriculum("whole", {"preset": "cures", "iterations": {}})
        assert not whole.strategy.iterations.fields
        client.add_prompts("whole", [f"p{i}" for i in range(200)])
        first = client.next_batch("whole", batch_size=BATCH, rollout_budget=BUDGET)
    assert len(served) >= 3
    subsets = list(served.values())[:3]
    assert all(30 < len(subset) < 70 for subset in subsets)
    assert not set.intersection(*subsets[:2])
    assert Source.COLD_START not in first.sources


def test_dapo_refills_its_batch_within_the_lease_and_the_budget(process: ServiceProcess) -> None:
    rng = np.random.default_rng(3)
    with CurriculumClient(process.target) as client:
        client.create_curriculum("refilled", "dapo")
        client.add_prompts("refilled", [f"p{i}" for i in range(300)])
        for step in range(10):
            batch = client.next_batch("refilled", batch_size=8, rollout_budget=400, policy_version=step)
            assert (batch.quotas > 0).sum() == 8
            spent, mixed = 0, 0
            pending = {id_: int(n) for id_, n in zip(batch.prompt_ids, batch.quotas, strict=True) if n}
            while pending:
                # A third of the prompts can be learnt from.
                rewards = [
                    (rng.random(n) < (0.5 if int(id_[1:]) % 3 == 0 else 0.0)).astype(float).tolist()
                    for id_, n in pending.items()
                ]
                spent += sum(pending.values())
                answer = client.report(batch, list(pending), rewards=rewards)
                mixed += len(answer.directives.with_action(Action.DONE))
                pending = {d.prompt_id: d.rollouts for d in answer.directives.with_action(Action.SAMPLE_MORE)}
            assert mixed == 8 or spent > 400 - 8
            assert spent <= 400
        assert client.summary("refilled").prompts_in_flight == 0


def test_an_unsolved_prompt_is_continued_in_the_next_batch(process: ServiceProcess) -> None:
    strategy = {"preset": "uniform-grpo", "stopping": {"requeue": {"probability": 0.99, "max_rounds": 1}}}
    with CurriculumClient(process.target) as client:
        client.create_curriculum("requeued", strategy)
        client.add_prompts("requeued", [f"p{i}" for i in range(100)])
        first = client.next_batch("requeued", batch_size=8, rollout_budget=64)
        client.report(first, rewards=[[0.0] * 8] * 8)
        second = client.next_batch("requeued", batch_size=8, rollout_budget=64)
    continued = {
        id_ for id_, s in zip(second.prompt_ids, second.sources, strict=True) if s == Source.CONTINUATION
    }
    assert 2 <= len(continued) <= 4
    assert continued <= set(first.prompt_ids)


def test_a_reference_set_is_served_as_ordinary_batches(process: ServiceProcess) -> None:
    attention = {"references": 24, "refresh_steps": 4, "minimum": 8}
    with CurriculumClient(process.target) as client:
        client.create_curriculum("referred", {"preset": "dots", "predictor": {"attention": attention}})
        client.add_prompts(
            "referred",
            [f"p{i}" for i in range(200)],
            embeddings=np.random.default_rng(1).normal(size=(200, 4)).astype(np.float32),
        )
        marked = []
        for step in range(12):
            batch = client.next_batch("referred", batch_size=12, rollout_budget=96, policy_version=step)
            marked.append(int((batch.sources == Source.REFERENCE).sum()))
            client.report(batch, rewards=[[float(i % 2) for i in range(n)] for n in batch.quotas])
            client.advance_policy("referred", step + 1)
    assert marked == [0, 12, 12, 0, 0, 12, 12, 0, 0, 12, 12, 0]


def test_prompts_without_labels_are_clustered_by_their_embeddings(process: ServiceProcess) -> None:
    strategy = {"preset": "uniform-grpo", "clusters": "thompson", "cluster_source": {"k_means": {"k": 4}}}
    vectors = np.repeat(np.eye(4, dtype=np.float32), 50, axis=0)
    with CurriculumClient(process.target) as client:
        client.create_curriculum("clustered", {**strategy, "clusters": {"thompson": {}}})
        client.add_prompts("clustered", [f"p{i}" for i in range(200)], embeddings=vectors)
        deadline = time.monotonic() + 120
        while len(clusters := client.summary("clustered").clusters) < 4:
            assert time.monotonic() < deadline, "nobody labels the prompts"
            time.sleep(0.2)
        assert [(c.cluster, c.prompts) for c in clusters] == [(f"k-means-{i}", 50) for i in range(4)]
        for step in range(20):
            batch = client.next_batch("clustered", batch_size=16, rollout_budget=128, policy_version=step)
            client.report(batch, rewards=[[float(i % 2) for i in range(n)] for n in batch.quotas])


def test_labels_joined_from_columns_are_clusters(process: ServiceProcess) -> None:
    with CurriculumClient(process.target) as client:
        client.create_curriculum("joined", "doremi")
        client.add_prompts(
            "joined",
            [f"p{i}" for i in range(12)],
            clusters={"type": ["algebra", "geometry"] * 6, "level": [1, 1, 2] * 4},
        )
        clusters = client.summary("joined").clusters
    assert {c.cluster for c in clusters} == {"algebra_1", "algebra_2", "geometry_1", "geometry_2"}
