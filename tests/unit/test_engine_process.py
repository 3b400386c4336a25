"""vLLM in a process of its own, with the stand-in for vLLM there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vllm_fakes import stand_in_path, vllm_modules
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.engine_environment import engine_environment
from trainer_client.rollouts.engine_process import EngineProcess
from trainer_client.rollouts.vllm_engine import VllmEngine
from trainer_client.trainer_errors import DataError, ModelError

pytestmark = pytest.mark.timeout(120)
SAMPLING = SamplingParams(0.7, 0.9, 5, ("\n",))


def started(**settings: Any) -> EngineProcess:
    return EngineProcess({"model": "some-model", **settings}, {**os.environ, "PYTHONPATH": stand_in_path()})


@pytest.fixture(scope="module")
def engine() -> Iterator[EngineProcess]:
    made = started(max_model_tokens=40, arguments={"seeded": True})
    yield made
    made.close()


def request(name: str, steps: int, n: int, first: int = 0) -> RolloutRequest:
    return RolloutRequest(name, (3, steps), n, first)


def test_it_samples_what_the_engine_samples_in_this_process(
    engine: EngineProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, module in vllm_modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    asked = [request("a", 5, 3), request("b", 1, 0), request("c", 2, 4)]
    expected = VllmEngine("some-model", arguments={"seeded": True}).generate(asked, SAMPLING, seed=9)
    assert engine.generate(asked, SAMPLING, seed=9) == expected
    assert [len(group.completions) for group in expected] == [3, 0, 4]
    assert len({c.token_ids for group in expected for c in group.completions}) > 1


def test_a_continuation_joins_what_is_being_sampled(engine: EngineProcess) -> None:
    with engine.session(SAMPLING, 9) as session:
        assert session.finished(wait_seconds=0.01) == []
        # Longer than anything else here: it ends only because it is given up.
        session.submit([request("endless", 1_000_000_000, 1), request("quick", 1, 2)])
        assert [group.prompt_id for group in session.finished()] == ["quick"]
        session.submit([request("quick", 1, 3, first=2)])
        (more,) = session.finished()
        assert len(more.completions) == 3
        assert session.finished(wait_seconds=0.01) == []
    # What was given up is no answer to the next one.
    (group,) = engine.generate([request("next", 1, 1)], SAMPLING, 9)
    assert group.prompt_id == "next"


def test_a_request_that_is_refused_leaves_the_engine_usable(engine: EngineProcess) -> None:
    long = RolloutRequest("long", (1,) * 40, 1)
    with pytest.raises(DataError, match=r"'long'.*max_model_tokens is 40"):
        engine.generate([request("fine", 1, 1), long], SAMPLING, 9)
    assert len(engine.generate([request("fine", 1, 2)], SAMPLING, 9)[0].completions) == 2


def test_adapters_are_loaded_there_before_it_returns(engine: EngineProcess, tmp_path: Path) -> None:
    engine.update_policy(1, tmp_path)
    engine.rest()
    with pytest.raises(ModelError, match="AssertionError"):
        engine.update_policy(2, tmp_path / "not-there")


def test_a_process_that_is_killed_says_so_wherever_it_is_asked() -> None:
    engine = started()
    with engine.session(SAMPLING, 0) as session:
        session.submit([request("endless", 1_000_000_000, 1)])
        os.kill(engine.process_id, signal.SIGKILL)
        with pytest.raises(ModelError, match=r"signal 9 \(SIGKILL\).*gpu_memory_share"):
            session.finished()
    with pytest.raises(ModelError, match="SIGKILL"):
        engine.update_policy(1, None)
    engine.close()


def test_an_engine_that_does_not_start_says_why_and_leaves_no_process() -> None:
    with pytest.raises(ModelError, match=r"no such dtype.*vllm_arguments"):
        started(arguments={"dtype": "float7"})


def test_closing_ends_the_process() -> None:
    engine = started()
    engine.close()
    with pytest.raises(ProcessLookupError):
        os.kill(engine.process_id, 0)


def test_an_engine_apart_is_told_nothing_by_the_launcher() -> None:
    launcher = {
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "4",
        "MASTER_PORT": "1",
        "TORCHELASTIC_RUN_ID": "x",
    }
    found = engine_environment({**launcher, "HOME": "/home/me", "OMP_NUM_THREADS": "4"}, None)
    assert found == {"HOME": "/home/me", "OMP_NUM_THREADS": "4"}


@pytest.mark.parametrize(
    ("visible", "gpu", "expected"),
    [(None, 2, "2"), ("", 1, "1"), ("4,5,6", 1, "5"), ("GPU-a, GPU-b", 1, "GPU-b"), ("7", 0, "7")],
)
def test_an_engine_apart_sees_its_ranks_gpu_alone(visible: str | None, gpu: int, expected: str) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert engine_environment(environment, gpu) == {"CUDA_VISIBLE_DEVICES": expected}
