"""What the vLLM engine asks of vLLM, against a stand-in. The real one is tried in tests/real_vllm."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.trainer_fakes import FakeCurriculum
from tests.vllm_fakes import FakeVllm, vllm_modules
from trainer_client.client import RolloutStatus
from trainer_client.rollouts import RolloutRequest, SamplingParams
from trainer_client.rollouts.vllm_engine import VllmEngine, lora_rank_slot, prompt_seed
from trainer_client.rounds import ReadPrompt, collect
from trainer_client.stopwatch import Stopwatch
from trainer_client.tasks import TaskPrompt
from trainer_client.trainer_errors import DataError, ModelError

pytestmark = pytest.mark.torch
SAMPLING = SamplingParams(0.7, 0.9, 5, ("\n",))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[FakeVllm]]:
    """The stand-in's engines; the environment is put back afterwards."""
    modules: dict[str, Any] = dict(vllm_modules())
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    before = dict(os.environ)
    yield modules["vllm"].made
    os.environ.clear()
    os.environ.update(before)


def request(name: str, steps: int, n: int, first: int = 0) -> RolloutRequest:
    return RolloutRequest(name, (3, steps), n, first)


def test_every_prompt_gets_its_quota_and_seeds_of_its_own(made: list[FakeVllm]) -> None:
    engine = VllmEngine("some-model", temperature=0.7, max_lora_rank=4)
    asked = [request(f"p{index}", 5 - index, count) for index, count in enumerate([3, 0, 4, 2])]

    groups = engine.generate(asked, SAMPLING, seed=9)

    assert made[0].arguments["enable_lora"] is True
    assert made[0].arguments["enable_prefix_caching"] is True
    assert made[0].arguments["max_lora_rank"] == 8
    assert [group.prompt_id for group in groups] == ["p0", "p1", "p2", "p3"]
    assert [len(group.completions) for group in groups] == [3, 0, 4, 2]
    completion = groups[0].completions[0]
    assert completion.token_ids == (4, 9)
    assert completion.log_probs == (-0.5, -1.5)
    assert completion.text == "7"
    assert completion.finish_reason == "length"
    parameters = [one.parameters for one in made[0].asked.values()]
    assert [p.n for p in parameters] == [3, 4, 2]
    assert {(p.temperature, p.top_p, p.max_tokens) for p in parameters} == {(0.7, 0.9, 5)}
    assert parameters[0].stop == ["\n"]
    assert parameters[0].logprobs == 0
    seeds = [p.seed + place for p in parameters for place in range(p.n)]
    assert len(set(seeds)) == 9


def test_log_probs_are_asked_for_as_they_were_sampled_from(made: list[FakeVllm]) -> None:
    VllmEngine("some-model", temperature=1.0)
    VllmEngine("some-model", temperature=0.7)
    assert [one.arguments["logprobs_mode"] for one in made] == ["raw_logprobs", "processed_logprobs"]


def test_short_groups_come_first_and_a_continuation_joins_the_long_one(made: list[FakeVllm]) -> None:
    engine = VllmEngine("some-model")
    with engine.session(SAMPLING, 9) as session:
        session.submit([request("slow", 7, 2), request("quick", 2, 2)])
        assert [group.prompt_id for group in session.finished()] == ["quick"]
        assert made[0].steps == 2
        session.submit([request("quick", 1, 3, first=2)])
        assert [group.prompt_id for group in session.finished()] == ["quick"]
        assert made[0].steps == 3
        assert [group.prompt_id for group in session.finished()] == ["slow"]
        assert session.finished() == []
    seed = prompt_seed(9, "quick")
    assert made[0].asked["quick/0"].parameters.seed == seed
    assert made[0].asked["quick/2"].parameters.seed == seed + 2
    assert made[0].aborted == []


def test_leaving_a_session_gives_up_what_is_in_flight(made: list[FakeVllm]) -> None:
    engine = VllmEngine("some-model")
    with engine.session(SAMPLING, 9) as session:
        session.submit([request("slow", 7, 2), request("quick", 1, 2)])
        session.finished()
    assert made[0].aborted == ["slow/0"]
    assert len(engine.generate([request("slow", 7, 1)], SAMPLING, 9)) == 1


def test_every_published_policy_has_an_adapter_id_and_name_of_its_own(
    made: list[FakeVllm], tmp_path: Path
) -> None:
    engine = VllmEngine("some-model")
    engine.generate([request("p", 1, 1)], SAMPLING, 0)
    assert made[0].asked["p/0"].lora is None
    seen = []
    # Version 2 comes twice, as after a resume.
    for version in (1, 2, 2):
        engine.update_policy(version, tmp_path)
        engine.generate([request("p", 1, 1)], SAMPLING, 0)
        seen.append(made[0].asked["p/0"].lora)
        assert made[0].loras == [seen[-1].lora_int_id]
    assert len({lora.lora_int_id for lora in seen}) == 3
    assert len({lora.lora_name for lora in seen}) == 3
    assert all(lora.lora_int_id >= 1 for lora in seen)
    assert engine.policy_version == 2
    engine.update_policy(3, None)
    assert made[0].loras == []


def test_an_engine_that_sleeps_wakes_for_requests_and_adapters(made: list[FakeVllm], tmp_path: Path) -> None:
    engine = VllmEngine("some-model", sleep=True)
    assert made[0].arguments["enable_sleep_mode"] is True
    engine.rest()
    engine.rest()
    engine.update_policy(1, tmp_path)
    engine.generate([request("p", 1, 1)], SAMPLING, 0)
    engine.rest()
    engine.generate([request("q", 1, 1)], SAMPLING, 0)
    engine.close()
    assert made[0].states == ["sleep 1", "wake", "sleep 1", "wake", "down"]
    assert not any(one.asleep for one in made[0].asked.values())


def test_an_engine_that_shares_nothing_does_not_sleep(made: list[FakeVllm]) -> None:
    engine = VllmEngine("some-model")
    engine.rest()
    assert made[0].states == []


def test_an_engine_that_died_says_where_to_look(made: list[FakeVllm]) -> None:
    engine = VllmEngine("some-model")
    made[0].dies_at_step = 1
    with pytest.raises(ModelError, match=r"died.*gpu_memory_share"):
        engine.generate([request("p", 5, 1)], SAMPLING, 0)


def test_an_engine_that_does_not_start_names_its_settings(made: list[FakeVllm]) -> None:
    with pytest.raises(ModelError, match=r"no such dtype.*vllm_arguments"):
        VllmEngine("some-model", arguments={"dtype": "float7"})
    VllmEngine("some-model", arguments={"tensor_parallel_size": 2})
    assert made[0].arguments["tensor_parallel_size"] == 2


def test_a_prompt_without_room_for_a_completion_is_named(made: list[FakeVllm]) -> None:
    engine = VllmEngine("some-model", max_model_tokens=2)
    with pytest.raises(DataError, match=r"'p'.*max_model_tokens is 2"):
        engine.generate([request("p", 1, 1)], SAMPLING, 0)


def test_ranks_are_those_that_vllm_has() -> None:
    assert [lora_rank_slot(rank) for rank in (1, 4, 8, 12, 16, 512)] == [1, 8, 8, 16, 16, 512]
    with pytest.raises(ModelError, match="513"):
        lora_rank_slot(513)


def read(name: str, steps: int) -> ReadPrompt:
    return ReadPrompt(TaskPrompt(name, name, "7", lambda text, answer: float(text == answer)), (3, steps))


def test_a_batch_reports_each_group_when_it_is_done(made: list[FakeVllm]) -> None:
    prompts = {"slow": read("slow", 9), "quick": read("quick", 1)}
    service = FakeCurriculum(list(prompts), group_size=2, max_rounds=3)
    batch = service.next_batch("c", batch_size=2, step=0)
    watch = Stopwatch()
    collected = collect(service, batch, prompts, VllmEngine("m"), SAMPLING, 5, watch, lambda: False)

    # Every rollout is right, so each prompt is one-sided and gets all three rounds; quick is long done.
    assert [list(report) for report in service.reports] == [["quick"]] * 3 + [["slow"]] * 3
    assert {group.prompt.prompt_id: len(group.rewards) for group in collected.groups} == {
        "slow": 6,
        "quick": 6,
    }
    assert collected.rounds == 3
    assert made[0].steps == 27
    assert {status for group in collected.groups for status in group.statuses} == {RolloutStatus.TRUNCATED}


def test_a_prompt_held_back_is_no_group_unless_it_is_asked_for(made: list[FakeVllm]) -> None:
    prompts = {"p": read("p", 1), "held": read("held", 1)}
    service = FakeCurriculum(list(prompts), group_size=2)
    batch = service.next_batch("c", batch_size=2, step=0)
    quotas = np.array([2, 0], dtype=np.int32)
    batch = replace(batch, prompt_ids=["p", "held"], quotas=quotas)
    collected = collect(service, batch, prompts, VllmEngine("m"), SAMPLING, 5, Stopwatch(), lambda: False)
    assert [group.prompt.prompt_id for group in collected.groups] == ["p"]


def test_a_rollout_that_the_engine_gave_up_is_no_outcome(made: list[FakeVllm]) -> None:
    prompts = {"p": read("p", 1)}
    service = FakeCurriculum(["p"], group_size=2)
    batch = service.next_batch("c", batch_size=1, step=0)
    engine = VllmEngine("m")
    made[0].finish_reason = "abort"
    collected = collect(service, batch, prompts, engine, SAMPLING, 5, Stopwatch(), lambda: False)
    assert collected.groups[0].statuses == [RolloutStatus.ERROR] * 2
    assert service.state.rollouts["p"] == 0
