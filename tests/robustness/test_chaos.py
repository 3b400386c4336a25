"""Real processes, killed, stopped and cut off by a schedule from a seed: every promise is kept."""

from __future__ import annotations

import pytest

from tests.chaos.run import LEAST_ACKNOWLEDGED, run
from tests.chaos.schedule import schedule


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_promises_are_kept_while_real_processes_are_killed_stopped_and_cut_off(seed: int) -> None:
    figures = run(seed, seconds=60.0, trainers=4)
    assert figures.acknowledged >= LEAST_ACKNOWLEDGED
    assert figures.trainer_starts > 4, "no trainer was killed"
    assert figures.host_starts > 2, "no host was"


def test_a_seed_is_one_schedule_with_every_kind_of_fault() -> None:
    assert schedule(7, 60.0, 4) == schedule(7, 60.0, 4) != schedule(8, 60.0, 4)
    assert len({action.what for action in schedule(7, 1.0, 4)}) == 11
    times = [action.at_seconds for action in schedule(7, 60.0, 4)]
    assert times == sorted(times)
    assert times[0] >= 0
    assert times[-1] <= 60
