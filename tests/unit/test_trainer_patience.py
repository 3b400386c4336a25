"""A service that goes away in a run: waited for, done without, or the end of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer_fakes import FakeCurriculum, QuietReporter
from tests.unit.test_trainer_loop import digit_pool, make_trainer, tiny_config
from trainer_client.client import RefusedReport
from trainer_client.exceptions import DeadlineError, InvalidArgumentError, UnavailableError
from trainer_client.loop import Trainer
from trainer_client.patience import PatientService
from trainer_client.stopping import StopRequest
from trainer_client.trainer_errors import ServiceAwayError

pytestmark = pytest.mark.torch


class Remote(FakeCurriculum):
    """A curriculum behind a wire that can be cut; reports wait in an outbox and are counted once.

    away: whether the next call finds nobody; asked before every call.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.away: Callable[[], bool] = lambda: False
        self.outbox: dict[str, tuple[Any, Any, dict[str, Any]]] = {}
        self.outcomes: dict[str, Any] = {}
        self.leases: list[str] = []
        self.calls: list[str] = []

    @property
    def pending_reports(self) -> int:
        return len(self.outbox)

    def next_batch(self, *arguments: Any, **options: Any) -> Any:
        self._reach("next_batch")
        return super().next_batch(*arguments, **options)

    def advance_policy(self, *arguments: Any, **options: Any) -> Any:
        self._reach("advance_policy")
        return super().advance_policy(*arguments, **options)

    def create_checkpoint(self, *arguments: Any, **options: Any) -> Any:
        self._reach("create_checkpoint")
        return super().create_checkpoint(*arguments, **options)

    def report(  # type: ignore[override]
        self,
        batch: Any,
        prompt_ids: Any = None,
        *,
        request_id: str = "",
        timeout_seconds: float | None = None,
        **columns: Any,
    ) -> Any:
        self.outbox.setdefault(request_id, (batch, prompt_ids, columns))
        self._reach("report", DeadlineError)
        self.flush()
        return self.outcomes[request_id]

    def flush(self, timeout_seconds: float | None = None) -> tuple[RefusedReport, ...]:
        self._reach("flush")
        for request_id, (batch, prompt_ids, columns) in self.outbox.items():
            if request_id not in self.outcomes:
                for prompt_id in prompt_ids:
                    self._tallies.setdefault(prompt_id, [])
                    self._rounds.setdefault(prompt_id, 0)
                self.leases.append(batch.lease_id)
                self.outcomes[request_id] = super().report(batch, prompt_ids, **columns)
        self.outbox.clear()
        return ()

    def _reach(self, name: str, error: type[Exception] = UnavailableError) -> None:
        self.calls.append(name)
        if self.away():
            raise error(f"{name}: nobody there")


def patient_run(
    folder: Path, *, carry_on: bool, patience: float, **changes: Any
) -> tuple[Trainer, Remote, PatientService, QuietReporter]:
    config = tiny_config(
        folder,
        curriculum={"batch_size": 4, "patience_seconds": patience, "carry_on": carry_on},
        evaluation={"every": 0, "prompts": 0},
        **changes,
    )
    pool = digit_pool()
    remote = Remote([prompt.prompt_id for prompt in pool.train])
    notes: list[str] = []
    stop = StopRequest()
    service = PatientService(remote, config.curriculum, remote.prompt_ids, stop, notes.append)
    trainer, _, reporter, _ = make_trainer(config, service, pool, stop)  # type: ignore[arg-type]
    reporter.notes = notes
    return trainer, remote, service, reporter


def fails(times: int) -> Callable[[], bool]:
    """Away for so many calls, then back."""
    left = [times]

    def away() -> bool:
        left[0] -= 1
        return left[0] >= 0

    return away


@pytest.mark.parametrize("call", ["next_batch", "report", "advance_policy", "create_checkpoint"])
def test_a_short_absence_is_waited_out_and_nothing_is_lost_or_counted_twice(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientService, "_sleep", lambda self, seconds: None)
    trainer, remote, _, reporter = patient_run(tmp_path, carry_on=False, patience=60)
    gate = {"open": True}
    cut = fails(3)
    remote.away = lambda: gate["open"] and remote.calls[-1] in (call, "flush") and cut()
    result = trainer.run()
    assert result.steps == 4
    assert sum(remote.state.rollouts.values()) == 4 * 4 * 4
    assert [version for version, _ in remote.advances] == [1, 2, 3, 4]
    assert "away, waiting" in reporter.notes[0]
    assert "is back" in reporter.notes[1]
    assert len(reporter.notes) == 2


def test_directives_are_had_though_the_answer_was_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PatientService, "_sleep", lambda self, seconds: None)
    trainer, remote, _, _ = patient_run(tmp_path, carry_on=False, patience=60, steps=1)
    remote.max_rounds, remote.drop_one_sided = 2, True
    cut = fails(2)
    remote.away = lambda: remote.calls[-1] in ("report", "flush") and cut()
    trainer.run()
    assert all(rounds >= 1 for rounds in remote._rounds.values())
    assert len(remote.reports) == len(remote.outcomes)


def test_without_leave_to_carry_on_the_run_ends_and_keeps_what_was_learnt(tmp_path: Path) -> None:
    trainer, remote, _, _ = patient_run(tmp_path, carry_on=False, patience=0, checkpoint={"every": 0})
    remote.away = lambda: trainer.step >= 2 and remote.calls[-1] == "next_batch"
    with pytest.raises(ServiceAwayError, match=r"patience_seconds = 0.*--resume.*carry_on"):
        trainer.run()
    assert trainer.checkpoints.steps() == [2]
    assert trainer.checkpoints.read_state(2).curriculum_checkpoint_id == ""


def test_a_run_carries_on_uniformly_and_reports_when_the_service_is_back(tmp_path: Path) -> None:
    trainer, remote, service, reporter = patient_run(tmp_path, carry_on=True, patience=0, steps=6)
    remote.away = lambda: 1 <= trainer.step < 4
    result = trainer.run()

    assert result.steps == 6
    assert not service.alone
    # Step 1 was drawn by the service, 2 to 4 here (with rollouts of 8 a prompt), 5 and 6 by the service again.
    assert [metrics["rollouts/count"] for metrics in result.history] == [16, 32, 32, 32, 16, 16]
    assert sum(remote.state.rollouts.values()) == 16 + 3 * 32 + 32
    assert remote.leases == ["lease-0", "", "", "", "lease-4", "lease-5"]
    # The first advance found nobody; later versions say as much.
    assert [version for version, _ in remote.advances] == [5, 6]
    assert "going on with uniform draws" in reporter.notes[0]
    assert any("is back and has what was rolled out" in note for note in reporter.notes)
    # The checkpoint due at step 2 waited for the service.
    assert any("checkpoint of step 2 waits" in note for note in reporter.notes)
    assert trainer.checkpoints.steps()[-1] == 6
    assert all(
        trainer.checkpoints.read_state(step).curriculum_checkpoint_id for step in trainer.checkpoints.steps()
    )


def test_a_batch_cut_off_in_the_middle_is_trained_on_with_all_its_rollouts(tmp_path: Path) -> None:
    trainer, remote, _, _ = patient_run(tmp_path, carry_on=True, patience=0, steps=1)
    remote.away = lambda: "report" in remote.calls
    result = trainer.run()
    assert result.history[0]["learner/samples"] == 16
    assert remote.pending_reports == 1
    assert trainer.checkpoints.read_state(1).curriculum_checkpoint_id == ""


def test_a_checkpoint_made_alone_can_be_resumed(tmp_path: Path) -> None:
    trainer, remote, _, _ = patient_run(tmp_path, carry_on=True, patience=0, steps=2)
    remote.away = lambda: trainer.step >= 1
    trainer.run()
    config = tiny_config(tmp_path, steps=3, evaluation={"every": 0, "prompts": 0})
    second, service, reporter, _ = make_trainer(config, FakeCurriculum(remote.prompt_ids), first_step=2)
    assert second.resume() == 2
    assert second.run().steps == 3
    assert "made without the service" in reporter.notes[0]
    assert [version for version, _ in service.advances] == [3]


def test_waiting_ends_when_a_stop_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer, remote, service, _ = patient_run(tmp_path, carry_on=True, patience=3600)
    remote.away = lambda: True

    def asked(self: PatientService, seconds: float) -> None:
        self.stop.requested = True

    monkeypatch.setattr(PatientService, "_sleep", asked)
    with pytest.raises(ServiceAwayError):
        trainer.run()
    assert not service.alone
    assert trainer.checkpoints.steps() == [0]


def test_a_refusal_is_not_an_absence(tmp_path: Path) -> None:
    trainer, remote, _, _ = patient_run(tmp_path, carry_on=True, patience=3600)

    def refused(*arguments: Any, **options: Any) -> Any:
        raise InvalidArgumentError("no such thing")

    remote.next_batch = refused  # type: ignore[method-assign]
    with pytest.raises(InvalidArgumentError):
        trainer.run()


def test_uniform_draws_depend_on_seed_and_step_alone_and_share_the_budget(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, curriculum={"carry_on": True, "patience_seconds": 0})
    remote = Remote([f"p{place}" for place in range(50)])
    remote.away = lambda: True
    draws = []
    for seed in (1, 1, 2):
        service = PatientService(
            remote, config.curriculum, remote.prompt_ids, StopRequest(), lambda text: None, seed=seed
        )
        draws.append(
            [service.next_batch("c", batch_size=5, rollout_budget=32, step=step) for step in range(3)]
        )
    names = [[batch.prompt_ids for batch in batches] for batches in draws]
    assert names[0] == names[1] != names[2]
    assert len({tuple(one) for one in names[0]}) == 3
    assert all(len(set(one)) == 5 for one in names[0])
    assert draws[0][0].quotas.tolist() == [6] * 5
    assert draws[0][0].lease_id == ""
