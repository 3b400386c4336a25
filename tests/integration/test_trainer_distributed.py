"""Two processes train as one does: the same weights, one report of every rollout, one set of files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.distributed_run import run_scenario
from tests.unit.test_trainer_loop import tiny_config
from tests.vllm_fakes import stand_in_path
from trainer_client.assembly import build_learner
from trainer_client.distributed.world import World, shares
from trainer_client.metrics import read_metrics
from trainer_client.trainer_errors import ConfigError

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900), pytest.mark.xdist_group("distributed")]
VLLM: dict[str, Any] = {
    "engine": "vllm",
    "max_tokens": 4,
    "max_model_tokens": 2100,
    "vllm_arguments": {"seeded": True},
}
VARIANTS: dict[str, dict[str, Any]] = {
    "lora": {},
    "full-weights-with-kl": {
        "lora": None,
        "learner": {"learning_rate": 0.0003, "kl_coefficient": 0.1, "epochs": 2, "micro_batch_tokens": 24},
        "steps": 2,
    },
    "replay": {"replay": {"share": 0.5}},
    "vllm": {"rollouts": VLLM, "max_rounds": 3},
}
ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "broken-service": ({"broken_step": 1}, "the service is away"),
    "broken-engine": ({"failing_rank": 1, "evaluation": {"prompts": 0}}, "this rank's engine is broken"),
    "broken-learner": ({"failing_learner": 1, "evaluation": {"prompts": 0}}, "out of memory"),
    "killed-vllm": (
        {"rollouts": VLLM, "killed_rank": 1, "evaluation": {"prompts": 0}},
        "its process was ended by signal 9 (SIGKILL)",
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where two processes have left what they ended with, scenario by scenario."""
    folder = tmp_path_factory.mktemp("distributed")
    scenarios = [
        *((name, changes) for name, changes in VARIANTS.items()),
        ("whole", {"steps": 4}),
        ("first-half", {"steps": 2, "name": "halves"}),
        ("second-half", {"steps": 4, "name": "halves", "resume": True}),
        *((name, changes) for name, (changes, _) in ERRORS.items()),
        ("stopped", {"stop_rank": 1}),
        (
            "diaries",
            {
                "rollouts": {**VLLM, "vllm_arguments": {"seeded": True, "diary": str(folder / "diary")}},
                "evaluation": {"prompts": 0},
            },
        ),
        ("no-engine", {"rollouts": {**VLLM, "vllm_arguments": {"dtype": "float7"}}}),
    ]
    (folder / "scenarios.json").write_text(json.dumps(scenarios))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = ["-m", "tests.distributed_run", str(folder), str(folder / "scenarios.json")]
    done = subprocess.run(
        [*launcher, *program],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": stand_in_path()},
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def told(folder: Path, name: str) -> list[dict[str, Any]]:
    """What both ranks said at the end of a scenario."""
    return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(2)]


def told_of(reports: list[list[str]]) -> list[str]:
    """The prompts of all reports, once for each time."""
    return sorted(prompt_id for report in reports for prompt_id in report)


def weights(folder: Path, name: str, rank: int = 0) -> np.ndarray:
    with np.load(folder / f"{name}-{rank}.npz") as arrays:
        return np.concatenate([arrays[key].ravel() for key in arrays])


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_processes_learn_what_one_learns(
    folder: Path, tmp_path: Path, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", stand_in_path())
    run_scenario(World(), tmp_path, variant, VARIANTS[variant])
    alone = json.loads((tmp_path / f"{variant}-0.json").read_text())
    first, second = told(folder, variant)

    # Both ranks have the same bits; against one process only the order of sums differs.
    np.testing.assert_array_equal(weights(folder, variant, 0), weights(folder, variant, 1))
    moved = np.abs(weights(tmp_path, variant) - weights(folder, variant))
    # Adam's step is the gradient's sign where gradients are about zero: these may go either way.
    assert np.mean(moved < 1e-5) > 0.99
    for name in ("learner/loss", "learner/kl", "learner/gradient_norm", "learner/entropy", "reward/mean"):
        expected = [metrics[name] for metrics in alone["metrics"]]
        assert [metrics[name] for metrics in first["metrics"]] == pytest.approx(expected, rel=1e-3, abs=1e-6)
    # The service heard every rollout once, from rank 0.
    assert first["rollouts"] == alone["rollouts"] > 0
    # An engine that reports as groups end tells the service the same, in another order.
    assert told_of(first["reports"]) == told_of(alone["reports"])
    assert second["rollouts"] == 0
    trained = [row for row in read_metrics(folder / variant / "metrics.jsonl") if "reward/mean" in row]
    assert [row["step"] for row in trained] == list(range(1, first["steps"] + 1))


def test_a_run_of_two_processes_resumes_from_rank_0_s_checkpoint(folder: Path) -> None:
    assert [one["steps"] for one in told(folder, "first-half")] == [2, 2]
    assert [one["steps"] for one in told(folder, "second-half")] == [4, 4]
    np.testing.assert_array_equal(weights(folder, "whole"), weights(folder, "second-half"))
    kept = sorted(path.name for path in (folder / "halves" / "checkpoints").iterdir())
    assert kept == ["step-000002", "step-000004"]


@pytest.mark.parametrize("name", ERRORS)
def test_an_error_on_one_rank_ends_all_of_them_with_it(folder: Path, name: str) -> None:
    first, second = told(folder, name)
    assert ERRORS[name][1] in first["error"]
    assert ERRORS[name][1] in second["error"]
    # The batch that was being sampled went back.
    after_the_batch = name in ("broken-service", "broken-learner")
    assert first["released"] == ([] if after_the_batch else ["lease-0"])


def test_a_rank_whose_learner_fails_is_named_on_the_others(folder: Path) -> None:
    first, second = told(folder, "broken-learner")
    assert first["error"] == "rank 1 failed: RuntimeError: out of memory"
    assert second["error"] == "out of memory"


PROGRAM = """
import os, signal, sys
from pathlib import Path
from trainer_client.distributed.world import start_world
from trainer_client.stopping import StopRequest
from trainer_client.trainer_errors import TrainerError

folder, end = Path(sys.argv[1]), sys.argv[2]
with StopRequest():
    world = start_world()
    world.gather(world.rank)
    try:
        if world.rank == 1 and end == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if world.rank == 1:
            raise OSError(28, "No space left on device")
        world.gather("something")
    except Exception as error:
        (folder / str(world.rank)).write_text(str(error))
        world.close(error)
"""


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("failed", "rank 1 failed: OSError: [Errno 28] No space left on device"),
        (
            "killed",
            "rank 1 ended without a word: killed, perhaps for want of memory; see what it printed last",
        ),
    ],
)
def test_a_rank_that_ends_where_nobody_asks_it_is_named_by_the_others(
    tmp_path: Path, end: str, message: str
) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    done = subprocess.run(
        [*launcher, str(tmp_path / "program.py"), str(tmp_path), end],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    for rank in (0, 2):
        assert (tmp_path / str(rank)).exists(), done.stdout + done.stderr
        assert (tmp_path / str(rank)).read_text().startswith(message)


def test_each_rank_has_a_vllm_of_its_own_that_knows_nothing_of_the_others(folder: Path) -> None:
    diaries = [
        [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("diary-*")
    ]
    assert len(diaries) == 2
    for diary in diaries:
        (environment,) = [value for what, value in diary if what == "environment"]
        assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} & set(environment)
        assert not [name for name in environment if name.startswith("TORCHELASTIC_")]
        # Every update reaches both, before the next batch: three steps of two prompts for each.
        asked = [value for what, value in diary if what == "asked"]
        assert [n for _, n, _ in asked] == [4] * 6
        assert [lora for _, _, lora in asked] == [None, None, "policy-1", "policy-1", "policy-2", "policy-2"]
    adapters = [{value for what, value in diary if what == "adapter"} for diary in diaries]
    assert len(adapters[0]) == len(adapters[1]) == 3
    assert not adapters[0] & adapters[1]
    assert not list((folder / "diaries").glob("published*"))


def test_an_engine_that_does_not_start_is_the_same_error_on_all(folder: Path) -> None:
    first, second = told(folder, "no-engine")
    assert "no such dtype" in first["error"]
    assert first["error"] == second["error"]


def test_a_stop_asked_of_one_rank_stops_all(folder: Path) -> None:
    assert [one["steps"] for one in told(folder, "stopped")] == [0, 0]
    assert (folder / "stopped" / "checkpoints" / "step-000000").exists()


def test_work_is_shared_out_evenly_and_all_of_it() -> None:
    costs = [7, 1, 1, 1, 4, 2]
    plan = shares(costs, 2)
    assert sorted(place for places in plan for place in places) == list(range(6))
    assert [sum(costs[place] for place in places) for places in plan] == [8, 8]
    assert shares([], 3) == [[], [], []]


def test_a_world_of_one_changes_nothing() -> None:
    world = World()
    parameter = torch.nn.Parameter(torch.ones(3))
    world.add_gradients([parameter])
    assert parameter.grad is None
    assert world.gather("x") == ["x"]
    world.check_same([parameter])


class Two(World):
    """As one of two processes sees it, before they talk."""

    size = 2


@pytest.mark.parametrize(
    ("rollouts", "message"),
    [
        (
            {"engine": "vllm", "vllm_arguments": {"tensor_parallel_size": 2}},
            r"rollouts.vllm_arguments.tensor_parallel_size 2.*its own GPU alone.*on one process",
        ),
        ({"lookahead": 1}, r"rollouts.lookahead 1.*set rollouts.lookahead: 0"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_is_loaded(
    tmp_path: Path, rollouts: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_learner(tiny_config(tmp_path, rollouts=rollouts), Two())
