"""The trainer's SDK against the real service."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.service_process import ROOT, ServiceProcess, service_process
from trainer_client.client import (
    Action,
    AsyncCurriculumClient,
    CurriculumClient,
    Health,
    Report,
)
from trainer_client.exceptions import (
    AbortedError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    directory = tmp_path_factory.mktemp("service")
    with service_process("--data-dir", str(directory / "data"), log=directory / "log") as process:
        yield process


def test_a_whole_run_with_rounds_checkpoints_and_a_restore(real: ServiceProcess) -> None:
    rng = np.random.default_rng(0)
    with CurriculumClient(real.target) as client:
        assert client.health() is Health.SERVING
        client.create_curriculum("run", {"preset": "uniform-grpo", "stopping": {"balanced": {"round": 4}}})
        added = client.add_prompts("run", [f"p{i}" for i in range(50)])
        assert added.total == 50
        for step in range(5):
            if step == 3:
                client.create_checkpoint("run", "step-3")
            batch = client.next_batch("run", batch_size=8, rollout_budget=128, policy_version=step)
            pending = dict(zip(batch.prompt_ids, batch.quotas.tolist(), strict=True))
            spent = 0
            while pending:
                groups = [rng.integers(0, 2, size=n).astype(float) for n in pending.values()]
                spent += sum(map(len, groups))
                result = client.report(batch, list(pending), rewards=groups)
                more = result.directives.with_action(Action.SAMPLE_MORE)
                pending = {d.prompt_id: d.rollouts for d in more}
            assert 0 < spent <= 128
            client.advance_policy("run", step + 1)
        assert client.get_curriculum("run").policy_version == 5
        client.restore_checkpoint("run", "step-3")
        assert client.get_curriculum("run").policy_version == 3
        client.delete_curriculum("run")
        with pytest.raises(NotFoundError):
            client.get_curriculum("run")


def test_refusals_arrive_as_the_sdks_errors(real: ServiceProcess) -> None:
    with CurriculumClient(real.target) as client:
        client.create_curriculum("refusals", "frontier", exist_ok=True)
        with pytest.raises(FailedPreconditionError) as empty:
            client.next_batch("refusals", batch_size=4)
        assert empty.value.reason == "EMPTY_POOL"
        client.add_prompts("refusals", ["a"])
        with pytest.raises(InvalidArgumentError) as wrong:
            client.create_curriculum("other", {"preset": "nonsense"})
        assert wrong.value.reason == "UNKNOWN_PRESET"
        with pytest.raises(NotFoundError):
            client.next_batch("nobody", batch_size=4)
        for change in (
            lambda: client.update_curriculum("refusals", "cures", etag="of a strategy that is gone"),
            lambda: client.delete_curriculum("refusals", etag="of a strategy that is gone"),
        ):
            with pytest.raises(AbortedError) as stale:
                change()
            assert stale.value.reason == "ETAG_MISMATCH"


def test_a_strategy_is_checked_without_being_set(real: ServiceProcess) -> None:
    with CurriculumClient(real.target) as client:
        assert client.create_curriculum("checked", "dapo", validate_only=True).strategy.preset == "dapo"
        with pytest.raises(NotFoundError):
            client.get_curriculum("checked")
        made = client.create_curriculum("checked", "cures")
        assert client.create_curriculum("checked", "dapo", exist_ok=True, validate_only=True) == made
        would_be = client.update_curriculum("checked", {"exploration": 0.5}, validate_only=True)
        assert (would_be.strategy.exploration, would_be.revision) == (0.5, made.revision)
        with pytest.raises(InvalidArgumentError) as wrong:
            client.update_curriculum("checked", {"exploration": 5}, validate_only=True)
        assert wrong.value.reason == "INVALID_PARAMETER"
        assert client.get_curriculum("checked") == made


def test_streamed_reports_count_once_each(real: ServiceProcess) -> None:
    with CurriculumClient(real.target) as client:
        client.create_curriculum("streamed", "uniform-grpo")
        ids = [f"p{i}" for i in range(40)]
        client.add_prompts("streamed", ids)
        reports = [
            Report(None, [id_], [[1.0, 0.0]], policy_version=0, curriculum_id="streamed") for id_ in ids
        ]
        results = list(client.stream_reports(reports))
        assert [result.accepted for result in results] == [2] * 40
        assert client.get_curriculum("streamed").rollout_count == 80


async def test_the_asyncio_twin_does_the_same(real: ServiceProcess) -> None:
    async with AsyncCurriculumClient(real.target) as client:
        await client.create_curriculum("twin", "frontier")
        await client.add_prompts("twin", [f"p{i}" for i in range(20)])
        batch = await client.next_batch("twin", batch_size=4, run_id="r", step=1)
        again = await client.next_batch("twin", batch_size=4, run_id="r", step=1)
        assert batch.prompt_ids == again.prompt_ids
        groups = [np.ones(quota) for quota in batch.quotas]
        result = await client.report(batch, rewards=groups)
        assert result.accepted == batch.quotas.sum()


def test_bring_your_own_trainer_runs_as_written(real: ServiceProcess) -> None:
    script = ROOT / "examples" / "bring_your_own_trainer.py"
    for first in (0, 20):  # A second run finds the curriculum and goes on.
        ended = subprocess.run(
            [sys.executable, str(script), real.target],
            cwd=Path(script).parent.parent,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'proto'}"},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        lines = ended.stdout.splitlines()
        assert len(lines) == 20
        assert lines[-1].startswith(f"step {first + 19}: 16 prompts")
