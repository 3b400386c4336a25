"""The whole loop with a tiny random model against a curriculum in the same process."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer_fakes import FakeCurriculum, QuietReporter
from trainer_client.assembly import Learner, build_learner, build_trainer
from trainer_client.client import Action, Batch
from trainer_client.config import TrainConfig, parse_config
from trainer_client.loop import Trainer
from trainer_client.metrics import read_metrics
from trainer_client.stopping import StopRequest
from trainer_client.tasks import Pool, TaskPrompt, VerifierError
from trainer_client.trainer_errors import CheckpointError, DataError, DivergedError

pytestmark = pytest.mark.torch


def says_a_digit(completion: str, answer: str) -> float:
    """A trivial task: the share of characters that are digits."""
    return sum(c.isdigit() for c in completion) / max(len(completion), 1)


def digit_pool(count: int = 12, verifier: Any = says_a_digit) -> Pool:
    prompts = tuple(TaskPrompt(f"p{i}", f"{i}+{i}=", str(2 * i), verifier, "add") for i in range(count))
    return Pool(prompts[: count - 4], prompts[count - 4 :], ("\n",))


def tiny_config(directory: Path, **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "name": "tiny",
        "directory": str(directory),
        "steps": 4,
        "model": {"path": "tiny"},
        "tasks": [{"type": "arithmetic"}],
        "curriculum": {"batch_size": 4},
        "rollouts": {"max_tokens": 4},
        "learner": {"learning_rate": 0.01},
        "evaluation": {"every": 2},
        "checkpoint": {"every": 2},
    }
    for key, value in changes.items():
        both = isinstance(settings.get(key), dict) and isinstance(value, dict)
        settings[key] = {**settings[key], **value} if both else value
    return parse_config(settings)


def make_trainer(
    config: TrainConfig,
    service: FakeCurriculum | None = None,
    pool: Pool | None = None,
    stop: StopRequest | None = None,
    first_step: int = 0,
) -> tuple[Trainer, FakeCurriculum, QuietReporter, Learner]:
    pool = pool or digit_pool()
    service = service or FakeCurriculum([prompt.prompt_id for prompt in pool.train])
    learner = build_learner(config)
    reporter = QuietReporter()
    trainer = build_trainer(
        config, service, learner, pool, reporter, stop or StopRequest(), first_step=first_step
    )
    return trainer, service, reporter, learner


def weights_of(learner: Learner) -> list[np.ndarray]:
    return [parameter.detach().numpy().copy() for parameter in learner.policy.parameters]


def test_a_run_trains_reports_advances_evaluates_and_keeps_checkpoints(tmp_path: Path) -> None:
    trainer, service, reporter, _ = make_trainer(tiny_config(tmp_path))

    result = trainer.run()

    assert result.steps == 4
    assert not result.interrupted
    assert [version for version, _ in service.advances] == [1, 2, 3, 4]
    assert all(kl is not None and kl > 0 for _, kl in service.advances)
    assert [step for step, _ in result.evaluations] == [0, 2, 4]
    assert trainer.checkpoints.steps() == [2, 4]
    assert len(service.checkpoints) == 2
    assert sum(service.state.rollouts.values()) == 4 * 4 * 4
    assert reporter.notes == []
    rows = read_metrics(tmp_path / "tiny" / "metrics.jsonl")
    trained = [row for row in rows if "reward/mean" in row]
    assert [row["step"] for row in trained] == [1, 2, 3, 4]
    assert trained[-1]["rollouts/total"] == 64
    phases = ("seconds/rollout", "seconds/verify", "seconds/service", "seconds/update", "seconds/kl")
    assert all(trained[0][phase] >= 0 for phase in phases)
    assert list((tmp_path / "tiny" / "tensorboard").iterdir())
    # Two groups a step, each with one completion or with a right and a wrong one.
    assert 8 <= (tmp_path / "tiny" / "samples.jsonl").read_text().count("\n") <= 16


def test_a_fresh_run_goes_on_with_the_versions_of_an_earlier_one_under_its_curriculum(tmp_path: Path) -> None:
    versions: list[int] = []

    class Asked(FakeCurriculum):
        def next_batch(self, *arguments: Any, **named: Any) -> Batch:
            versions.append(named["policy_version"])
            return super().next_batch(*arguments, **named)

    pool = digit_pool()
    service = Asked([prompt.prompt_id for prompt in pool.train])
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path, steps=2), service, pool)
    trainer.source.first_version = 7
    trainer.run()
    assert versions == [7, 8]
    assert [version for version, _ in service.advances] == [8, 9]

    again, _, _, _ = make_trainer(tiny_config(tmp_path, steps=3), service, pool, first_step=2)
    assert again.resume() == 2
    again.run()
    assert versions == [7, 8, 9]
    assert service.advances[-1][0] == 10


def test_what_every_batch_notes_is_said_once(tmp_path: Path) -> None:
    class Noting(FakeCurriculum):
        def next_batch(self, *arguments: Any, **named: Any) -> Batch:
            batch = super().next_batch(*arguments, **named)
            notes = [f"exceeds the {named['step']} prompts that are free", "the quota is overruled"]
            return dataclasses.replace(batch, notes=notes)

    pool = digit_pool()
    service = Noting([prompt.prompt_id for prompt in pool.train])
    trainer, _, reporter, _ = make_trainer(tiny_config(tmp_path), service, pool)
    assert trainer.run().steps == 4
    assert reporter.notes == [
        "step 1: exceeds the 0 prompts that are free",
        "step 1: the quota is overruled",
    ]


def test_a_tiny_model_learns_a_trivial_task(tmp_path: Path) -> None:
    config = tiny_config(
        tmp_path,
        steps=30,
        lora=None,
        curriculum={"batch_size": 8},
        evaluation={"every": 0},
        checkpoint={"every": 0},
    )
    trainer, _, _, _ = make_trainer(config)

    history = trainer.run().history

    first = np.mean([metrics["reward/mean"] for metrics in history[:3]])
    last = np.mean([metrics["reward/mean"] for metrics in history[-3:]])
    assert first < 0.4
    assert last > 0.8


def test_a_resumed_run_equals_one_that_was_not_interrupted(tmp_path: Path) -> None:
    straight, _, reporter, whole = make_trainer(tiny_config(tmp_path / "straight"))
    straight.run()

    first, service, _, _ = make_trainer(tiny_config(tmp_path / "halves", steps=2))
    first.run()
    config = tiny_config(tmp_path / "halves")
    second, _, resumed, halves = make_trainer(config, service, first_step=2)
    assert second.resume() == 2
    result = second.run()

    assert result.steps == 4
    for expected, found in zip(weights_of(whole), weights_of(halves), strict=True):
        np.testing.assert_array_equal(expected, found)
    for expected_metrics, found_metrics in zip(reporter.steps[2:], resumed.steps, strict=True):
        for name in ("reward/mean", "learner/loss", "learner/kl", "learner/gradient_norm", "rollouts/total"):
            assert found_metrics[name] == expected_metrics[name], name
    rows = read_metrics(tmp_path / "halves" / "tiny" / "metrics.jsonl")
    assert [row["step"] for row in rows if "reward/mean" in row] == [1, 2, 3, 4]


def test_one_sided_groups_get_more_rounds_when_the_service_says_so(tmp_path: Path) -> None:
    pool = digit_pool(verifier=lambda completion, answer: 0.0)
    service = FakeCurriculum([p.prompt_id for p in pool.train], max_rounds=3)
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path, steps=1), service, pool)

    history = trainer.run().history

    assert history[0]["rollouts/rounds"] == 3
    assert history[0]["rollouts/count"] == 3 * 4 * 4
    assert [len(report) for report in service.reports] == [4, 4, 4]
    assert history[0]["learner/updates"] == 0
    assert service.advances == [(1, 0.0)]


def test_further_rounds_sample_anew(tmp_path: Path) -> None:
    pool = digit_pool(verifier=lambda completion, answer: 0.0)
    service = FakeCurriculum([p.prompt_id for p in pool.train], group_size=8, max_rounds=2)
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path, steps=1), service, pool)
    seen: list[list[tuple[int, ...]]] = []
    generate = trainer.engine.generate

    def recording(*arguments: Any) -> Any:
        groups = generate(*arguments)
        seen.append([completion.token_ids for group in groups for completion in group.completions])
        return groups

    trainer.held_out = []
    trainer.engine.generate = recording  # type: ignore[method-assign]
    trainer.run()

    assert len(seen) == 2
    assert seen[0] != seen[1]


def test_dropped_groups_are_not_trained_on(tmp_path: Path) -> None:
    pool = digit_pool(verifier=lambda completion, answer: 1.0)
    service = FakeCurriculum([p.prompt_id for p in pool.train], drop_one_sided=True)
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path, steps=1), service, pool)

    history = trainer.run().history

    assert history[0]["learner/samples"] == 0
    assert history[0]["rollouts/count"] == 16


def test_a_failing_verifier_is_reported_as_an_error_and_not_as_a_wrong_answer(tmp_path: Path) -> None:
    def fails(completion: str, answer: str) -> float:
        raise VerifierError("out of order")

    service = FakeCurriculum([p.prompt_id for p in digit_pool().train])
    trainer, _, reporter, _ = make_trainer(
        tiny_config(tmp_path, steps=1), service, digit_pool(verifier=fails)
    )

    history = trainer.run().history

    assert history[0]["rollouts/error_share"] == 1.0
    assert sum(service.state.rollouts.values()) == 0
    assert history[0]["learner/samples"] == 0
    (note,) = reporter.notes
    assert "16 of 16 verdicts failed" in note
    assert note.endswith("the first: out of order")


def test_a_stop_between_rounds_releases_the_lease_and_keeps_a_checkpoint(tmp_path: Path) -> None:
    stop = StopRequest()

    def stopping(completion: str, answer: str) -> float:
        stop.requested = trainer.step == 1
        return says_a_digit(completion, answer) > 2

    pool = digit_pool(verifier=stopping)
    service = FakeCurriculum([p.prompt_id for p in pool.train], max_rounds=2)
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path), service, pool, stop)
    trainer.held_out = []

    result = trainer.run()

    assert result.interrupted
    assert result.steps == 1
    assert service.released == ["lease-1"]
    assert trainer.checkpoints.steps() == [1]


def test_sigterm_asks_the_loop_to_stop() -> None:
    with StopRequest() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
        signal.raise_signal(signal.SIGTERM)
    with StopRequest():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_error_while_sampling_releases_the_lease(tmp_path: Path) -> None:
    trainer, service, _, _ = make_trainer(tiny_config(tmp_path))
    trainer.held_out = []

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("out of memory")

    trainer.engine.generate = broken  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.run()
    assert service.released == ["lease-0"]


def test_a_curriculum_with_foreign_prompts_is_an_error_that_names_one(tmp_path: Path) -> None:
    trainer, service, _, _ = make_trainer(tiny_config(tmp_path), FakeCurriculum(["somebody-elses"]))
    with pytest.raises(DataError, match="'somebody-elses'"):
        trainer.run()
    assert service.released == ["lease-0"]


def test_an_exploding_policy_ends_the_run(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=9, learner={"max_kl": 1e-9, "patience": 2})
    trainer, _, _, _ = make_trainer(config)
    with pytest.raises(DivergedError, match=r"step 2.*learning_rate"):
        trainer.run()


def test_an_exploding_gradient_ends_the_run_and_calm_steps_between_do_not_count(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, learner={"explosion_gradient_norm": 10, "patience": 2})
    trainer, _, _, _ = make_trainer(config)
    calm, wild = {"learner/kl": 0.1, "learner/gradient_norm": 9.0}, {"learner/gradient_norm": 11.0}
    for metrics in (wild, {}, wild, {}, {"learner/gradient_norm": float("inf")}):
        trainer._guard(calm | metrics)
    with pytest.raises(DivergedError, match=r"explosion_gradient_norm 10"):
        trainer._guard(calm | {"learner/kl": float("nan")})


def test_resuming_without_a_checkpoint_says_so(tmp_path: Path) -> None:
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path))
    with pytest.raises(CheckpointError, match="no checkpoint to resume from"):
        trainer.resume()


def test_resuming_with_another_adapter_shape_says_so(tmp_path: Path) -> None:
    make_trainer(tiny_config(tmp_path, steps=1))[0].run()
    other = tiny_config(tmp_path, lora={"rank": 4})
    trainer, _, _, _ = make_trainer(other, first_step=1)
    with pytest.raises(CheckpointError, match="does not fit this run's model"):
        trainer.resume()


def test_only_the_kept_rollouts_are_trained_on_but_all_make_the_baseline(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, steps=1, learner={"advantage": "dr_grpo"})
    pool = digit_pool(verifier=lambda completion, answer: float(completion[:1] < "m"))
    service = FakeCurriculum([p.prompt_id for p in pool.train], group_size=16, keep=(2, 2))
    trainer, _, _, learner = make_trainer(config, service, pool)
    seen: list[Any] = []
    update = learner.policy.update
    learner.policy.update = lambda samples: seen.extend(samples) or update(samples)  # type: ignore

    trainer.run()

    assert 0 < len(seen) <= 4 * 4
    rates = {key: np.mean(group[0]) for report in service.reports for key, group in report.items()}
    for sample in seen:
        expected = {1 - rates[sample.prompt_id], -rates[sample.prompt_id]}
        assert min(abs(sample.advantage - value) for value in expected) < 1e-6
    assert Action.DONE == 1
