"""The values the client gives back: frozen dataclasses of numpy columns, one entry per prompt."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from curriculum.v1 import curriculum_pb2 as pb
from trainer_client.exceptions import CurriculumError

__all__ = [
    "Action",
    "AddedPrompts",
    "Batch",
    "Directive",
    "Directives",
    "PromptStates",
    "Receipt",
    "Rejection",
    "Released",
    "ReportResult",
    "RolloutStatus",
    "Source",
]

Int32s: TypeAlias = npt.NDArray[np.int32]
Int64s: TypeAlias = npt.NDArray[np.int64]
Float32s: TypeAlias = npt.NDArray[np.float32]
Float64s: TypeAlias = npt.NDArray[np.float64]
Bools: TypeAlias = npt.NDArray[np.bool_]
_Scalar = TypeVar("_Scalar", bound=np.generic)


class Source(IntEnum):
    """Why a prompt is in a batch."""

    UNSPECIFIED = 0
    PROPOSAL = 1
    EXPLORATION = 2
    REPLAY = 3
    CONTINUATION = 4
    COLD_START = 5
    REFERENCE = 6


class RolloutStatus(IntEnum):
    """What became of a rollout."""

    UNSPECIFIED = 0
    """Read as OK."""
    OK = 1
    ERROR = 2
    """The rollout or its verifier failed; says nothing about the prompt."""
    TRUNCATED = 3
    """Cut at the token limit; its reward counts."""
    STALE = 4
    """Sampled from a policy too old to say anything about the present one."""
    FILTERED = 5
    """Thrown away by the trainer."""


class Action(IntEnum):
    """What to do with a prompt now."""

    UNSPECIFIED = 0
    DONE = 1
    """Train on it."""
    SAMPLE_MORE = 2
    """Sample `rollouts` more, then report them."""
    DROP = 3
    """Do not train on it."""


def _int32(values: Collection[int]) -> Int32s:
    return _frozen(np.fromiter(values, dtype=np.int32, count=len(values)))


def _int64(values: Collection[int]) -> Int64s:
    return _frozen(np.fromiter(values, dtype=np.int64, count=len(values)))


def _float32(values: Collection[float]) -> Float32s:
    return _frozen(np.fromiter(values, dtype=np.float32, count=len(values)))


def _float64(values: Collection[float]) -> Float64s:
    return _frozen(np.fromiter(values, dtype=np.float64, count=len(values)))


def _bool(values: Collection[bool]) -> Bools:
    return _frozen(np.fromiter(values, dtype=np.bool_, count=len(values)))


def _frozen(array: npt.NDArray[_Scalar]) -> npt.NDArray[_Scalar]:
    array.flags.writeable = False
    return array


@dataclass(frozen=True, eq=False)
class Batch:
    """Prompts leased to this trainer, with the rollouts each one is granted.

    Columns have shape (B,); B may be smaller than asked for, `notes` then say why.
    """

    curriculum_id: str
    lease_id: str
    request_id: str
    policy_version: int
    """The version named in the request; reports of this batch default to it."""
    revision: str
    expire_time: datetime
    """Prompts not reported by then return to the pool."""
    prompt_ids: list[str]
    quotas: Int32s
    """Rollouts granted."""
    pass_rates: Float32s
    """Predicted when the batch was drawn."""
    pass_rate_stddevs: Float32s
    baselines: Float32s
    """Expected reward, frozen when the batch was drawn."""
    probabilities: Float32s
    """Of the prompt in one draw."""
    sources: Int32s
    """Values of `Source`."""
    notes: list[str]
    duplicate: bool
    """True when the same request had been answered before: another rank, or a retry."""

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __repr__(self) -> str:
        return (
            f"Batch(curriculum_id={self.curriculum_id!r}, lease_id={self.lease_id!r}, "
            f"prompts={len(self)}, rollouts={int(self.quotas.sum())}, revision={self.revision!r}, "
            f"expire_time={self.expire_time.isoformat()}, duplicate={self.duplicate}, notes={self.notes})"
        )

    @classmethod
    def from_message(cls, request: pb.NextBatchRequest, response: pb.NextBatchResponse) -> Batch:
        """Takes the columns over from the wire."""
        batch = response.batch
        return cls(
            curriculum_id=request.curriculum_id,
            lease_id=batch.lease_id,
            request_id=request.request_id,
            policy_version=request.policy_version,
            revision=batch.revision,
            expire_time=batch.expire_time.ToDatetime(tzinfo=UTC),
            prompt_ids=list(batch.prompt_ids),
            quotas=_int32(batch.quotas),
            pass_rates=_float32(batch.pass_rates),
            pass_rate_stddevs=_float32(batch.pass_rate_stddevs),
            baselines=_float32(batch.baselines),
            probabilities=_float32(batch.probabilities),
            sources=_int32(batch.sources),
            notes=list(batch.notes),
            duplicate=response.duplicate,
        )


@dataclass(frozen=True)
class Directive:
    """What to do with one prompt."""

    prompt_id: str
    action: Action
    rollouts: int
    """For SAMPLE_MORE: how many."""
    keep_positives: int
    keep_negatives: int
    """How many right and wrong rollouts to train on."""
    baseline: float
    """Mean reward over all counted rollouts of the prompt in this lease."""
    advantage_weight: float


@dataclass(frozen=True, eq=False)
class Directives:
    """What to do with each reported prompt, as columns; iterating gives a `Directive` per prompt."""

    prompt_ids: list[str]
    actions: Int32s
    """Values of `Action`."""
    rollouts: Int32s
    keep_positives: Int32s
    keep_negatives: Int32s
    baselines: Float32s
    advantage_weights: Float32s

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __iter__(self) -> Iterator[Directive]:
        rows = zip(
            self.prompt_ids,
            self.actions.tolist(),
            self.rollouts.tolist(),
            self.keep_positives.tolist(),
            self.keep_negatives.tolist(),
            self.baselines.tolist(),
            self.advantage_weights.tolist(),
            strict=True,
        )
        for prompt_id, action, rollouts, positives, negatives, baseline, weight in rows:
            yield Directive(prompt_id, Action(action), rollouts, positives, negatives, baseline, weight)

    def with_action(self, action: Action) -> list[Directive]:
        """The directives of one kind, in order."""
        return [directive for directive in self if directive.action is action]

    def __repr__(self) -> str:
        counts = {
            action.name: int((self.actions == action).sum()) for action in Action if action in self.actions
        }
        return f"Directives(prompts={len(self)}, actions={counts})"

    @classmethod
    def from_message(cls, message: pb.Directives) -> Directives:
        """Takes the columns over from the wire."""
        return cls(
            prompt_ids=list(message.prompt_ids),
            actions=_int32(message.actions),
            rollouts=_int32(message.rollouts),
            keep_positives=_int32(message.keep_positives),
            keep_negatives=_int32(message.keep_negatives),
            baselines=_float32(message.baselines),
            advantage_weights=_float32(message.advantage_weights),
        )


@dataclass(frozen=True)
class Rejection:
    """Rollouts of one prompt that were not counted, and why (`STALE_POLICY`, `SLOT_FULL`, ...)."""

    prompt_id: str
    rollouts: int
    reason: str


@dataclass(frozen=True, eq=False)
class ReportResult:
    """What the service made of a report."""

    request_id: str
    revision: str
    duplicate: bool
    """True when this report had been counted before; the outcome is the first one."""
    accepted: int
    """Rollouts counted as outcomes."""
    rejected: tuple[Rejection, ...]
    directives: Directives
    error: CurriculumError | None = field(default=None)
    """Only from `stream_reports`: this report was refused, the stream goes on."""

    @classmethod
    def from_message(
        cls, response: pb.ReportRolloutsResponse, request_id: str, error: CurriculumError | None = None
    ) -> ReportResult:
        """Takes the answer over from the wire."""
        return cls(
            request_id=request_id,
            revision=response.revision,
            duplicate=response.duplicate,
            accepted=response.accepted,
            rejected=tuple(
                Rejection(rejection.prompt_id, rejection.rollouts, rejection.reason)
                for rejection in response.rejected
            ),
            directives=Directives.from_message(response.directives),
            error=error,
        )


@dataclass(frozen=True)
class AddedPrompts:
    """Outcome of `add_prompts`."""

    added: int
    already_present: int
    total: int
    revision: str
    duplicate: bool


@dataclass(frozen=True)
class Receipt:
    """A change was made at `revision`; `duplicate` when it had been made before."""

    revision: str
    duplicate: bool


@dataclass(frozen=True)
class Released:
    """Outcome of `release`: how many prompts went back to the pool."""

    released: int
    revision: str
    duplicate: bool


@dataclass(frozen=True, eq=False)
class PromptStates:
    """One page of what is known about the prompts; columns have shape (prompts,)."""

    prompt_ids: list[str]
    pass_rates: Float32s
    """Posterior mean."""
    pass_rate_stddevs: Float32s
    alphas: Float64s
    betas: Float64s
    """Beta posterior, prior and shared evidence included, decay applied."""
    ema_means: Float32s
    ema_variances: Float32s
    visits: Int64s
    """Groups counted."""
    rollouts: Int64s
    last_policy_versions: Int64s
    clusters: list[str]
    in_flight: Bools
    revision: str

    def __len__(self) -> int:
        return len(self.prompt_ids)

    def __repr__(self) -> str:
        return f"PromptStates(prompts={len(self)}, revision={self.revision!r})"

    @classmethod
    def from_message(cls, message: pb.ListPromptStatesResponse) -> PromptStates:
        """Takes the columns over from the wire."""
        return cls(
            prompt_ids=list(message.prompt_ids),
            pass_rates=_float32(message.pass_rates),
            pass_rate_stddevs=_float32(message.pass_rate_stddevs),
            alphas=_float64(message.alphas),
            betas=_float64(message.betas),
            ema_means=_float32(message.ema_means),
            ema_variances=_float32(message.ema_variances),
            visits=_int64(message.visits),
            rollouts=_int64(message.rollouts),
            last_policy_versions=_int64(message.last_policy_versions),
            clusters=list(message.clusters),
            in_flight=_bool(message.in_flight),
            revision=message.revision,
        )
