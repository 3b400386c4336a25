"""Evidence shared between prompts: none, and the cluster's."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.shared_evidence import SHARED_EVIDENCE
from sampler_service.curriculum.shared_evidence.base import Memory
from sampler_service.curriculum.views import Moment
from tests.prompt_views import counts_of, table_of

MOMENT = Moment()


def test_none_adds_nothing() -> None:
    shared = SHARED_EVIDENCE.parse("none", "shared_evidence")
    assert shared.pseudo_counts(table_of(3), np.arange(3), {}) == (0.0, 0.0)
    assert not shared.changes_other_rows


def test_a_cluster_speaks_for_its_unseen_prompts_and_for_no_others() -> None:
    table = table_of(4)
    table.clusters[:4] = [0, 0, 1, -1]
    shared = SHARED_EVIDENCE.parse({"cluster": {"strength": 4}}, "shared_evidence")
    memory: Memory = {}
    shared.observe(table, np.array([0]), counts_of([12], [3]), memory, MOMENT)
    successes, failures = shared.pseudo_counts(table, np.arange(4), memory)
    # s·n/(n + s) = 4·12/16 = 3 pseudo-rollouts at pass rate 1/4.
    np.testing.assert_allclose(successes, [0.75, 0.75, 0, 0])
    np.testing.assert_allclose(failures, [2.25, 2.25, 0, 0])


def test_a_cluster_never_counts_more_than_its_strength() -> None:
    table = table_of(1)
    table.clusters[0] = 0
    shared = SHARED_EVIDENCE.parse({"cluster": {"strength": 4}}, "shared_evidence")
    memory: Memory = {}
    shared.observe(table, np.array([0]), counts_of([4000], [1000]), memory, MOMENT)
    successes, failures = shared.pseudo_counts(table, np.arange(1), memory)
    assert float(np.asarray(successes + failures)[0]) == pytest.approx(4, rel=2e-3)


def test_a_clusters_counts_are_discounted_when_the_policy_advances() -> None:
    table = table_of(2)
    table.clusters[:2] = [1, 0]
    shared = SHARED_EVIDENCE.parse({"cluster": {"factor": 0.5}}, "shared_evidence")
    memory: Memory = {}
    shared.observe(table, np.array([0]), counts_of([8], [8]), memory, MOMENT)
    shared.advance(table, memory, MOMENT)
    np.testing.assert_allclose(memory["successes"], [0, 4])
    # A cluster that appears later makes room for itself.
    table.clusters[1] = 3
    shared.observe(table, np.array([1]), counts_of([2], [1]), memory, MOMENT)
    np.testing.assert_allclose(memory["successes"], [0, 4, 0, 1])
