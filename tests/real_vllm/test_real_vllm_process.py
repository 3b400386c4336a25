"""vLLM itself as a run has it: in a process of its own, for one process and for two under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")

from tests.real_vllm.agreement import asked, gaps, moved
from trainer_client.assembly import Learner, build_learner
from trainer_client.config import parse_config
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.engine_process import EngineProcess
from trainer_client.trainer_errors import DataError

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
MODEL = {"path": "smollm2", "device": "cpu", "dtype": "float32", "max_prompt_tokens": 400}
VLLM: dict[str, Any] = {
    "engine": "vllm",
    "max_tokens": 6,
    "max_model_tokens": 512,
    "vllm_arguments": {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 28},
}


@pytest.fixture(scope="module")
def learner() -> Iterator[Learner]:
    """Policy and engine as the command line makes them."""
    config = parse_config(
        {
            "name": "apart",
            "model": MODEL,
            "lora": {"rank": 8},
            "tasks": [{"type": "arithmetic"}],
            "rollouts": VLLM,
        }
    )
    made = build_learner(config)
    yield made
    made.engine.close()


def test_an_adapter_is_sampled_from_there_and_its_log_probs_are_the_learners(
    learner: Learner, tmp_path: Path
) -> None:
    assert isinstance(learner.engine, EngineProcess)
    model, sampling = learner.policy.model, SamplingParams(max_tokens=8)
    tokens = []
    for version in (1, 2):
        moved(model, seed=version)
        model.save_pretrained(str(tmp_path))
        learner.engine.update_policy(version, tmp_path)
        groups = learner.engine.generate(asked(learner.tokenizer, 3, 1, 0, 4), sampling, seed=1)
        assert [len(group.completions) for group in groups] == [3, 1, 0, 4]
        assert gaps(model, groups).max() < 2e-3, version
        tokens.append([c.token_ids for group in groups for c in group.completions])
    assert tokens[0] != tokens[1]


def test_a_continuation_joins_and_what_is_given_up_or_refused_leaves_the_engine_usable(
    learner: Learner,
) -> None:
    sampling = SamplingParams(max_tokens=6)
    (request,) = asked(learner.tokenizer, 6)
    (whole,) = learner.engine.generate([request], sampling, seed=4)
    with learner.engine.session(sampling, 4) as session:
        session.submit([RolloutRequest("p0", request.prompt_token_ids, 2)])
        (begun,) = session.finished()
        session.submit([RolloutRequest("p0", request.prompt_token_ids, 4, first=2)])
        (ended,) = session.finished()
        assert session.finished() == []
        session.submit(asked(learner.tokenizer, 2, 2, 2, 2))
    # Tokens, since what is computed together rounds together: log-probs differ in the sixth digit.
    tokens = [c.token_ids for c in whole.completions]
    assert [c.token_ids for c in begun.completions + ended.completions] == tokens
    with pytest.raises(DataError, match="leave no room"):
        learner.engine.generate([request, RolloutRequest("long", (5,) * 600, 1)], sampling, seed=4)
    (again,) = learner.engine.generate([request], sampling, seed=4)
    assert [c.token_ids for c in again.completions] == tokens


def test_more_prompt_tokens_than_one_step_reads_are_sampled_all_the_same(learner: Learner) -> None:
    # Twice what vLLM reads in a step here; no two prompts begin alike, so that none is cached.
    requests = [RolloutRequest(f"p{place}", (100 + place, *[5] * 399), 1) for place in range(11)]
    groups = learner.engine.generate(requests, SamplingParams(max_tokens=2), seed=6)
    assert [len(group.completions) for group in groups] == [1] * 11


def test_two_ranks_sample_each_with_a_vllm_of_its_own_and_both_have_every_update(tmp_path: Path) -> None:
    changes = {
        "model": {**MODEL, "threads": 1},
        "lora": {"rank": 8},
        "rollouts": VLLM,
        # Far enough an update to tell the versions apart.
        "learner": {"learning_rate": 1e-2, "max_kl": 1e6},
        "evaluation": {"every": 0, "prompts": 0},
        "checkpoint": {"every": 0},
        "max_rounds": 2,
    }
    (tmp_path / "scenarios.json").write_text(json.dumps([("ranks", changes)]))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    program = ["-m", "tests.distributed_run", str(tmp_path), str(tmp_path / "scenarios.json")]
    done = subprocess.run([*launcher, *program], capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-4000:]

    first, second = (json.loads((tmp_path / f"ranks-{rank}.json").read_text()) for rank in range(2))
    assert first["error"] == second["error"] == ""
    assert first["steps"] == second["steps"] == 3
    assert first["rollouts"] == sum(metrics["rollouts/count"] for metrics in first["metrics"]) >= 3 * 16
    weights = [np.load(tmp_path / f"ranks-{rank}.npz") for rank in range(2)]
    for name in weights[0]:
        np.testing.assert_array_equal(weights[0][name], weights[1][name])
    # The gap is over both ranks' rollouts: one engine that had missed an update would show.
    trained = [metrics for metrics in first["metrics"] if metrics["learner/gradient_norm"] > 0]
    assert len(trained) >= 2
    assert all(metrics["learner/engine_gap"] < 1e-3 for metrics in trained)
    assert trained[0]["learner/kl"] > 1e-3
