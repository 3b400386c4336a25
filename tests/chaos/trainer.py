"""One trainer, as a process: `python -m tests.chaos.trainer TARGET FOLDER NAME`.

It asks for batches, reports them in two parts and notes both before and after. After its death the next one of its
name goes on where the journal ends, with the outbox that is there: it asks for the same batch again and sends the
same reports. Now and then it sends a report a second time under another id, which must not count.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.chaos.journal import Journal, lines
from trainer_client.client import Batch, CurriculumClient, Report
from trainer_client.exceptions import (
    DeadlineError,
    FailedPreconditionError,
    NotFoundError,
    UnavailableError,
)

CURRICULUM: Final = "math"
_BATCH: Final = 8
_STEPS_PER_POLICY: Final = 5
_PATIENCE_SECONDS: Final = 20.0
_LONGEST_PAUSE_SECONDS: Final = 0.15
_NOT_NOW: Final = (UnavailableError, DeadlineError)


class Trainer:
    """The loop of one trainer."""

    def __init__(self, client: CurriculumClient, folder: Path, name: str) -> None:
        self._client = client
        self._folder = folder
        self._name = name
        self._journal = Journal(folder / f"{name}.journal")
        known = list(lines(folder / f"{name}.journal"))
        self._step = sum(line["kind"] == "step done" for line in known)

    def run(self) -> None:
        """Until the file `stop` appears; then everything in the outbox is sent."""
        while not (self._folder / "stop").exists():
            try:
                self._train()
            except _NOT_NOW as error:
                self._journal.note("not now", why=str(error))
        while self._client.pending_reports:
            try:
                self._client.flush(timeout_seconds=_PATIENCE_SECONDS)
            except _NOT_NOW as error:
                self._journal.note("not now", why=str(error))

    def _train(self) -> None:
        chance = random.Random(f"{self._name} {self._step}")
        policy = self._step // _STEPS_PER_POLICY
        if policy and self._step % _STEPS_PER_POLICY == 0:
            request_id = f"{self._name}-policy-{policy}"
            self._journal.note("advances", request_id=request_id, policy_version=policy)
            with _unless("POLICY_WENT_BACK"):  # Another trainer is ahead.
                self._client.advance_policy(CURRICULUM, policy, request_id=request_id)
        # One whose asker has been dead for long is forgotten.
        with _unless("BATCH_FORGOTTEN"):
            batch = self._client.next_batch(
                CURRICULUM,
                batch_size=_BATCH,
                rollout_budget=4 * _BATCH,
                policy_version=policy,
                run_id=self._name,
                step=self._step,
            )
            self._journal.note(
                "batch",
                lease_id=batch.lease_id,
                prompt_ids=list(batch.prompt_ids),
                quotas=list(map(int, batch.quotas)),
                policy_version=policy,
                revision=batch.revision,
            )
            self._report(batch, chance)
        self._journal.note("step done")
        self._step += 1

    def _report(self, batch: Batch, chance: random.Random) -> None:
        half = len(batch.prompt_ids) // 2
        for part, chosen in enumerate((slice(0, half), slice(half, None))):
            time.sleep(chance.random() * _LONGEST_PAUSE_SECONDS)
            rewards = [[float(chance.random() < 0.5) for _ in range(quota)] for quota in batch.quotas[chosen]]
            wait = chance.random() < 0.7
            self._send(batch, chosen, rewards, f"{self._name}-{self._step}-{part}", wait=wait)
            if chance.random() < 0.1:
                self._send(batch, chosen, rewards, f"{self._name}-{self._step}-{part}-again", wait=wait)

    def _send(
        self, batch: Batch, chosen: slice, rewards: list[list[float]], request_id: str, *, wait: bool
    ) -> None:
        prompts = list(batch.prompt_ids[chosen])
        message = Report(batch, prompts, rewards, request_id=request_id).message()
        self._journal.note("sends", request_id=request_id, message=message.SerializeToString().hex())
        if not wait:
            self._client.report(batch, prompts, rewards=rewards, request_id=request_id, wait=False)
            return
        try:
            result = self._client.report(batch, prompts, rewards=rewards, request_id=request_id)
        except _NOT_NOW as error:
            self._journal.note("not now", why=str(error))  # It stays in the outbox.
        except NotFoundError as error:
            self._journal.note("refused", request_id=request_id, why=str(error))
        else:
            self._journal.note(
                "acknowledged", request_id=request_id, accepted=result.accepted, revision=result.revision
            )
            self._read_own_write(prompts, result.revision)

    def _read_own_write(self, prompts: list[str], revision: str) -> None:
        """On whichever worker answers."""
        try:
            page = next(self._client.prompt_states(CURRICULUM, prompt_ids=prompts, min_revision=revision))
        except _NOT_NOW as error:
            self._journal.note("not now", why=str(error))
            return
        if _position(page.revision) < _position(revision):
            raise SystemExit(f"asked for {revision} or later and got {page.revision}")


@contextmanager
def _unless(reason: str) -> Iterator[None]:
    """Goes on after the block where the service refuses for this reason."""
    try:
        yield
    except FailedPreconditionError as error:
        if error.reason != reason:
            raise


def _position(revision: str) -> tuple[int, ...]:
    return tuple(map(int, revision.split("-")))


def main() -> int:
    """Trains; the exit status."""
    target, folder, name = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    client = CurriculumClient(
        target, outbox_path=folder / f"{name}.outbox", timeout_seconds=_PATIENCE_SECONDS
    )
    Trainer(client, folder, name).run()
    client.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
