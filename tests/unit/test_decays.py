"""How evidence ages."""

from __future__ import annotations

import numpy as np
import pytest

from sampler_service.curriculum.decays import DECAYS, VisitTimes
from sampler_service.curriculum.decays.forget_all import ForgetAll, forget_all_step
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.views import Moment


def times(last: list[int], step: int, movement: list[float] | None = None) -> VisitTimes:
    track = None if movement is None else np.array(movement)
    return VisitTimes(np.array(last, dtype=np.uint32), Moment(policy_step=step, movement=track))


@pytest.mark.parametrize("name", ["none", "iteration_reset"])
def test_nothing_ages_within_an_iteration(name: str) -> None:
    decay = DECAYS.parse(name, "decay")
    assert decay.at_visit(times([0, 3], 9)) == 1.0
    assert decay.on_read(times([0, 3], 9)) == 1.0


def test_only_iteration_reset_resets() -> None:
    assert [name for name in DECAYS if DECAYS[name].resets_on_iteration] == ["iteration_reset"]


def test_per_visit_ages_at_visits_and_not_on_reading() -> None:
    decay = DECAYS.parse({"per_visit": {"factor": 0.5}}, "decay")
    assert decay.at_visit(times([0], 100)) == 0.5
    assert decay.on_read(times([0], 100)) == 1.0


@pytest.mark.parametrize(("distance", "factor"), [(0.0, 0.96), (0.01, 0.890899), (0.06, 0.875), (5.0, 0.875)])
def test_policy_kl_check_values(distance: float, factor: float) -> None:
    decay = DECAYS.parse("policy_kl", "decay")
    factors = decay.at_visit(times([1], 2, [0.0, 0.3, 0.3 + distance]))
    assert np.asarray(factors) == pytest.approx([factor], abs=1e-6)


def test_policy_kl_without_any_reported_movement_forgets_least() -> None:
    assert np.asarray(DECAYS.parse("policy_kl", "decay").at_visit(times([3], 9))) == pytest.approx([0.96])


def test_two_scale_read_late_equals_two_scale_decayed_every_step() -> None:
    decay = DECAYS.parse({"two_scale": {"visit_factor": 0.8, "step_factor": 0.99}}, "decay")
    eager = lazy = 5.0
    last, visited = 0, {0, 3, 4, 11}
    for step in range(1, 20):
        if step in visited:
            lazy = lazy * float(np.asarray(decay.at_visit(times([last], step)))[0]) + 1.0
            eager = eager * 0.8 + 1.0
            last = step
        else:
            eager *= 0.99
        # A step is over, and counts as idle, once the policy has advanced past it.
        read = lazy * float(np.asarray(decay.on_read(times([last], step + 1)))[0])
        assert read == pytest.approx(eager, abs=1e-6)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"per_visit": {"factor": 0}}, "decay.per_visit.factor"),
        ({"per_visit": {"factor": 1.5}}, "decay.per_visit.factor"),
        ({"per_visit": {"lambda": 0.5}}, "decay.per_visit.lambda"),
        ({"policy_kl": {"half_life": -1}}, "decay.policy_kl.half_life"),
        ({"policy_kl": {"least": 0.99}}, "decay.policy_kl"),
        ({"two_scale": {"visit_factor": 0.99, "step_factor": 0.9}}, "decay.two_scale"),
        ("quick", "decay"),
    ],
)
def test_a_bad_parameter_names_its_field(part: object, field: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        DECAYS.parse(part, "decay")
    assert refusal.value.field == field


def test_forget_all_read_late_equals_the_eager_rule_of_bots() -> None:
    decay = ForgetAll()
    eager = lazy = np.zeros(1)
    last, visits = 0, {2: (8, 3), 3: (8, 5), 9: (4, 4), 10: (16, 1)}
    for step in range(1, 16):
        if step in visits:
            n, k = visits[step]
            factor = decay.at_visit(times([last], step))
            lazy = factor * lazy + decay.outcome_weights(np.array([n])) * k
            eager = forget_all_step(eager, float(k), k / n * 16.0, 0.1, 0.1)
            last = step
        else:
            eager = forget_all_step(eager, 0.0, 0.0, 0.1, 0.1)
        assert lazy * decay.on_read(times([last], step + 1)) == pytest.approx(eager, abs=1e-6)


def test_implicit_evidence_of_forget_all_builds_up_to_sixteen_rollouts() -> None:
    evidence = np.zeros(1)
    for _ in range(300):
        evidence = forget_all_step(evidence, 0.0, 0.25 * 16.0, 0.1, 0.1)
    assert evidence == pytest.approx([4.0])
