"""Rolling out ahead of training, with a tiny model and a copy of it that samples."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainer_fakes import FakeCurriculum
from tests.unit.test_trainer_loop import digit_pool, make_trainer, says_a_digit, tiny_config
from trainer_client.assembly import build_learner
from trainer_client.client import RolloutStatus
from trainer_client.config import parse_config
from trainer_client.learner.policy import Policy
from trainer_client.rollouts.transformers_engine import TransformersEngine
from trainer_client.stopping import StopRequest
from trainer_client.trainer_errors import ConfigError

pytestmark = [pytest.mark.torch, pytest.mark.timeout(120)]


def weights(model: Any) -> np.ndarray:
    return np.concatenate([p.detach().numpy().ravel() for p in model.parameters()])


@pytest.mark.parametrize("ahead", [1, 3])
@pytest.mark.parametrize("lora", [{}, None])
def test_no_batch_is_sampled_from_a_policy_older_than_the_lookahead(
    tmp_path: Path, ahead: int, lora: dict[str, Any] | None
) -> None:
    config = tiny_config(tmp_path, steps=6, rollouts={"lookahead": ahead}, lora=lora, checkpoint={"every": 0})
    trainer, service, reporter, _ = make_trainer(config)
    sampled_by: list[tuple[int, float]] = []
    roll_out = trainer.source.roll_out

    def recording(step: int, version: int, replays: int = 0) -> Any:
        # The copy that samples is at the version the batch says it is.
        sampled_by.append((version, float(np.abs(weights(trainer.engine.model)).sum())))  # type: ignore[attr-defined]
        return roll_out(step, version, replays)

    trainer.source.roll_out = recording  # type: ignore[method-assign]
    published = {0: float(np.abs(weights(trainer.policy.model)).sum())}
    publish = trainer.feed.publish

    def noting(version: int, folder: Path | None) -> None:
        published[version] = float(np.abs(weights(trainer.policy.model)).sum())
        publish(version, folder)

    trainer.feed.publish = noting  # type: ignore[method-assign]
    result = trainer.run()

    assert result.steps == 6
    staleness = [metrics["rollouts/staleness"] for metrics in result.history]
    assert all(0 <= old <= ahead for old in staleness)
    assert staleness[1] >= 1
    assert [version for version, _ in service.advances] == [1, 2, 3, 4, 5, 6]
    for version, magnitude in sampled_by:
        assert magnitude == pytest.approx(published[version], rel=1e-6)
    assert len({magnitude for _, magnitude in sampled_by}) > 1
    assert result.history[-1]["learner/importance_mean"] == pytest.approx(1, abs=0.5)
    assert not (tmp_path / "tiny" / "published").exists()
    assert reporter.notes == []


def test_the_next_batch_is_rolled_out_while_this_one_is_trained_on(tmp_path: Path) -> None:
    trainer, _, _, learner = make_trainer(tiny_config(tmp_path, steps=3, rollouts={"lookahead": 1}))
    trainer.held_out = []
    begun = {step: threading.Event() for step in range(3)}
    roll_out, update = trainer.source.roll_out, learner.policy.update
    overlapped = []

    def begin(step: int, version: int, replays: int = 0) -> Any:
        begun[step].set()
        return roll_out(step, version, replays)

    def updating(samples: Any) -> Any:
        # Would wait for ever if the batch were only begun afterwards.
        overlapped.append(trainer.step == 2 or begun[trainer.step + 1].wait(60))
        return update(samples)

    trainer.source.roll_out = begin  # type: ignore[method-assign]
    learner.policy.update = updating  # type: ignore[method-assign]
    trainer.run()
    assert overlapped == [True, True, True]


def test_rollouts_that_end_too_late_are_reported_as_stale_and_not_trained_on(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path, steps=3, rollouts={"lookahead": 1, "max_staleness": 0}, evaluation={"every": 0}
    )
    pool = digit_pool()
    service = FakeCurriculum([prompt.prompt_id for prompt in pool.train])
    trainer, _, _, learner = make_trainer(config, service, pool)
    trainer.held_out = []
    trained = threading.Event()
    update, generate, report = learner.policy.update, trainer.engine.generate, service.report
    trained_on: list[int] = []
    statuses: list[set[RolloutStatus]] = []

    def updating(samples: Any) -> Any:
        trained_on.append(len(samples))
        return update(samples)

    def slow(*arguments: Any) -> Any:
        # The second batch is under way until the first one has been trained on.
        if len(trained_on) > 0 or statuses:
            assert trained.wait(60)
        return generate(*arguments)

    def reporting(batch: Any, prompt_ids: Any = None, **columns: Any) -> Any:
        statuses.append({status for group in columns["statuses"] for status in group})
        return report(batch, prompt_ids, **columns)

    advance = service.advance_policy

    def advancing(*arguments: Any, **options: Any) -> Any:
        trained.set()
        return advance(*arguments, **options)

    learner.policy.update = updating  # type: ignore[method-assign]
    trainer.engine.generate = slow  # type: ignore[method-assign]
    service.report = reporting  # type: ignore[method-assign]
    service.advance_policy = advancing  # type: ignore[method-assign]
    result = trainer.run()

    assert RolloutStatus.STALE not in statuses[0]
    assert statuses[1] == {RolloutStatus.STALE}
    assert trained_on[0] > 0
    assert trained_on[1] == 0
    assert [metrics["rollouts/stale_share"] for metrics in result.history][:2] == [0, 1]


def test_what_goes_wrong_while_rolling_out_ends_the_run_and_releases_the_lease(tmp_path: Path) -> None:
    trainer, service, _, _ = make_trainer(tiny_config(tmp_path, rollouts={"lookahead": 1}))
    trainer.held_out = []
    generate = trainer.engine.generate
    calls = []

    def breaking(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return generate(*arguments)

    trainer.engine.generate = breaking  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert service.released == ["lease-1"]
    assert trainer.step == 1


def test_a_stop_ends_the_batch_under_way_and_releases_it(tmp_path: Path) -> None:
    others = set(threading.enumerate())
    stop = StopRequest()

    def stopping(completion: str, answer: str) -> float:
        stop.requested = stop.requested or trainer.step == 1
        return says_a_digit(completion, answer) > 2

    pool = digit_pool(verifier=stopping)
    service = FakeCurriculum([p.prompt_id for p in pool.train], max_rounds=2)
    config = tiny_config(tmp_path, steps=50, rollouts={"lookahead": 2})
    trainer, _, _, _ = make_trainer(config, service, pool, stop)
    trainer.held_out = []
    result = trainer.run()
    assert result.interrupted
    assert 1 <= result.steps <= 4
    assert len(service.released) == 1
    assert not any(thread.name == "rollouts" for thread in set(threading.enumerate()) - others)
    assert trainer.checkpoints.steps() == [result.steps]


def test_an_error_of_the_learner_ends_the_thread_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = set(threading.enumerate())

    def broken(self: Policy, samples: Any) -> Any:
        raise ArithmeticError("no")

    monkeypatch.setattr(Policy, "update", broken)
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path, rollouts={"lookahead": 2}))
    with pytest.raises(ArithmeticError):
        trainer.run()
    assert not any(thread.name == "rollouts" for thread in set(threading.enumerate()) - others)


def test_a_run_with_lookahead_resumes_and_samples_from_the_kept_policy(tmp_path: Path) -> None:
    first, service, _, _ = make_trainer(tiny_config(tmp_path, steps=2, rollouts={"lookahead": 1}))
    first.run()
    config = tiny_config(tmp_path, steps=4, rollouts={"lookahead": 1})
    second, _, _, learner = make_trainer(config, service, first_step=2)
    assert second.resume() == 2
    kept = weights(learner.policy.model)
    seen = []
    roll_out = second.source.roll_out
    second.source.roll_out = lambda step, version, replays=0: (  # type: ignore[method-assign]
        seen.append((version, weights(second.engine.model))) or roll_out(step, version, replays)  # type: ignore
    )
    assert second.run().steps == 4
    assert seen[0][0] == 2
    np.testing.assert_array_equal(seen[0][1], kept)


def test_a_tiny_model_learns_from_rollouts_of_the_policy_before(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        steps=30,
        lora=None,
        curriculum={"batch_size": 8},
        rollouts={"lookahead": 1},
        evaluation={"every": 0},
        checkpoint={"every": 0},
    )
    trainer, _, _, _ = make_trainer(config)
    history = trainer.run().history
    assert np.mean([metrics["reward/mean"] for metrics in history[:3]]) < 0.4
    assert np.mean([metrics["reward/mean"] for metrics in history[-3:]]) > 0.8


def test_an_engine_that_never_rests_cannot_sleep() -> None:
    with pytest.raises(ConfigError, match="never rests"):
        parse_config(
            {"tasks": [{"type": "arithmetic"}], "rollouts": {"engine": "vllm", "lookahead": 1, "sleep": True}}
        )


@pytest.mark.parametrize("lora", [True, False])
def test_what_samples_ahead_shares_all_weights_that_are_not_trained(tmp_path: Path, lora: bool) -> None:
    changes: dict[str, Any] = {} if lora else {"lora": None}
    learner = build_learner(tiny_config(tmp_path, rollouts={"lookahead": 1}, **changes))
    engine = learner.engine
    assert isinstance(engine, TransformersEngine)

    trained = {parameter.data_ptr() for parameter in learner.policy.parameters}
    all_weights = {parameter.data_ptr() for parameter in learner.policy.model.parameters()}
    sampling = {parameter.data_ptr() for parameter in engine.model.parameters()}
    assert sampling & all_weights == all_weights - trained
    assert bool(all_weights - trained) is lora

    before = [parameter.clone() for parameter in engine.model.parameters()]
    with torch.no_grad():
        for parameter in learner.policy.parameters:
            parameter.add_(1.0)
    for old, new in zip(before, engine.model.parameters(), strict=True):
        torch.testing.assert_close(old, new, rtol=0, atol=0)
