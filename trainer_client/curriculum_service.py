"""The part of the curriculum service that the training loop uses, as a protocol.

`trainer_client.client.CurriculumClient` fulfils it; tests put a curriculum in the same process.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, Unpack

from trainer_client.client import (
    Batch,
    CurriculumClient,
    NextBatchArguments,
    Receipt,
    Released,
    ReportResult,
    RolloutStatus,
    Tls,
)
from trainer_client.config import CurriculumConfig
from trainer_client.trainer_errors import TrainerError


def connect(settings: CurriculumConfig, outbox: Path | None = None) -> CurriculumClient:
    """A client by the settings. Raises TrainerError when a file they name cannot be read.

    outbox: file that keeps unacknowledged reports over a crash of this process.
    """
    files = (settings.ca_file, settings.cert_file, settings.key_file)
    tls: bool | Tls | None = settings.tls
    if any(files) or settings.server_name:
        tls = Tls(*files, settings.server_name or None)
    try:
        token = settings.token_file.read_text(encoding="utf-8").strip() if settings.token_file else None
        return CurriculumClient(
            settings.target,
            token=token,
            tls=tls,
            timeout_seconds=settings.timeout_seconds,
            outbox_path=outbox,
        )
    except OSError as error:
        raise TrainerError(f"curriculum: {error.filename}: {error.strerror}") from error


class CurriculumService(Protocol):
    """What the loop asks of the service; the semantics are those of `CurriculumClient`."""

    def next_batch(
        self,
        curriculum_id: str,
        **arguments: Unpack[NextBatchArguments],
    ) -> Batch:
        """Draws and leases the next batch."""
        ...

    def report(
        self,
        batch_or_lease: Batch | str | None,
        prompt_ids: Iterable[str] | None = None,
        *,
        rewards: Sequence[Sequence[float]],
        statuses: Sequence[Sequence[RolloutStatus]] | None = None,
        lengths: Sequence[Sequence[float]] | None = None,
        gradient_norms: Sequence[Sequence[float]] | None = None,
    ) -> ReportResult:
        """Reports rewards and gives the directives."""
        ...

    def release(self, batch_or_lease: Batch | str) -> Released:
        """Gives the unreported rest of a lease back."""
        ...

    def advance_policy(self, curriculum_id: str, policy_version: int, *, kl: float | None = None) -> Receipt:
        """Says that the policy has moved, and how far."""
        ...

    def create_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Keeps the present state under a name."""
        ...

    def restore_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Takes the curriculum back to a kept state."""
        ...

    def delete_checkpoint(self, curriculum_id: str, checkpoint_id: str) -> Receipt:
        """Forgets a kept state."""
        ...
