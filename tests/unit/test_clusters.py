"""How a batch is shared among clusters: check values."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.clusters import CLUSTERS, ClusterGroups
from sampler_service.curriculum.clusters.base import Memory
from sampler_service.curriculum.clusters.minimax import MinimaxClusters, minimax_step
from sampler_service.curriculum.clusters.thompson import ThompsonClusters
from sampler_service.curriculum.clusters.ucb import UcbClusters, ucb_shares
from sampler_service.curriculum.predictors.kmeans import k_means
from sampler_service.curriculum.views import Moment
from tests.prompt_views import floats

MOMENT = Moment()


def groups(clusters: list[int], positives: list[int], rollouts: int = 8) -> ClusterGroups:
    return ClusterGroups(np.array(clusters), np.array(positives), np.full(len(clusters), rollouts))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_minimax_check_value() -> None:
    stepped = minimax_step(np.full(3, 1 / 3), floats([0, 0.5, 1]), 1.0, 1e-3)
    np.testing.assert_allclose(stepped, [0.186471, 0.307222, 0.506307], atol=1e-6)


def test_ucb_check_value() -> None:
    shares = ucb_shares(floats([0.2, 0.6, 0.4]), floats([100, 300, 50]), 0.1)
    np.testing.assert_allclose(shares, [0.022673, 0.286444, 0.690883], atol=1e-6)


def test_thompson_counts_every_group_once_and_discounts_per_step() -> None:
    arm, memory = ThompsonClusters(factor=0.5), Memory()
    arm.observe(groups([0, 0, 2, -1], [3, 8, 0, 4]), 3, memory, MOMENT)
    assert memory["mixed"].tolist() == [1, 0, 0]
    assert memory["unmixed"].tolist() == [1, 0, 1]
    arm.advance(3, memory, MOMENT)
    assert memory["mixed"].tolist() == [0.5, 0, 0]


def test_thompson_does_not_collapse_to_few_clusters() -> None:
    """14 clusters, two of them good: unseen ones are tried, bad ones keep their floor."""
    arm, memory, generator = ThompsonClusters(), Memory(), rng(4)
    mixed_odds = np.array([0.9, 0.8] + [0.1] * 12)
    served = np.zeros(14)
    for _ in range(60):
        shares = arm.shares(np.full(14, 100), memory, MOMENT, generator)
        assert shares.sum() == pytest.approx(1)
        assert shares.min() >= 0.1 / 14 - 1e-12
        served += shares
        drawn = generator.choice(14, size=64, p=shares)
        positives = np.where(generator.random(64) < mixed_odds[drawn], 4, 0)
        arm.observe(ClusterGroups(drawn, positives, np.full(64, 8)), 14, memory, MOMENT)
        arm.advance(14, memory, MOMENT)
    assert set(np.argsort(-served)[:2].tolist()) == {0, 1}
    assert (served > 0.5).all()


def test_minimax_moves_weight_to_the_cluster_that_fell_behind_its_best() -> None:
    arm, memory = MinimaxClusters(), Memory()
    arm.observe(groups([0, 1], [4, 6]), 2, memory, MOMENT)
    arm.advance(2, memory, MOMENT)
    np.testing.assert_allclose(memory["weights"], 0.5)
    arm.observe(groups([0, 1], [4, 2]), 2, memory, MOMENT)
    arm.advance(2, memory, MOMENT)
    assert memory["excess"].tolist() == pytest.approx([0.0, 0.05])
    assert memory["weights"][1] > 0.5


def test_minimax_keeps_the_excess_of_an_absent_cluster_and_serves_the_average() -> None:
    arm, memory = MinimaxClusters(momentum=0.0), Memory()
    arm.observe(groups([0, 1], [8, 8]), 2, memory, MOMENT)
    arm.advance(2, memory, MOMENT)
    arm.observe(groups([0, 1], [8, 4]), 2, memory, MOMENT)
    arm.advance(2, memory, MOMENT)
    arm.observe(groups([0], [8]), 2, memory, MOMENT)
    arm.advance(2, memory, MOMENT)
    assert memory["excess"].tolist() == [0.0, 0.5]
    assert memory["average"][1] < memory["weights"][1]
    shares = arm.shares(np.array([5, 5]), memory, MOMENT, rng())
    np.testing.assert_allclose(shares, memory["average"])


def test_minimax_times_variance_keeps_an_impossible_cluster_from_absorbing_the_batch() -> None:
    arm, memory = MinimaxClusters(base="headroom", times_variance=True), Memory()
    for _ in range(5):
        arm.observe(groups([0, 1], [4, 0]), 2, memory, MOMENT)
        arm.advance(2, memory, MOMENT)
    assert arm.shares(np.array([9, 9]), memory, MOMENT, rng())[1] <= 1e-3


def test_ucb_remembers_a_window_of_each_cluster() -> None:
    arm, memory = UcbClusters(window=2), Memory()
    arm.observe(groups([0, 1, 0], [4, 4, 4]), 2, memory, MOMENT)
    arm.observe(groups([0, 0], [0, 0]), 2, memory, MOMENT)
    assert memory["labels"].tolist() == [1, 0, 0]
    assert memory["values"].tolist() == [1.0, 0.0, 0.0]
    assert memory["counts"].tolist() == [4, 1]


@pytest.mark.parametrize("name", list(CLUSTERS))
def test_shares_sum_to_one_and_skip_clusters_without_prompts(name: str) -> None:
    arm, memory = CLUSTERS.parse(name, "clusters"), Memory()
    for _ in range(3):
        shares = arm.shares(np.array([3, 0, 2, 9]), memory, MOMENT, rng())
        assert shares.sum() == pytest.approx(1)
        assert shares[1] == 0
        arm.observe(groups([0, 2, 3], [8, 0, 3]), 4, memory, MOMENT)
        arm.advance(4, memory, MOMENT)
    # A cluster that appears later has a share.
    assert arm.shares(np.array([3, 0, 2, 9, 4]), memory, MOMENT, rng())[4] > 0
    assert arm.shares(np.array([0, 0]), {}, MOMENT, rng()).tolist() == [0, 0]


def test_k_means_finds_well_separated_groups() -> None:
    generator = rng(2)
    centres = 10 * generator.standard_normal((5, 8))
    truth = np.repeat(np.arange(5), 40)
    found, labels = k_means(centres[truth] + 0.1 * generator.standard_normal((200, 8)), 5, rng(3))
    assert len({(a, b) for a, b in zip(truth.tolist(), labels.tolist(), strict=True)}) == 5
    assert found.shape == (5, 8)


def test_k_means_of_fewer_points_than_clusters() -> None:
    found, labels = k_means(np.eye(2), 15, rng())
    assert len(found) == 2
    assert sorted(labels.tolist()) == [0, 1]
