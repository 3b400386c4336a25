"""What cannot work is refused when the strategy is set, with the field and the remedy; what only a request or
a pool can show is answered as well as it can be, with a note."""

from __future__ import annotations

import numpy as np
import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_bytes, to_bytes
from sampler_service.curriculum.combinations import check_pool, missing_columns
from sampler_service.curriculum.errors import FailedPrecondition, InvalidArgument
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.strategy import Strategy, resolve
from tests.curriculum_runs import Run


@pytest.mark.parametrize(
    ("preset", "overrides", "field", "remedy"),
    [
        ("cures", {"equal_quotas": True}, "strategy.quota", "Use the quota fixed"),
        (
            "reinforce-ada-balance",
            {"equal_quotas": True},
            "strategy.stopping",
            "Use one_shot, zero_variance or variance_floor",
        ),
        ("cures", {"rollouts_per_prompt": 1}, "strategy.rollouts_per_prompt", "outside [2, 32]"),
        ("cures", {"rollouts_per_prompt": 33}, "strategy.rollouts_per_prompt", "Change one of them"),
        ("frontier", {"estimator": {"decay": "policy_kl"}}, "strategy.estimator.decay", "Use decay none"),
        (
            "dots",
            {"predictor": "cluster", "estimator": {"shared_evidence": "attention"}},
            "strategy.predictor",
            "Give one of them",
        ),
    ],
)
def test_parts_that_contradict_one_another_are_refused(
    preset: str, overrides: dict[str, object], field: str, remedy: str
) -> None:
    with pytest.raises(InvalidArgument, match="strategy") as refusal:
        resolve(preset, overrides)
    assert refusal.value.reason == "IMPOSSIBLE_COMBINATION"
    assert refusal.value.field == field
    assert remedy in refusal.value.message


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"proposal": {"thompson": {"target": 1.5}}}, "strategy.proposal.thompson.target"),
        ({"proposal": {"dots": {"target": -0.1}}}, "strategy.proposal.dots.target"),
        ({"stopping": {"balanced": {"keep": 64, "max": 32}}}, "strategy.stopping.balanced"),
        (
            {"stopping": {"positives": {"wanted": 9, "round": 2, "max_rounds": 4}}},
            "strategy.stopping.positives",
        ),
        ({"stopping": {"pilot": {"pilot": 4, "low": 0.3, "high": 0.45}}}, "strategy.stopping.pilot"),
        ({"clusters": {"thompson": {"prior": [0, 1]}}}, "strategy.clusters.thompson.prior"),
        (
            {"estimator": {"shared_evidence": {"attention": {"references": 8, "minimum": 9}}}},
            "strategy.estimator.shared_evidence.attention",
        ),
        ({"predictor": "magic"}, "strategy.predictor"),
        ({"equal_quotas": "perhaps"}, "strategy.equal_quotas"),
    ],
)
def test_a_part_that_can_never_do_its_work_is_refused(overrides: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve("uniform-grpo", overrides)
    assert refusal.value.field == field


def test_a_log_that_holds_such_a_combination_still_folds() -> None:
    contradictory = resolve("cures", {}).dump() | {"equal_quotas": True}
    assert validated_from(contradictory).equal_quotas


def validated_from(values: dict[str, object]) -> Strategy:
    import json

    return Strategy.from_json(json.dumps(values))


@pytest.mark.parametrize("preset", ["uniform-grpo", "frontier"])
def test_a_predictor_is_the_shared_evidence(preset: str) -> None:
    strategy = resolve(preset, {"predictor": {"attention": {"strength": 3}}})
    assert strategy == resolve(preset, {"estimator": {"shared_evidence": {"attention": {"strength": 3}}}})
    # Both, and agreeing, is what a client sends that edits an answer.
    assert strategy == resolve(
        preset,
        {
            "predictor": {"attention": {"strength": 3}},
            "estimator": {"shared_evidence": {"attention": {"strength": 3}}},
        },
    )


@pytest.mark.parametrize("off", [None, {}, "none"])
def test_clusters_can_be_switched_off_over_a_preset(off: object) -> None:
    assert resolve("doremi", {"clusters": off}).clusters is None


# -- the pool --------------------------------------------------------------------

NEEDING = {
    "dots": "strategy.estimator.shared_evidence",
    "bots": "strategy.estimator.shared_evidence",
    "depo": "strategy.estimator.shared_evidence",
    "hard-examples": "strategy.proposal",
    "doremi": "strategy.clusters",
}


@pytest.mark.parametrize("preset", list(PRESETS))
def test_a_strategy_that_finds_nothing_in_the_pool_is_refused(preset: str) -> None:
    run = Run()
    check_pool(resolve(preset, {}), run.state)  # Nobody knows yet.
    run.add(10)
    if preset not in NEEDING:
        check_pool(resolve(preset, {}), run.state)
        return
    with pytest.raises(FailedPrecondition, match="no prompt has any") as refusal:
        check_pool(resolve(preset, {}), run.state)
    assert refusal.value.reason == "MISSING_COLUMNS"
    assert refusal.value.field == NEEDING[preset]
    assert "AddPrompts" in refusal.value.message


@pytest.mark.parametrize("preset", list(NEEDING))
def test_a_pool_that_turns_out_to_lack_what_a_method_needs_is_served_with_a_note(preset: str) -> None:
    run = Run(preset)
    run.add(10)
    notes = run.planner.plan(4).notes
    assert any(NEEDING[preset] in note and "it has no effect" in note for note in notes)


def test_nothing_is_missing_in_a_pool_that_has_everything() -> None:
    run = Run()
    ids = [b"a", b"b"]
    run.send(
        prompts_added=log_pb2.PromptsAdded(
            ids=b"".join(ids),
            id_lengths=to_bytes(np.array([1, 1]), "u2"),
            cluster_names=["x"],
            clusters=to_bytes(np.zeros(2), "i4"),
            reference_pass_rates=to_bytes(np.full(2, 0.5), "f4"),
            anchor_pass_rates=to_bytes(np.full(4, 0.5), "f4"),
            embeddings=to_bytes(np.ones(6), "f2"),
            embedding_dim=3,
        )
    )
    for preset in PRESETS:
        assert missing_columns(resolve(preset, {}), run.state) == []


# -- equal quotas ------------------------------------------------------------------


@pytest.mark.parametrize("preset", list(PRESETS))
def test_equal_quotas_hold_to_the_end_under_every_preset(preset: str) -> None:
    """Whatever the rule would have asked for later: one round, equal groups, the budget kept."""
    run = Run(preset)
    run.add(200)
    plan = run.planner.plan(8, 8 * 64, equal_quotas=True)
    assert len(set(plan.quotas.tolist())) == 1
    assert plan.quotas.sum() == plan.budget <= 8 * 64
    run.grant(plan, "L")
    rewards = [[1.0, *[0.0] * (int(n) - 1)] for n in plan.quotas]
    outcome = run.report("L", list(range(len(plan.rows))), rewards).rollouts_reported
    assert 2 not in from_bytes(outcome.actions, "u1")
    assert run.state.in_flight == 0


def test_what_equal_quotas_overrule_is_said() -> None:
    run = Run("gvm")
    run.add(50)
    assert "quota gvm is overruled" in run.planner.plan(8, 64, equal_quotas=True).notes[-1]
    run = Run("reinforce-ada-balance")
    run.add(50)
    assert "stopping rule balanced is overruled" in run.planner.plan(8, 64, equal_quotas=True).notes[-1]


def test_a_strategy_for_a_trainer_with_equal_groups_needs_no_word_in_the_request() -> None:
    run = Run("uniform-grpo", {"equal_quotas": True})
    run.add(50)
    plan = run.planner.plan(8, 70)
    assert plan.quotas.tolist() == [8] * 8
    assert "6 of the budget unspent" in plan.notes[0]


def test_pilots_without_a_budget_for_commitments_are_trained_on() -> None:
    run = Run("pilot-commit", {"stopping": {"pilot": {"pilot": 8, "commit": 8, "candidates": 1}}})
    run.add(20)
    plan = run.planner.plan(2, 16)
    run.grant(plan, "L")
    outcome = run.report("L", [0, 1], [[1.0, *[0.0] * 7], [0.0] * 8]).rollouts_reported
    assert from_bytes(outcome.actions, "u1").tolist() == [1, 3]
