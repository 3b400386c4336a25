"""A strategy is a composition that validates itself."""

from __future__ import annotations

import pytest

from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.presets import DEFAULT_PRESET, PRESETS
from sampler_service.curriculum.proposals.cures import Cures
from sampler_service.curriculum.quotas.fixed import FixedQuota
from sampler_service.curriculum.strategy import Strategy, resolve


def test_an_empty_preset_is_the_default() -> None:
    assert resolve("", {}) == resolve(DEFAULT_PRESET, {})


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_resolves_and_survives_json(preset: str) -> None:
    strategy = resolve(preset, {})
    assert Strategy.from_json(strategy.to_json()) == strategy
    assert Strategy.from_json(strategy.to_json()).etag == strategy.etag


def test_a_part_in_the_overrides_replaces_the_presets_part_whole() -> None:
    strategy = resolve("cures", {"proposal": {"cures": {"temperature": 0.5}}, "quota": "fixed"})
    assert isinstance(strategy.proposal, Cures)
    assert strategy.proposal.temperature == 0.5
    assert isinstance(strategy.quota, FixedQuota)


def test_estimator_fields_are_replaced_one_by_one() -> None:
    strategy = resolve("cures", {"estimator": {"prior": [2, 3]}})
    assert strategy.estimator.prior == (2.0, 3.0)
    assert strategy.estimator.decay.resets_on_iteration


def test_the_etag_changes_with_any_parameter() -> None:
    assert resolve("cures", {}).etag != resolve("cures", {"proposal": {"cures": {"temperature": 0.2}}}).etag
    assert resolve("cures", {}).etag == resolve("cures", {}).etag


def test_the_dump_spells_out_every_parameter() -> None:
    dump = resolve("uniform-grpo", {}).dump()
    assert dump["proposal"] == {"uniform": {}}
    assert dump["quota"] == {"fixed": {"min": 1, "max": 4096}}
    assert dump["estimator"]["decay"] == {"none": {}}
    assert dump["estimator"]["prior"] == [1.0, 1.0]
    assert dump["exploration"] == 0.0


@pytest.mark.parametrize(
    ("overrides", "field"),
    [
        ({"exploration": 1.5}, "strategy.exploration"),
        ({"exploration": float("nan")}, "strategy.exploration"),
        ({"rollouts_per_prompt": 0}, "strategy.rollouts_per_prompt"),
        ({"lease_seconds": -1}, "strategy.lease_seconds"),
        ({"max_staleness": -1}, "strategy.max_staleness"),
        ({"budget": 3}, "strategy.budget"),
        ({"proposal": {"cures": {"temperature": 0}}}, "strategy.proposal.cures.temperature"),
        ({"proposal": "magic"}, "strategy.proposal"),
        ({"quota": {"fixed": {"min": 9, "max": 8}}}, "strategy.quota.fixed"),
        ({"stopping": {"balanced": {"keep": 99}}}, "strategy.stopping.balanced"),
        ({"estimator": {"prior": [0, 1]}}, "strategy.estimator.prior"),
        ({"estimator": {"prior": [1]}}, "strategy.estimator.prior.1"),
        ({"estimator": {"ema_rate": 0}}, "strategy.estimator.ema_rate"),
        ({"estimator": {"decay": "slow"}}, "strategy.estimator.decay"),
        (
            {"estimator": {"decay": {"per_visit": {"factor": 2}}}},
            "strategy.estimator.decay.per_visit.factor",
        ),
        (
            {"estimator": {"shared_evidence": {"cluster": {"strength": 0}}}},
            "strategy.estimator.shared_evidence.cluster.strength",
        ),
        ({"estimator": {"half_life": 1}}, "strategy.estimator.half_life"),
    ],
)
def test_a_bad_parameter_names_its_field(overrides: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve("cures", overrides)
    assert refusal.value.field == field
    # The message can be acted on: it names the field too.
    assert field in refusal.value.message


@pytest.mark.parametrize(
    ("preset", "overrides", "meant"),
    [
        ("fronteir", {}, "frontier"),
        ("", {"proposal": "thomson"}, "thompson"),
        ("", {"proposal": {"cures": {"temprature": 0.1}}}, "temperature"),
        ("", {"exploraton": 0.1}, "exploration"),
    ],
)
def test_a_misspelt_name_is_answered_with_the_one_that_was_meant(
    preset: str, overrides: dict[str, object], meant: str
) -> None:
    with pytest.raises(InvalidArgument, match=f"Did you mean '{meant}'"):
        resolve(preset, overrides)


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgument) as refusal:
        resolve("curse", {})
    assert refusal.value.field == "strategy.preset"
    assert "uniform-grpo" in refusal.value.message
