"""A verifier with a time limit: it runs in worker processes that are killed when they take too long."""

import contextlib
import multiprocessing
import os
import queue
import signal
from multiprocessing.connection import Connection

from trainer_client.tasks.protocol import VerifierError
from trainer_client.tasks.verifiers import load_verifier

# Starting a worker imports the verifier's libraries; that is not the completion's fault.
START_SECONDS = 60.0
# A worker that outlives its parent in the middle of a verdict ends itself so much after the limit.
ORPHAN_SECONDS = 5.0


class TimedVerifier:
    """Runs a named verifier in processes of its own; raises VerifierError past `timeout_seconds`.

    name: as for `load_verifier`. workers: how many verdicts may be in the making; as many threads
    may call at once. A worker is started on first use and again after it was killed, together with
    whatever processes it has started.
    """

    def __init__(self, name: str, timeout_seconds: float = 5.0, *, workers: int = 1) -> None:
        load_verifier(name)  # A wrong name is an error now, not after the first rollout.
        self.name = name
        self.timeout_seconds = timeout_seconds
        self.workers = workers
        # The last one used comes first, so that no more are started than are needed.
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(_Worker(name, timeout_seconds))

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
        for worker in workers:
            worker.close()
            self._idle.put(worker)


class _Worker:
    """One process, or none yet."""

    def __init__(self, name: str, timeout_seconds: float) -> None:
        self.name = name
        self.timeout_seconds = timeout_seconds
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
        # Spawned, not forked: a fork of a process with torch's threads can hang.
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        process = context.Process(target=_work, args=(there, self.name, self.timeout_seconds), daemon=True)
        process.start()
        there.close()
        self._process, self._connection = process, here
        try:
            started = here.poll(START_SECONDS)
            if started:
                here.recv()
        except (EOFError, OSError) as error:
            self.close()
            raise VerifierError(
                f"verifier {self.name!r}: its process died at the start ({error!r})"
            ) from error
        if not started:
            self.close()
            raise VerifierError(f"verifier {self.name!r}: its process did not start in {START_SECONDS:.0f} s")
        return here


def _work(connection: Connection, name: str, timeout_seconds: float) -> None:
    os.setsid()
    verify = load_verifier(name)
    # What the verifier imports on its first call must not count as the first completion's time.
    with contextlib.suppress(Exception):
        verify("1", "1")
    connection.send("ready")
    while True:
        try:
            completion, answer = connection.recv()
        except (EOFError, KeyboardInterrupt):
            return
        # The kernel ends even a verifier that is stuck in compiled code, should nobody be left to kill it.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, timeout_seconds + ORPHAN_SECONDS)
        try:
            outcome = (verify(completion, answer), "")
        except Exception as error:
            outcome = (0.0, f"{type(error).__name__}: {error}")
        signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            connection.send(outcome)
        except OSError:
            return
