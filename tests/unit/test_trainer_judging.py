"""Verdicts: who is asked, side by side or one after the other, and what ends with a stuck verifier."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer_client.client import RolloutStatus
from trainer_client.judging import LocalJudge
from trainer_client.rollouts import Completion
from trainer_client.tasks import TaskPrompt, VerifierError
from trainer_client.tasks.reasoning_gym_task import between, reasoning_gym_pool
from trainer_client.tasks.timed import TimedVerifier
from trainer_client.tasks.verifiers import load_verifier
from trainer_client.trainer_errors import ConfigError

pytestmark = pytest.mark.torch
HERE = "tests.unit.test_trainer_judging"


def says_the_answer(completion: str, answer: str) -> float:
    """A verifier for worker processes."""
    return float(completion == answer)


def starts_a_process_and_hangs(completion: str, answer: str) -> float:
    """Leaves the id of a process it has started in the file that the completion names."""
    if completion == "1":  # The warm-up call.
        return 0.0
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    Path(completion).write_text(str(process.pid))
    time.sleep(3600)
    return 1.0


def goes_wrong(completion: str, answer: str) -> float:
    """Does what the completion says."""
    if completion == "exit":
        sys.exit(3)
    if completion == "die":
        os._exit(3)
    if completion == "hang":
        time.sleep(3600)
    if completion == "fork" and os.fork() == 0:
        return 0.25
    return 1.0


def hangs_when_warmed_up(completion: str, answer: str) -> float:
    """A verifier that never ends for the call that a worker begins with."""
    if completion == "1":
        time.sleep(3600)
    return 0.5


no_function = 7


def completion(text: str, reason: str = "stop") -> Completion:
    return Completion((1,), (0.0,), text, reason)  # type: ignore[arg-type]


def test_verdicts_come_in_the_order_of_the_completions_whoever_judges() -> None:
    timed = TimedVerifier(f"{HERE}:says_the_answer", workers=2)
    threads: set[int] = set()

    def here(text: str, answer: str) -> float:
        threads.add(threading.get_ident())
        if text == "broken":
            raise VerifierError("out of order")
        return 0.25

    rollouts = [
        (TaskPrompt("a", "", "x", timed), [completion("x"), completion("y"), completion("x", "length")]),
        (TaskPrompt("b", "", "", here), [completion("any"), completion("broken")]),
        (TaskPrompt("c", "", "z", timed), [completion("z")]),
    ]
    try:
        verdicts = LocalJudge().judge(rollouts)
    finally:
        timed.close()
    assert [[v.reward for v in group] for group in verdicts] == [[1, 0, 1], [0.25, 0], [1]]
    assert [v.status for v in verdicts[0]] == [RolloutStatus.OK, RolloutStatus.OK, RolloutStatus.TRUNCATED]
    assert verdicts[1][1].status is RolloutStatus.ERROR
    assert threads == {threading.get_ident()}
    assert LocalJudge().judge([]) == []


def test_a_verifier_that_exits_dies_hangs_or_forks_fails_that_verdict_and_no_other() -> None:
    verifier = TimedVerifier(f"{HERE}:goes_wrong", timeout_seconds=5.0)
    try:
        for said, problem in (("exit", "SystemExit: 3"), ("die", "died"), ("hang", "longer than")):
            with pytest.raises(VerifierError, match=problem):
                verifier(said, "")
            assert verifier("fine", "") == 1.0
        # A child that goes on would give a verdict of its own, to be taken for the next completion's.
        assert [verifier(said, "") for said in ("fork", "fine", "fork", "fine", "fine")] == [1.0] * 5
    finally:
        verifier.close()


def test_a_verifier_that_hangs_at_the_start_is_waited_for_once_by_all_its_workers() -> None:
    verifier = TimedVerifier(f"{HERE}:hangs_when_warmed_up", timeout_seconds=30.0, warm_up_seconds=0.1)
    try:
        assert verifier("2", "") == 0.5
        assert not verifier._idle.queue[0]._how.warm_up
    finally:
        verifier.close()


def test_what_is_no_function_is_no_verifier() -> None:
    with pytest.raises(ConfigError, match="is no function but a int"):
        load_verifier(f"{HERE}:no_function")


def test_what_a_stuck_verifier_has_started_ends_with_it(tmp_path: Path) -> None:
    verifier = TimedVerifier(f"{HERE}:starts_a_process_and_hangs", timeout_seconds=4.0)
    file = tmp_path / "pid"
    with pytest.raises(VerifierError, match="longer than"):
        verifier(str(file), "")
    pid = int(file.read_text())
    deadline = time.monotonic() + 120
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that nobody has collected yet has ended, too.
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_reasoning_gym_verdict_that_never_ends_is_cut_short() -> None:
    pool = reasoning_gym_pool("countdown", 3, shots=0, held_out_share=0.0, timeout_seconds=8.0)
    prompt = pool.train[0]
    assert prompt.reward(prompt.answer) == 1.0
    assert prompt.reward("1+1") == 0.0
    with pytest.raises(VerifierError, match=r"longer than 8\.0 s"):
        prompt.reward("9**9**9**9**9")
    assert prompt.reward(prompt.answer) == 1.0


def test_only_what_stands_between_the_tags_is_judged() -> None:
    pool = reasoning_gym_pool("chain_sum", 3, answer_tags=("<answer>", "</answer>"), stop=())
    prompt = pool.train[0]
    assert prompt.reward(f"first <answer>0</answer>, no: <answer> {prompt.answer} </answer>.") == 1.0
    assert prompt.reward(prompt.answer) == 0.0
    assert between("a <x>1", "<x>", "</x>") is None
