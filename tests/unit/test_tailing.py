"""When a replica counts as lagging, and when no longer."""

from __future__ import annotations

from sampler_service.replica.tailing import Lag


def test_a_replica_lags_beyond_the_limit_and_until_it_is_well_below_it() -> None:
    lag = Lag(most_seconds=10.0)
    verdicts = []
    for seconds in (0.0, 9.9, 10.1, 30.0, 9.0, 5.1, 5.0, 9.0, 10.1):
        lag.observe([("math", seconds)])
        verdicts.append(lag.behind)
    assert verdicts == [False, False, True, True, True, True, False, False, True]


def test_only_a_change_of_the_verdict_is_news() -> None:
    lag = Lag(most_seconds=1.0)
    assert [lag.observe([("math", seconds)]) for seconds in (0.5, 2.0, 3.0, 0.1, 0.1)] == [
        False,
        True,
        False,
        True,
        False,
    ]


def test_the_worst_curriculum_decides_and_is_named() -> None:
    lag = Lag(most_seconds=1.0)
    lag.observe([("code", 0.2), ("math", 4.0), ("logic", 1.5)])
    assert "'math'" in lag.detail
    assert "4.0 s" in lag.detail
    lag.observe([("code", 0.2), ("logic", 0.3)])
    assert lag.detail == ""


def test_a_replica_that_holds_nothing_does_not_lag() -> None:
    lag = Lag(most_seconds=1.0)
    lag.observe([("math", 4.0)])
    lag.observe([])
    assert not lag.behind
