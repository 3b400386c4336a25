import pytest

from sampler_service.log.backoff import Backoff
from sampler_service.log.errors import LogUnavailableError


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backoff(clock: Clock) -> Backoff:
    return Backoff(shortest_seconds=0.1, longest_seconds=2.0, probe_seconds=3.0, clock=clock)


def test_everyone_is_let_through_while_the_server_answers(backoff: Backoff):
    for _ in range(5):
        backoff.admit()
    assert backoff.available
    assert backoff.retry_after_seconds == 0.0


def test_after_a_failure_callers_are_refused_at_once_and_told_when_to_come_back(backoff: Backoff):
    backoff.failed("no route")
    with pytest.raises(LogUnavailableError, match="no route") as refusal:
        backoff.admit()
    assert 0.1 <= refusal.value.retry_after_seconds <= 0.125 + 1e-9


def test_after_the_pause_one_caller_tries_and_the_others_wait_for_its_news(backoff: Backoff, clock: Clock):
    backoff.failed("gone")
    clock.now += 1.0
    backoff.admit()
    with pytest.raises(LogUnavailableError):
        backoff.admit()
    backoff.succeeded()
    backoff.admit()
    backoff.admit()


def test_a_caller_that_tried_and_was_cancelled_does_not_block_the_others_for_ever(
    backoff: Backoff, clock: Clock
):
    backoff.failed("gone")
    clock.now += 1.0
    backoff.admit()
    clock.now += 3.1
    backoff.admit()


def test_pauses_double_up_to_the_longest_and_calls_that_fail_together_count_once(
    backoff: Backoff, clock: Clock
):
    pauses = []
    for _ in range(8):
        for _ in range(10):
            backoff.failed("gone")
        pauses.append(backoff.retry_after_seconds)
        clock.now += pauses[-1] + 0.01
    for expected, pause in zip([0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0], pauses, strict=True):
        assert 0.75 * expected - 1e-6 <= pause <= 1.25 * expected + 1e-6
