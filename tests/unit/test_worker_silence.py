"""When a silent worker is held to hang."""

from __future__ import annotations

from sampler_service.workers.heartbeat import Silence


def looks_until_guilty(silence: Silence) -> int:
    looks = 1
    while not silence.looked():
        looks += 1
    return looks


def test_a_worker_that_says_nothing_for_the_longest_silence_hangs() -> None:
    silence = Silence(60.0)
    silence.broken()
    assert looks_until_guilty(silence) * silence.look_seconds == 66.0


def test_any_sign_begins_the_silence_anew() -> None:
    silence = Silence(60.0)
    for _ in range(1000):
        silence.broken()
        assert not any(silence.looked() for _ in range(10))


def test_a_worker_that_starts_is_given_time_to() -> None:
    silence = Silence(10.0, start_seconds=120.0)
    assert looks_until_guilty(silence) * silence.look_seconds == 131.0


def test_a_parent_that_was_stopped_itself_holds_nobody_guilty() -> None:
    """However much time has gone by meanwhile, it has looked once."""
    silence = Silence(60.0)
    silence.broken()
    assert not silence.looked()
