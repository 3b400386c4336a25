"""Tasks: what prompts look like, that ids are stable, splits disjoint, verifiers right and bounded in time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from trainer_client.tasks import Pool, TaskPrompt, VerifierError
from trainer_client.tasks.arithmetic import arithmetic_pool, parse_kind
from trainer_client.tasks.protocol import is_held_out, merge_pools, split_pool, stable_id
from trainer_client.tasks.reasoning_gym_task import reasoning_gym_pool
from trainer_client.tasks.timed import TimedVerifier
from trainer_client.tasks.verifiers import load_verifier, math_equal
from trainer_client.trainer_errors import ConfigError, DataError

pytestmark = pytest.mark.torch


def sleeps(completion: str, answer: str) -> float:
    """For the time-out test: takes as long as the completion says."""
    time.sleep(float(completion))
    return 1.0


def everything(pool: Pool) -> list[TaskPrompt]:
    return [*pool.train, *pool.held_out]


@pytest.mark.parametrize("kind", ["copy-2", "next-3", "max-2", "add-1", "add-3", "sub-2", "mul-1", "mul-3"])
def test_arithmetic_asks_what_its_answer_answers(kind: str) -> None:
    compute = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "*": lambda a, b: a * b}
    pool = arithmetic_pool([kind], 50)
    assert len(everything(pool)) == 50
    for prompt in everything(pool):
        *shots, question = prompt.text.split("\n")
        assert len(shots) == 3
        assert question not in "\n".join(shots)
        assert prompt.cluster == kind
        for sign, operation in compute.items():
            if f"{sign}" in question and kind[:3] in ("add", "sub", "mul"):
                a, b = question.rstrip("=").split(sign)
                assert int(prompt.answer) == operation(int(a), int(b))
                assert {len(a), len(b)} == {int(kind[-1])}
        assert prompt.reward(f" {prompt.answer}\n7+1=8") == 1
        assert prompt.reward(f"{prompt.answer}0") == 0


def test_one_digit_addition_has_as_many_prompts_as_there_are_pairs() -> None:
    assert len(everything(arithmetic_pool(["add-1"], 500))) == 100 - 3


def test_prompt_ids_do_not_depend_on_the_run_or_on_the_neighbours() -> None:
    alone = {p.prompt_id: p.text for p in everything(arithmetic_pool(["add-2"], 40))}
    among = {p.prompt_id: p.text for p in everything(arithmetic_pool(["mul-1", "add-2"], 40))}
    assert alone.items() <= among.items()
    assert stable_id("add-1", "1+1=") == "add-1/" + stable_id("", "1+1=")


def test_the_held_out_split_is_by_id_disjoint_and_about_the_share_asked_for() -> None:
    pool = arithmetic_pool(["add-3", "mul-3"], 1000, held_out_share=0.2)
    train, held = {p.prompt_id for p in pool.train}, {p.prompt_id for p in pool.held_out}
    assert not train & held
    assert 0.17 < len(held) / len(train | held) < 0.23
    assert all(is_held_out(prompt_id, 0.2) for prompt_id in held)
    assert all(is_held_out(prompt_id, 0.4) for prompt_id in held)
    assert not arithmetic_pool(["add-1"], 50, held_out_share=0.0).held_out


def test_a_pool_with_nothing_to_train_on_is_an_error() -> None:
    with pytest.raises(DataError, match="held_out_share"):
        split_pool([], 0.1)


@pytest.mark.parametrize(
    ("kind", "message"), [("div-2", "'div-2'.*add"), ("add-x", "digits"), ("add", "digits")]
)
def test_an_unknown_kind_is_named(kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_kind(kind)


def test_features_become_one_matrix_scaled_to_one() -> None:
    pool = merge_pools(
        [
            arithmetic_pool(["add-1", "mul-2"], 20),
            reasoning_gym_pool("chain_sum", 20, parameters={"max_digits": 1, "min_digits": 1}),
        ]
    )
    matrix = pool.embeddings()
    assert matrix.shape[0] == len(pool.train)
    assert matrix.dtype == np.float32
    assert np.abs(matrix).max() == 1
    assert np.isfinite(matrix).all()
    assert len(np.unique(matrix, axis=0)) > 3


def test_a_reasoning_gym_task_uses_the_library_s_verifier() -> None:
    pool = reasoning_gym_pool("chain_sum", 30, shots=1, parameters={"min_digits": 1, "max_digits": 1})
    assert len(everything(pool)) <= 30
    for prompt in everything(pool):
        assert prompt.cluster == "chain_sum"
        assert prompt.text.count("\n") >= 1
        assert prompt.reward(f" {prompt.answer}") == 1
        assert prompt.reward("nonsense") == 0


def test_partial_credit_of_reasoning_gym_is_kept_on_request_only() -> None:
    rewards = []
    for partial_credit in (False, True):
        pool = reasoning_gym_pool("chain_sum", 5, partial_credit=partial_credit)
        rewards.append([prompt.reward(f"about {prompt.answer}, say") for prompt in everything(pool)])
    assert set(rewards[0]) == {0.0}
    assert all(0 < reward < 1 for reward in rewards[1])


def test_levels_of_reasoning_gym_get_harder() -> None:
    low, high = (reasoning_gym_pool("chain_sum", 30, level=level) for level in (0, 3))
    assert {p.cluster for p in low.train} == {"chain_sum-0"}
    lengths = [np.mean([len(p.text) for p in pool.train]) for pool in (low, high)]
    assert lengths[1] > lengths[0]


@pytest.mark.parametrize(
    "arguments", [{"dataset": "no_such"}, {"dataset": "chain_sum", "parameters": {"no_such": 1}}]
)
def test_unknown_generators_and_settings_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no_such"):
        reasoning_gym_pool(**arguments)


def test_two_tasks_with_the_same_prompt_cannot_be_merged() -> None:
    pool = arithmetic_pool(["add-1"], 10)
    with pytest.raises(DataError, match="occurs in two tasks"):
        merge_pools([pool, pool])


@pytest.mark.parametrize(
    ("completion", "answer", "reward"),
    [
        ("so the answer is 42", "42", 1),
        ("$\\frac{1}{2}$", "0.5", 1),
        ("\\boxed{2x+2}", "2(x+1)", 1),
        ("the answer is 41", "42", 0),
        ("no idea", "42", 0),
    ],
)
def test_the_math_verifier_reads_equal_values_as_equal(completion: str, answer: str, reward: float) -> None:
    assert math_equal(completion, answer) == reward


@pytest.mark.parametrize("name", ["nothing", "no.such.module:f", "json:no_such_function"])
def test_an_unknown_verifier_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name.replace(".", r"\.")):
        load_verifier(name)


def test_a_verifier_of_the_user_s_that_raises_is_an_error_of_the_verifier() -> None:
    with pytest.raises(VerifierError, match="ValueError"):
        load_verifier(f"{__name__}:sleeps")("not a number", "1")


def test_a_verifier_that_takes_too_long_is_ended_and_the_next_verdict_works() -> None:
    verifier = TimedVerifier("tests.unit.test_trainer_tasks:sleeps", timeout_seconds=3.0)
    try:
        assert verifier("0", "1") == 1
        started = time.monotonic()
        with pytest.raises(VerifierError, match=r"longer than 3\.0 s"):
            verifier("3600", "1")
        assert time.monotonic() - started < 120
        assert verifier("0", "1") == 1
        with pytest.raises(VerifierError, match="ValueError"):
            verifier("word", "1")
    finally:
        verifier.close()
