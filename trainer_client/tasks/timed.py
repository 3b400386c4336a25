"""A verifier with a time limit: it runs in worker processes that are killed when they take too long."""

import contextlib
import logging
import multiprocessing
import os
import queue
import signal
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection

from trainer_client.tasks.protocol import VerifierError
from trainer_client.tasks.verifiers import load_verifier

# Starting a worker imports the verifier's libraries; that is not the completion's fault.
START_SECONDS = 60.0
# So is what it imports when it is first called.
WARM_UP_SECONDS = 30.0
# A worker that outlives its parent in the middle of a verdict ends itself so much after the limit.
ORPHAN_SECONDS = 5.0


class TimedVerifier:
    """Runs a named verifier in processes of its own; raises VerifierError past `timeout_seconds`.

    name: as for `load_verifier`. workers: how many verdicts may be in the making; as many threads
    may call at once. A worker is started on first use and again after it was killed, together with
    whatever processes it has started; those end with the trainer, too.
    """

    def __init__(
        self,
        name: str,
        timeout_seconds: float = 5.0,
        *,
        workers: int = 1,
        warm_up_seconds: float = WARM_UP_SECONDS,
    ) -> None:
        load_verifier(name)  # A wrong name is an error now, not after the first rollout.
        self.name = name
        self.timeout_seconds = timeout_seconds
        self.workers = workers
        start = _Start(warm_up_seconds)
        everyone = [_Worker(name, timeout_seconds, start) for _ in range(workers)]
        # The last one used comes first, so that no more are started than are needed.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in everyone:
            self._idle.put(worker)
        # What verifiers have started outlives a worker that merely ends: see `_Worker.close`.
        weakref.finalize(self, _close_all, everyone)

    def __call__(self, completion: str, answer: str) -> float:
        """The verifier's reward; VerifierError when it fails, dies or takes too long."""
        worker = self._idle.get()
        try:
            return worker.judge(completion, answer)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """Ends the workers that are idle."""
        workers = []
        with contextlib.suppress(queue.Empty):
            while True:
                workers.append(self._idle.get_nowait())
        _close_all(workers)
        for worker in workers:
            self._idle.put(worker)


class _Start:
    """How workers of one verifier start. warm_up: whether with a call that is no verdict."""

    def __init__(self, warm_up_seconds: float) -> None:
        self.warm_up_seconds = warm_up_seconds
        self.warm_up = True


class _Worker:
    """One process, or none yet."""

    def __init__(self, name: str, timeout_seconds: float, start: _Start) -> None:
        self.name = name
        self.timeout_seconds = timeout_seconds
        self._how = start
        self._process: multiprocessing.process.BaseProcess | None = None
        self._connection: Connection | None = None

    def judge(self, completion: str, answer: str) -> float:
        connection = self._connection or self._start()
        try:
            connection.send((completion, answer))
            if not connection.poll(self.timeout_seconds):
                self.close()
                raise VerifierError(f"verifier {self.name!r} took longer than {self.timeout_seconds} s")
            reward, problem = connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise VerifierError(f"verifier {self.name!r}: its process died ({error!r})") from error
        if problem:
            raise VerifierError(problem)
        return float(reward)

    def close(self) -> None:
        if self._process is not None and self._process.pid is not None:
            # It leads a group of its own, so what a verifier has started ends with it.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.kill()
            self._process.join()
        if self._connection is not None:
            self._connection.close()
        self._process = self._connection = None

    def _start(self) -> Connection:
        connection = self._started()
        if self._how.warm_up and not self._heard(connection, self._how.warm_up_seconds):
            # A verifier that hangs may do so in the call that warms up, too: it is spared once for all workers.
            self._how.warm_up = False
            self.close()
            connection = self._started()
        return connection

    def _started(self) -> Connection:
        """The connection to a new process that has loaded the verifier."""
        # Spawned, not forked: a fork of a process with torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        arguments = (there, self.name, self.timeout_seconds, self._how.warm_up)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        there.close()
        self._process, self._connection = process, here
        if not self._heard(here, START_SECONDS):
            self.close()
            raise VerifierError(f"verifier {self.name!r}: its process did not start in {START_SECONDS:.0f} s")
        return here

    def _heard(self, connection: Connection, seconds: float) -> bool:
        try:
            if not connection.poll(seconds):
                return False
            connection.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise VerifierError(
                f"verifier {self.name!r}: its process died at the start ({error!r})"
            ) from error
        return True


def _close_all(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.close()


def _work(connection: Connection, name: str, timeout_seconds: float, warm_up: bool) -> None:
    os.setsid()
    own_id = os.getpid()
    # It warns once per process that its own time limits are off: ours are what holds.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    verify = load_verifier(name)
    connection.send("loaded")
    if warm_up:
        # What the verifier imports on its first call must not count as the first completion's time.
        with contextlib.suppress(VerifierError):
            verify("1", "1")
        _end_forks(own_id)
        connection.send("warm")
    while True:
        try:
            completion, answer = connection.recv()
        except (EOFError, KeyboardInterrupt):
            break
        # The kernel ends even a verifier that is stuck in compiled code, should nobody be left to kill it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout_seconds + ORPHAN_SECONDS)
        try:
            outcome = (verify(completion, answer), "")
        except VerifierError as error:
            outcome = (0.0, str(error))
        _end_forks(own_id)
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            connection.send(outcome)
        except OSError:
            break
    # The trainer is gone; so is what the verifier has started.
    os.killpg(own_id, signal.SIGKILL)


def _end_forks(own_id: int) -> None:
    """Ends a process that the verifier forked and let go on: its verdict would pass for another completion's."""
    if os.getpid() != own_id:
        os._exit(0)
