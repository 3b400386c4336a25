"""The trainer's command line against the real service on an embedded server."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from examples.service_process import ServiceProcess
from tests.ports import free_port
from tests.vllm_fakes import stand_in_path
from trainer_client.client import CurriculumClient
from trainer_client.config import load_config
from trainer_client.distributed.world import World
from trainer_client.metrics import read_metrics
from trainer_client.training_run import train

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with ServiceProcess(folder / "data", folder) as running:
        yield running


def write_config(folder: Path, service: ServiceProcess, name: str, **changes: object) -> Path:
    settings: dict[str, object] = {
        "name": name,
        "directory": str(folder),
        "steps": 4,
        "model": {"path": "tiny", "threads": 1},
        "tasks": [{"type": "arithmetic", "kinds": ["add-1", "mul-1", "add-2"], "per_kind": 40}],
        "curriculum": {
            "target": service.target,
            "strategy": "frontier",
            "batch_size": 6,
            "rollout_budget": 24,
        },
        "rollouts": {"max_tokens": 3},
        "evaluation": {"every": 0, "prompts": 8},
        "checkpoint": {"every": 2},
    }
    settings.update(changes)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def command(config: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "trainer_client.cli", "train", "--config", str(config), *arguments]


def run(config: Path, *arguments: str) -> str:
    done = subprocess.run(command(config, *arguments), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_rollout_of_a_run_is_counted_once_and_no_lease_is_left(
    tmp_path: Path, service: ServiceProcess
) -> None:
    output = run(write_config(tmp_path, service, "whole"))
    assert "finished at step 4" in output
    rows = [row for row in read_metrics(tmp_path / "whole" / "metrics.jsonl") if "reward/mean" in row]
    with CurriculumClient(service.target) as client:
        summary = client.summary("whole")
    assert summary.rollouts_spent == rows[-1]["rollouts/total"]
    assert 0 < rows[-1]["rollouts/total"] <= 4 * 24
    assert summary.policy_version == 4
    assert len(summary.leases) == 0
    assert summary.prompts_in_flight == 0


def test_a_finished_run_can_be_resumed_for_more_steps(tmp_path: Path, service: ServiceProcess) -> None:
    config = write_config(tmp_path, service, "more", steps=2)
    run(config)
    run(config, "--set", "steps=4", "--resume")
    rows = [row for row in read_metrics(tmp_path / "more" / "metrics.jsonl") if "reward/mean" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    with CurriculumClient(service.target) as client:
        summary = client.summary("more")
    assert summary.rollouts_spent == rows[-1]["rollouts/total"]
    assert summary.policy_version == 4


def test_a_run_that_lost_its_checkpoints_starts_anew_under_its_curriculum(
    tmp_path: Path, service: ServiceProcess
) -> None:
    run(
        write_config(
            tmp_path, service, "first", steps=1, curriculum={"target": service.target, "batch_size": 4}
        )
    )
    shared = {"target": service.target, "batch_size": 4, "curriculum_id": "first"}
    output = run(write_config(tmp_path, service, "second", steps=1, curriculum=shared))
    # The terminal breaks lines.
    assert "its policy versions go on from 1" in " ".join(output.split())
    with CurriculumClient(service.target) as client:
        assert client.summary("first").policy_version == 2


def test_sigterm_ends_a_run_cleanly_and_resume_goes_on(tmp_path: Path, service: ServiceProcess) -> None:
    config = write_config(tmp_path, service, "ended", steps=100_000)
    metrics = tmp_path / "ended" / "metrics.jsonl"
    process = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        deadline = time.monotonic() + 400
        while not (metrics.exists() and len(read_metrics(metrics)) >= 4):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "interrupted at step" in output
    with CurriculumClient(service.target) as client:
        assert client.summary("ended").prompts_in_flight == 0
    state = json.loads(
        sorted((tmp_path / "ended" / "checkpoints").glob("step-*"))[-1].joinpath("state.json").read_text()
    )
    run(config, "--set", f"steps={state['step'] + 2}", "--resume")
    steps = [row["step"] for row in read_metrics(metrics) if "reward/mean" in row]
    assert steps == list(range(1, state["step"] + 3))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_stop_ends_vllms_process_after_the_run_has_saved(
    tmp_path: Path, service: ServiceProcess, number: signal.Signals
) -> None:
    name = f"vllm-{number.name.lower()}"
    rollouts = {
        "engine": "vllm",
        "max_tokens": 3,
        "vllm_arguments": {"seeded": True, "diary": str(tmp_path / "diary")},
    }
    config = write_config(tmp_path, service, name, steps=100_000, rollouts=rollouts)
    metrics = tmp_path / name / "metrics.jsonl"
    process = subprocess.Popen(
        command(config),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": stand_in_path()},
        # A group of its own, which all get the signal of, as they do of a terminal's Ctrl-C.
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 400
        while not (metrics.exists() and len(read_metrics(metrics)) >= 3):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.killpg(process.pid, number)
        output, _ = process.communicate(timeout=400)
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert "interrupted at step" in output
    assert list((tmp_path / name / "checkpoints").glob("step-*"))
    with CurriculumClient(service.target) as client:
        assert client.summary(name).prompts_in_flight == 0
    # The only one there was; it is named after its process.
    (diary,) = tmp_path.glob("diary-*")
    with pytest.raises(ProcessLookupError):
        os.kill(int(diary.name.removeprefix("diary-")), 0)


def trained_on(folder: Path, name: str) -> dict[int, dict[str, float]]:
    """What each step came to, without what a clock says."""
    rows = [row for row in read_metrics(folder / name / "metrics.jsonl") if "reward/mean" in row]
    clock = ("seconds/", "speed/", "time")
    return {
        int(row["step"]): {key: value for key, value in row.items() if not key.startswith(clock)}
        for row in rows
    }


@pytest.mark.timeout(400)
def test_a_run_killed_after_a_checkpoint_repeats_what_an_uninterrupted_one_does(
    tmp_path: Path, service: ServiceProcess
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"{n}=", "answer": str(n)}) + "\n" for n in range(80)))
    curriculum = {
        "target": service.target,
        "strategy": {"preset": "frontier", "stopping": {"requeue": {"probability": 0.5}}},
        "batch_size": 6,
        "rollout_budget": 24,
    }
    changes: dict[str, object] = {
        "steps": 6,
        "tasks": [
            {
                "type": "jsonl",
                "path": str(prompts),
                "verifier": "tests.verdicts:by_lot",
                # A verdict that is late on a busy machine would be another outcome.
                "verifier_timeout_seconds": 300,
            }
        ],
        "curriculum": curriculum,
        "learner": {"learning_rate": 0.01},
        "replay": {"share": 0.34},
        "sample_log": 6,
    }
    whole = write_config(tmp_path, service, "straight", **changes)
    train(load_config(whole), World())

    endless = write_config(tmp_path, service, "killed", **{**changes, "steps": 100_000})
    process = subprocess.Popen(command(endless), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    kept = tmp_path / "killed" / "checkpoints"
    try:
        deadline = time.monotonic() + 400
        while not list(kept.glob("step-*/state.json")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        process.kill()
        process.wait()
    step = max(int(path.parent.name.removeprefix("step-")) for path in kept.glob("step-*/state.json"))
    last = max(step + 2, 6)
    if last > 6:
        train(load_config(whole, [f"steps={last}"]), World(), resume=True)
    train(load_config(endless, [f"steps={last}"]), World(), resume=True)

    straight, resumed = trained_on(tmp_path, "straight"), trained_on(tmp_path, "killed")
    assert list(resumed) == list(straight) == list(range(1, last + 1))
    assert resumed == straight
    assert len({row["learner/loss"] for row in straight.values()}) == last
    samples = [
        (tmp_path / name / "samples.jsonl").read_text().splitlines() for name in ("straight", "killed")
    ]
    assert samples[0] == samples[1]
    # What the killed run had reported beyond its checkpoint is gone with the restore, its lease too.
    with CurriculumClient(service.target) as client:
        summary = client.summary("killed")
    assert summary.rollouts_spent == resumed[last]["rollouts/total"]
    assert summary.prompts_in_flight == 0


@pytest.mark.slow
def test_two_processes_make_one_run(tmp_path: Path, service: ServiceProcess) -> None:
    config = write_config(tmp_path, service, "pair", steps=2)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run([*launcher, *command(config)[2:]], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished at step 2") == 1
    rows = [row for row in read_metrics(tmp_path / "pair" / "metrics.jsonl") if "reward/mean" in row]
    assert [row["step"] for row in rows] == [1, 2]
    with CurriculumClient(service.target) as client:
        summary = client.summary("pair")
    assert summary.rollouts_spent == rows[-1]["rollouts/total"]
    assert summary.prompts_in_flight == 0


def test_a_service_that_is_not_there_is_said_and_the_run_ends(
    tmp_path: Path, service: ServiceProcess
) -> None:
    nobody = {"target": "127.0.0.1:1", "timeout_seconds": 2}
    config = write_config(tmp_path, service, "alone", curriculum=nobody)
    done = subprocess.run(command(config), capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_an_unknown_preset_is_an_error_that_names_it(tmp_path: Path, service: ServiceProcess) -> None:
    config = write_config(
        tmp_path, service, "unknown", curriculum={"target": service.target, "strategy": "no-such"}
    )
    done = subprocess.run(command(config), capture_output=True, text=True, timeout=600)
    assert done.returncode == 2
    assert "no-such" in done.stderr


def serve(folder: Path, data: Path, port: str) -> tuple[subprocess.Popen[bytes], str]:
    """A service on a data directory and a port, and its address."""
    log = folder / f"serve-{time.monotonic_ns()}.log"
    ports = ["--grpc-port", port, "--http-port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "sampler_service", "serve", "--data-dir", str(data), *ports],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 400
    while not (ready := re.search(r"^ready grpc=(\S+)", log.read_text(errors="replace"), re.MULTILINE)):
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return process, ready.group(1)


@pytest.mark.slow
def test_a_run_outlives_its_service_and_reports_what_it_did_alone(tmp_path: Path) -> None:
    data = tmp_path / "data"
    service, target = serve(tmp_path, data, str(free_port()))
    config = tmp_path / "alone.yaml"
    settings = {
        "name": "alone",
        "directory": str(tmp_path),
        "steps": 100_000,
        "model": {"path": "tiny", "threads": 1},
        "tasks": [{"type": "arithmetic", "kinds": ["add-1", "mul-1", "add-2"], "per_kind": 40}],
        "curriculum": {
            "target": target,
            "strategy": "uniform-grpo",
            "batch_size": 6,
            "rollout_budget": 24,
            "timeout_seconds": 1,
            "patience_seconds": 1,
            "carry_on": True,
        },
        "rollouts": {"max_tokens": 3},
        "evaluation": {"every": 0, "prompts": 0},
        "checkpoint": {"every": 0},
    }
    config.write_text(yaml.safe_dump(settings))
    metrics = tmp_path / "alone" / "metrics.jsonl"

    def wait_for_steps(more: int) -> None:
        deadline = time.monotonic() + 400
        goal = (len(read_metrics(metrics)) if metrics.exists() else 0) + more
        while not (metrics.exists() and len(read_metrics(metrics)) >= goal):
            assert trainer.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)

    trainer = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for_steps(2)
        service.kill()
        service.wait()
        wait_for_steps(4)
        service, _ = serve(tmp_path, data, target.rpartition(":")[2])
        # A probe of the next step finds it; a few more steps are drawn by it.
        deadline = time.monotonic() + 400
        with CurriculumClient(target) as client:
            before = client.summary("alone").policy_version
            while client.summary("alone").policy_version < before + 3:
                assert trainer.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        trainer.send_signal(signal.SIGTERM)
        output, _ = trainer.communicate(timeout=400)
    finally:
        trainer.kill()
    assert trainer.returncode == 0, output
    assert "going on with uniform draws" in output
    assert "is back" in output
    rows = [row for row in read_metrics(metrics) if "reward/mean" in row]
    with CurriculumClient(target) as client:
        summary = client.summary("alone")
    service.terminate()
    service.wait(240)
    # Every rollout was counted once, those of the time alone too; a batch cut short at the end is on top.
    assert rows[-1]["rollouts/total"] <= summary.rollouts_spent <= rows[-1]["rollouts/total"] + 24
    assert summary.prompts_in_flight == 0
