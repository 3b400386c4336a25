"""Labels by k-means: computed outside the fold, entered as events, for prompts without a label of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.curriculum.clustering import clustering_events, clustering_id, is_due
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

CENTRES = np.array([[8.0, 0.0, 0.0], [0.0, 8.0, 0.0], [0.0, 0.0, 8.0]])


def points(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return CENTRES[np.arange(count) % 3] + 0.1 * generator.standard_normal((count, 3))


def embed(run: Run, vectors: np.ndarray, labels: list[str] | None = None) -> None:
    start = run.state.table.size
    ids = [b"p%d" % i for i in range(start, start + len(vectors))]
    event = log_pb2.PromptsAdded(
        ids=b"".join(ids),
        id_lengths=to_bytes(np.array([len(id_) for id_ in ids]), "u2"),
        embeddings=to_bytes(vectors.ravel(), "f2"),
        embedding_dim=3,
    )
    if labels is not None:
        names = sorted(set(labels) - {""})
        event.cluster_names.extend(names)
        event.clusters = to_bytes(np.array([names.index(x) if x else -1 for x in labels]), "i4")
    run.send(prompts_added=event)


def clustered(k: int = 3, prompts: int = 90, **overrides: Any) -> Run:
    run = Run("uniform-grpo", {"cluster_source": {"k_means": {"k": k}}, **overrides})
    embed(run, points(prompts))
    label(run)
    return run


def label(run: Run) -> None:
    name = clustering_id(run.state)
    for number, event in enumerate(list(clustering_events(run.state))):
        run.send(f"{name}/{number}", b"k-means", clusters_assigned=event)


def test_prompts_that_are_close_share_a_cluster() -> None:
    run = clustered()
    labels = run.state.table.column("clusters").reshape(-1, 3)
    assert (labels == labels[0]).all()
    assert len(set(labels[0].tolist())) == 3
    assert run.state.cluster_names == ["k-means-0", "k-means-1", "k-means-2"]
    assert run.state.cluster_sums[0].tolist() == [30, 30, 30]
    assert not is_due(run.state)


def test_fifteen_clusters_are_the_default() -> None:
    strategy = resolve("uniform-grpo", {"cluster_source": "k_means"})
    assert strategy.cluster_source.k == 15


def test_labels_that_prompts_came_with_stay() -> None:
    run = Run("uniform-grpo", {"cluster_source": {"k_means": {"k": 3}}})
    embed(run, points(30), ["given" if i < 10 else "" for i in range(30)])
    label(run)
    names = [run.state.cluster_names[i] for i in run.state.table.column("clusters")]
    assert names[:10] == ["given"] * 10
    assert set(names[10:]) == {"k-means-0", "k-means-1", "k-means-2"}
    assert run.state.cluster_sums[0].sum() == 30


def test_prompts_added_later_join_the_cluster_that_is_nearest() -> None:
    run = clustered()
    centres = run.state.clustering_memory["centres"].copy()
    embed(run, points(30, seed=1))
    assert is_due(run.state)
    label(run)
    labels = run.state.table.column("clusters").reshape(-1, 3)
    assert (labels == labels[0]).all()
    np.testing.assert_array_equal(run.state.clustering_memory["centres"], centres)


def test_a_pool_that_has_grown_is_fitted_anew_and_clusters_stay_what_they_were() -> None:
    run = clustered()
    before = run.state.table.column("clusters").copy()
    embed(run, points(300, seed=2))
    label(run)
    assert run.state.clustering_memory["fitted"].tolist() == [390]
    np.testing.assert_array_equal(run.state.table.column("clusters")[:90], before)


def test_a_prompt_without_an_embedding_stays_without_a_label() -> None:
    run = Run("uniform-grpo", {"cluster_source": {"k_means": {"k": 3}}})
    vectors = points(30)
    vectors[4] = 0.0
    embed(run, vectors)
    label(run)
    assert run.state.table.column("clusters")[4] == -1
    assert (np.delete(run.state.table.column("clusters"), 4) >= 0).all()


def test_more_clusters_than_prompts_are_as_many_as_prompts() -> None:
    run = clustered(k=15, prompts=4)
    assert sorted(run.state.table.column("clusters").tolist()) == [0, 1, 2, 3]


def test_the_result_of_a_second_replica_changes_nothing() -> None:
    run = Run("uniform-grpo", {"cluster_source": {"k_means": {"k": 3}}})
    embed(run, points(30))
    name, events = clustering_id(run.state), list(clustering_events(run.state))
    run.send(f"{name}/0", b"k-means", clusters_assigned=events[0])
    labels = run.state.table.column("clusters").copy()
    other = log_pb2.ClustersAssigned()
    other.CopyFrom(events[0])
    other.clusters = to_bytes(np.zeros(30), "u2")
    run.send(f"{name}/0", b"k-means", clusters_assigned=other)
    np.testing.assert_array_equal(run.state.table.column("clusters"), labels)


@pytest.mark.parametrize("change", ["epoch", "strategy", "rows", "centres"])
def test_labels_made_for_another_state_are_refused(change: str) -> None:
    run = Run("uniform-grpo", {"cluster_source": {"k_means": {"k": 3}}})
    embed(run, points(30))
    event = next(iter(clustering_events(run.state)))
    if change == "epoch":
        event.epoch = 7
    elif change == "rows":
        event.first_row = 25
    elif change == "centres":
        event.centres = event.centres[:-4]
    else:
        run.send(
            strategy_updated=log_pb2.StrategyUpdated(strategy_json=resolve("uniform-grpo", {}).to_json())
        )
    assert run.send(clusters_assigned=event).HasField("refusal")
    assert (run.state.table.column("clusters") == -1).all()


def test_replicas_agree_and_snapshots_hold_it() -> None:
    run = clustered(clusters="thompson")
    for version in range(6):
        run.step(np.full(90, 0.5), 9, 72, version)
        run.advance(version + 1)
    assert run.state.digest() == run.replayed().state.digest()
    assert CurriculumState.restore(run.state.export()).digest() == run.state.digest()


def test_nothing_is_due_without_embeddings_or_with_given_labels() -> None:
    run = Run("uniform-grpo", {"cluster_source": "k_means"})
    run.add(10)
    assert not is_due(run.state)
    assert "works from embeddings" in " ".join(run.planner.plan(2).notes)
    run = Run()
    embed(run, points(9))
    assert not is_due(run.state)


@pytest.mark.parametrize("k", [0, 1, 5000])
def test_a_number_of_clusters_that_makes_no_sense_is_refused(k: int) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve("uniform-grpo", {"cluster_source": {"k_means": {"k": k}}})
    assert refusal.value.field == "strategy.cluster_source.k_means.k"


@pytest.mark.parametrize("proposal", ["uniform", {"thompson": {"objective": "variance"}}, "learnability"])
def test_cluster_shares_hold_for_proposals_that_weigh_and_for_those_that_score(proposal: object) -> None:
    run = clustered(proposal=proposal, clusters={"minimax": {"floor": 0.3}}, exploration=0.0)
    plan = run.planner.plan(30)
    assert np.bincount(run.state.table.clusters[plan.rows]).tolist() == [10, 10, 10]
    assert len(set(plan.rows.tolist())) == 30


def test_of_each_cluster_the_best_by_score_are_taken() -> None:
    run = clustered(proposal="learnability", clusters="minimax", exploration=0.0)
    for row in range(90):
        run.report("", [row], [[1.0, 0.0] if row < 30 else [1.0, 1.0]])
    assert sorted(run.planner.plan(30).rows.tolist()) == list(range(30))
