"""One run: everything is started, suffers its schedule, comes to rest and is judged."""

from __future__ import annotations

import heapq
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
from google.protobuf.json_format import ParseDict

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1.curriculum_pb2_grpc import CurriculumServiceStub
from sampler_service.log import parse_revision
from tests.chaos import verdict
from tests.chaos.journal import lines
from tests.chaos.schedule import Action, schedule
from tests.chaos.system import System
from tests.chaos.trainer import CURRICULUM

__all__ = ["Figures", "run"]

_PROMPTS: Final = 300
_LEASE_SECONDS: Final = 3.0
LEAST_ACKNOWLEDGED: Final = 100
"""Fewer, and the run has shown nothing."""
_PATIENCE_SECONDS: Final = 300.0
Later = list[tuple[float, int, Callable[[], object]]]


@dataclass
class Figures:
    """What happened in a run that kept every promise."""

    faults: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    entries: int = 0
    """Of the log."""
    host_starts: int = 0
    trainer_starts: int = 0

    def told(self) -> str:
        """For people."""
        faults = "\n".join(f"  {count:3d} x {fault}" for fault, count in self.faults.most_common())
        return (
            f"every promise was kept: {self.acknowledged:,} reports acknowledged, {self.entries:,} entries in the log,"
            f" hosts started {self.host_starts} times, trainers {self.trainer_starts} times, after\n{faults}"
        )


class Watch:
    """Asks every worker again and again how far it is: never back."""

    def __init__(self, targets: list[str]) -> None:
        self.wrong: list[str] = []
        self._ending = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(target,)) for target in targets]
        for thread in self._threads:
            thread.start()

    def _follow(self, target: str) -> None:
        reached = (0, 0)
        with grpc.insecure_channel(target) as channel:
            stub = CurriculumServiceStub(channel)
            while not self._ending.wait(0.3):
                try:
                    answer = stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=CURRICULUM), timeout=5)
                except grpc.RpcError:
                    continue
                revision = parse_revision(answer.curriculum.revision)
                if revision < reached:
                    self.wrong.append(f"{target} was at {reached} and says {revision} now")
                reached = max(reached, revision)

    def finish(self) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(60)


def run(seed: int, seconds: float, trainers: int, say: Callable[[str], None] = print) -> Figures:
    """Raises AssertionError where a promise was broken; all files are then named.

    Args:
        seconds: for which faults come; starting and coming to rest are not in it.
    """
    # Not pytest's folder: its name is too long for a unix socket.
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder, ExitStack() as stack:
        system = System(Path(folder), trainers)
        stack.callback(system.close)
        try:
            return _Run(system, seed, seconds, trainers, say).run()
        except BaseException:
            for host in system.hosts:
                say(host.text()[-4000:])
            raise


def _serves(stub: CurriculumServiceStub) -> bool:
    try:
        stub.GetCurriculum(pb.GetCurriculumRequest(curriculum_id=CURRICULUM), timeout=5)
    except grpc.RpcError:
        return False
    return True


class _Run:
    def __init__(
        self, system: System, seed: int, seconds: float, trainers: int, say: Callable[[str], None]
    ) -> None:
        self._system = system
        self._actions = schedule(seed, seconds, trainers)
        self._say = say
        self._later: Later = []
        self._number = 0
        self._figures = Figures()
        self._began = time.monotonic()
        say(f"seed {seed}: {len(self._actions)} faults in {seconds:.0f} s, {trainers} trainers")

    def run(self) -> Figures:
        system = self._system
        system.keep_running(trainers=False)
        added = self._make_pool()
        watch = Watch(system.targets)
        try:
            self._suffer()
            self._come_to_rest()
        finally:
            watch.finish()
        assert not watch.wrong, watch.wrong
        self._judge(added)
        return self._figures

    # -- the course of a run -------------------------------------------------------------

    def _stub(self, target: str, stack: ExitStack) -> CurriculumServiceStub:
        options = [("grpc.max_receive_message_length", -1)]
        return CurriculumServiceStub(stack.enter_context(grpc.insecure_channel(target, options=options)))

    def _make_pool(self) -> pb.AddPromptsRequest:
        strategy = ParseDict({"preset": "uniform-grpo", "lease_seconds": _LEASE_SECONDS}, pb.Strategy())
        added = pb.AddPromptsRequest(
            curriculum_id=CURRICULUM, request_id="add", prompt_ids=[f"p{i}" for i in range(_PROMPTS)]
        )
        with ExitStack() as stack:
            stub = self._stub(self._system.targets[0], stack)
            stub.CreateCurriculum(
                pb.CreateCurriculumRequest(request_id="create", curriculum_id=CURRICULUM, strategy=strategy),
                timeout=_PATIENCE_SECONDS,
                wait_for_ready=True,
            )
            stub.AddPrompts(iter([added]), timeout=_PATIENCE_SECONDS)
        return added

    def _suffer(self) -> None:
        """The schedule; before it each trainer has done something, and after it enough was done in all."""
        self._until(lambda: all(self._steps(one.name) for one in self._system.trainers))
        self._began = time.monotonic()
        for action in self._actions:
            self._until(lambda at=action.at_seconds: self._now() >= at)  # type: ignore[misc]
            self._carry_out(action)
        self._until(lambda: not self._later)

    def _come_to_rest(self) -> None:
        system = self._system
        system.quiet()
        before = {one.name: self._steps(one.name) for one in system.trainers}
        self._until(lambda: all(self._steps(name) > steps for name, steps in before.items()))
        self._until(lambda: self._acknowledged() >= LEAST_ACKNOWLEDGED)
        (system.folder / "stop").touch()
        self._until(lambda: all(one.done for one in system.trainers))
        # The trainers may have done without a host that is still on its way.
        with ExitStack() as stack:
            stubs = [self._stub(target, stack) for target in system.targets]
            self._until(lambda: all(map(_serves, stubs)))

    def _judge(self, added: pb.AddPromptsRequest) -> None:
        system, figures = self._system, self._figures
        told = verdict.Told.by(
            line for one in system.trainers for line in lines(system.folder / f"{one.name}.journal")
        )
        with ExitStack() as stack:
            stubs = [self._stub(target, stack) for target in system.targets]
            answered = verdict.history(told, system.reader.account, added, stubs[0])
            summary = pb.GetSummaryRequest(curriculum_id=CURRICULUM)
            # What the dead had taken runs out; after that nothing writes any more.
            self._until(lambda: not verdict.answer_of(stubs[0].GetSummary, summary).summary.live_leases)
            account = system.reader.finish()
            folded = verdict.fold(account)
            for number, stub in enumerate(stubs):
                state = verdict.state_of(stub, system.folder / f"state-{number}", account.revision)
                assert state.revision == folded.revision
                assert state.digest() == folded.digest(), (
                    f"{system.targets[number]} is not the fold of the log"
                )
        verdict.evidence_is_prior_and_unique_reports(answered, folded)
        verdict.batches_are_those_of_the_log(told, account, folded)
        figures.acknowledged, figures.entries = len(told.acknowledged), len(account)
        figures.host_starts = sum(one.starts for one in system.hosts)
        figures.trainer_starts = sum(one.starts for one in system.trainers)
        self._say(figures.told())

    # -- time ----------------------------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() - self._began

    def _until(self, condition: Callable[[], bool]) -> None:
        """Waits, and meanwhile does what was put off and starts again what has ended."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, "the run does not get on"
            while self._later and self._later[0][0] <= self._now():
                heapq.heappop(self._later)[2]()
            self._system.keep_running()
            time.sleep(0.02)

    def _in(self, seconds: float, what: Callable[[], object]) -> None:
        self._number += 1
        heapq.heappush(self._later, (self._now() + seconds, self._number, what))

    def _steps(self, trainer: str) -> int:
        return sum(line["kind"] == "step done" for line in lines(self._system.folder / f"{trainer}.journal"))

    def _acknowledged(self) -> int:
        return sum(
            line["kind"] == "acknowledged"
            for one in self._system.trainers
            for line in lines(self._system.folder / f"{one.name}.journal")
        )

    # -- faults --------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        if self._strike(action):
            self._figures.faults[action.what] += 1

    def _strike(self, action: Action) -> bool:
        """Whether there was anything to strike."""
        system = self._system
        host, trainer = system.hosts[action.host], system.trainers[action.trainer]
        match action.what:
            case "kill a worker" | "stop a worker":
                pid = host.worker(action.worker)
                return pid is not None and self._hit(pid, action)
            case "kill a host" | "end a host":
                if host.process is None or not host.may_run:
                    return False
                host.may_run = False
                host.signal(signal.SIGKILL if action.what == "kill a host" else signal.SIGTERM)
                self._in(action.seconds, lambda: setattr(host, "may_run", True))
            case "kill a trainer" | "stop a trainer":
                process = trainer.process
                return process is not None and process.poll() is None and self._hit(process.pid, action)
            case "kill the log" | "end the log" | "freeze the log":
                if not system.log_is_up:
                    return False
                system.log_is_up = False
                if action.what == "freeze the log":
                    system.server.freeze()
                    self._in(action.seconds, self._thaw)
                    return True
                (system.server.kill if action.what == "kill the log" else system.server.stop)()
                self._in(action.seconds, self._start_log)
            case "cut a host's wire":
                system.cut(action.host)
            case _:
                system.arm(action.host, action.fault, action.chunks_before)
        return True

    def _hit(self, pid: int, action: Action) -> bool:
        system = self._system
        if action.what.startswith("stop"):
            there = system.stop_process(pid)
            self._in(action.seconds, lambda: system.let_go_on(pid))
            return there
        return system.kill_process(pid)

    def _thaw(self) -> None:
        self._system.server.thaw()
        self._system.log_is_up = True

    def _start_log(self) -> None:
        self._system.server.start()
        self._system.log_is_up = True
