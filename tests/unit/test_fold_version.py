"""A release folds what it knows, and stops where a newer one wrote."""

from __future__ import annotations

import json

import pytest

from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import from_json_array, to_json_array
from sampler_service.curriculum.checkpoints import adopt_checkpoint
from sampler_service.curriculum.errors import Unavailable
from sampler_service.curriculum.fold_version import FOLD_VERSION, known_version, require_foldable
from sampler_service.curriculum.machine import create_state
from sampler_service.curriculum.state import CurriculumState
from sampler_service.curriculum.strategy import resolve
from tests.curriculum_runs import Run

STRATEGY = resolve("uniform-grpo", {}).to_json()
NEWER = FOLD_VERSION + 1


def of_another_release() -> log_pb2.Event:
    """An event of a kind that is not in our proto: field 99 of the message."""
    return log_pb2.Event.FromString(b"\x0a\x07request\x9a\x06\x02ab")


def strategy_of_another_release() -> str:
    return json.dumps({**json.loads(STRATEGY), "proposal": {"telepathy": {}}})


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (of_another_release(), "a kind of event"),
        (
            log_pb2.Event(
                curriculum_created=log_pb2.CurriculumCreated(strategy_json=STRATEGY, fold_version=NEWER)
            ),
            f"version {NEWER}",
        ),
        (
            log_pb2.Event(
                strategy_updated=log_pb2.StrategyUpdated(strategy_json=STRATEGY, fold_version=NEWER)
            ),
            f"version {NEWER}",
        ),
        (
            log_pb2.Event(
                strategy_updated=log_pb2.StrategyUpdated(strategy_json=strategy_of_another_release())
            ),
            "telepathy",
        ),
    ],
)
def test_what_a_newer_release_wrote_is_not_folded(event: log_pb2.Event, why: str) -> None:
    with pytest.raises(Unavailable, match=why) as raised:
        require_foldable(event)
    assert raised.value.reason == "NEEDS_NEWER_RELEASE"


def test_a_log_that_a_newer_release_began_is_not_folded() -> None:
    created = log_pb2.CurriculumCreated(curriculum_id="c", strategy_json=STRATEGY, fold_version=NEWER)
    with pytest.raises(Unavailable, match=f"version {NEWER}"):
        create_state(log_pb2.Event(curriculum_created=created), "1-0", 1000)


def test_a_snapshot_of_a_newer_release_is_not_loaded() -> None:
    arrays = Run().state.export()
    arrays["state.meta"] = to_json_array({**from_json_array(arrays["state.meta"]), "fold_version": NEWER})
    with pytest.raises(Unavailable, match="newer"):
        CurriculumState.restore(arrays)


def test_what_was_written_before_there_were_versions_is_version_1() -> None:
    run = Run()
    assert run.log[0].curriculum_created.fold_version == 0
    assert run.state.fold_version == 1
    arrays = run.state.export()
    meta = from_json_array(arrays["state.meta"])
    del meta["fold_version"]
    assert CurriculumState.restore({**arrays, "state.meta": to_json_array(meta)}).fold_version == 1
    assert known_version(0) == 1


def test_a_new_strategy_raises_the_version_and_never_lowers_it() -> None:
    """The machine itself folds whatever version; it is asked only after `require_foldable`."""
    run = Run()
    for version, in_force in ((NEWER, NEWER), (0, NEWER), (1, NEWER)):
        run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=STRATEGY, fold_version=version))
        assert run.state.fold_version == in_force


def test_going_back_to_a_checkpoint_does_not_go_back_to_an_older_arithmetic() -> None:
    run = Run()
    kept = CurriculumState.restore(run.state.export())
    run.send(strategy_updated=log_pb2.StrategyUpdated(strategy_json=STRATEGY, fold_version=NEWER))
    assert adopt_checkpoint(kept, run.state).fold_version == NEWER
