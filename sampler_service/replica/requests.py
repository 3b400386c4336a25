"""API requests to log events: everything that can be wrong with a request by itself is refused here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message
from numpy.typing import NDArray

from curriculum.v1 import curriculum_pb2 as pb
from curriculum.v1 import log_pb2
from sampler_service.curriculum.arrays import to_bytes
from sampler_service.curriculum.errors import InvalidArgument
from sampler_service.curriculum.leases import Lease
from sampler_service.curriculum.planner import BatchPlan
from sampler_service.curriculum.strategy import Strategy, resolve
from sampler_service.curriculum.table import MAX_ID_BYTES

__all__ = [
    "ReportColumns",
    "fingerprint",
    "grant_event",
    "prompts_events",
    "report_columns",
    "report_seed",
    "require_id",
    "require_policy_version",
    "require_request_id",
    "require_trainer_id",
    "slots_in_lease",
    "strategy_to_message",
    "to_strategy",
]

_MAX_NAME_BYTES: Final = 256
_MAX_CLUSTER_BYTES: Final = 256
_MAX_EMBEDDING_DIM: Final = 8192
_EMBEDDING_TYPES: Final = {0: "f4", 1: "f4", 2: "f2"}
# Folding so many takes about 8 ms; a health check waits for three or four turns of the event loop.
_EVENT_PROMPTS: Final = 2048
_MAX_POLICY_VERSION: Final = 2**31 - 1
_MAX_REPORT_ROLLOUTS: Final = 2**22


def fingerprint(request: Message, *ignored: str) -> bytes:
    """Digest of a request, without the fields that may differ between repeats."""
    if ignored:
        copy = type(request)()
        copy.CopyFrom(request)
        for name in ignored:
            copy.ClearField(name)
        request = copy
    data = type(request).__name__.encode() + request.SerializeToString(deterministic=True)
    return hashlib.blake2b(data, digest_size=16).digest()


def report_seed(reported: log_pb2.RolloutsReported, visits: int) -> int:
    """The chance of a report's directives, as good as random: a digest of what came back, and of when.

    No chance of its own, so that a run that repeats its batches repeats what it is told to do with them.

    Args:
        visits: groups counted before, so that the same rewards later are other chance.
    """
    digest = hashlib.blake2b(visits.to_bytes(8, "big"), digest_size=8)
    for column in (reported.slots, reported.rollout_counts, reported.rewards):
        digest.update(column)
    return int.from_bytes(digest.digest(), "big") >> 1


def _require_text(value: str, field: str, most: int) -> None:
    if not value:
        raise InvalidArgument("MISSING_FIELD", f"{field} must not be empty.", field)
    if len(value.encode()) > most:
        raise InvalidArgument("TOO_LONG", f"{field} = {value[:40]!r}… is longer than {most} bytes.", field)


def require_id(value: str, field: str) -> None:
    """Ids that people choose: 1 to 256 bytes, no control characters or braces (they name keys)."""
    _require_text(value, field, _MAX_NAME_BYTES)
    if not value.isprintable() or set(value) & {"{", "}"} or value != value.strip():
        raise InvalidArgument(
            "INVALID_ID",
            f"{field} = {value!r} must be printable, without braces and without space at its ends.",
            field,
        )


def require_request_id(value: str) -> None:
    """Every mutation needs one."""
    if not value:
        raise InvalidArgument(
            "MISSING_FIELD",
            "request_id must not be empty: choose a new one (a UUID, say) for each request, and repeat it in retries.",
            "request_id",
        )
    _require_text(value, "request_id", _MAX_NAME_BYTES)


def require_trainer_id(value: str) -> None:
    """At most 256 bytes, or empty: it is kept with every lease, and shown."""
    if value:
        _require_text(value, "trainer_id", _MAX_NAME_BYTES)


def require_policy_version(value: int) -> None:
    """0 to 2^31 − 1."""
    if not 0 <= value <= _MAX_POLICY_VERSION:
        raise InvalidArgument(
            "INVALID_POLICY_VERSION",
            f"policy_version = {value} must be between 0 and {_MAX_POLICY_VERSION}.",
            "policy_version",
        )


# -- strategies ------------------------------------------------------------------


def to_strategy(message: pb.Strategy) -> Strategy:
    """The strategy a message asks for."""
    try:
        overrides: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    except json_format.Error:
        raise InvalidArgument(
            "INVALID_PARAMETER",
            "The strategy holds NaN or an infinity, which is no value of any parameter. Give a number.",
            "strategy",
        ) from None
    preset = overrides.pop("preset", "")
    # JSON carries int64 as text.
    if "max_staleness" in overrides:
        overrides["max_staleness"] = int(overrides["max_staleness"])
    return resolve(preset, {name: _whole_numbers(value) for name, value in overrides.items()})


def _whole_numbers(value: Any) -> Any:
    """A Struct knows doubles only: 8.0 back to 8."""
    if isinstance(value, Mapping):
        return {key: _whole_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def strategy_to_message(strategy: Strategy, preset: str) -> pb.Strategy:
    """The inverse, every part spelt out."""
    return json_format.ParseDict({**strategy.dump(), "preset": preset}, pb.Strategy())


# -- prompts -----------------------------------------------------------------------


def prompts_events(request: pb.AddPromptsRequest) -> list[log_pb2.PromptsAdded]:
    """One chunk of AddPrompts as events of bounded size.

    Raises:
        InvalidArgument: names the field and the first entry that is wrong.
    """
    count = len(request.prompt_ids)
    ids = [id_.encode() for id_ in request.prompt_ids]
    for i, id_ in enumerate(ids):
        if not 0 < len(id_) <= MAX_ID_BYTES:
            raise InvalidArgument(
                "INVALID_PROMPT_ID",
                f"prompt_ids[{i}] has {len(id_)} bytes; 1 to {MAX_ID_BYTES} are allowed.",
                f"prompt_ids[{i}]",
            )
    clusters = _clusters(request, count)
    references = _rates(request.reference_pass_rates, count, 1, "reference_pass_rates")
    anchors = _rates(request.anchor_pass_rates, count, 2, "anchor_pass_rates")
    embeddings = _embeddings(request, count)
    events = []
    for start in range(0, count, _EVENT_PROMPTS):
        part = slice(start, start + _EVENT_PROMPTS)
        event = log_pb2.PromptsAdded(
            ids=b"".join(ids[part]),
            id_lengths=to_bytes(np.fromiter(map(len, ids[part]), dtype=np.uint16), "u2"),
        )
        if clusters is not None:
            names = sorted({name for name in clusters[part] if name})
            index = {name: i for i, name in enumerate(names)}
            event.cluster_names.extend(names)
            event.clusters = to_bytes(np.array([index.get(name, -1) for name in clusters[part]]), "i4")
        if references is not None:
            event.reference_pass_rates = to_bytes(references[part], "f4")
        if anchors is not None:
            event.anchor_pass_rates = to_bytes(anchors[2 * start : 2 * (start + _EVENT_PROMPTS)], "f4")
        if embeddings is not None:
            event.embeddings = to_bytes(embeddings[part], "f2")
            event.embedding_dim = request.embedding_dim
        events.append(event)
    return events


def _require_length(actual: int, expected: int, field: str, per: str) -> None:
    if actual != expected:
        raise InvalidArgument(
            "LENGTH_MISMATCH", f"{field} has {actual} entries; {expected} are needed ({per}).", field
        )


def _clusters(request: pb.AddPromptsRequest, count: int) -> Sequence[str] | None:
    if not request.clusters:
        return None
    _require_length(len(request.clusters), count, "clusters", "one per prompt")
    clusters = list(request.clusters)
    for name in set(clusters):
        if len(name.encode()) > _MAX_CLUSTER_BYTES:
            i = clusters.index(name)
            raise InvalidArgument(
                "TOO_LONG", f"clusters[{i}] is longer than {_MAX_CLUSTER_BYTES} bytes.", f"clusters[{i}]"
            )
    return clusters


def _rates(values: Sequence[float], count: int, per_prompt: int, field: str) -> NDArray[np.float32] | None:
    if not len(values):
        return None
    _require_length(len(values), count * per_prompt, field, f"{per_prompt} per prompt")
    rates = np.array(values, dtype=np.float32)
    bad = np.flatnonzero(~np.isnan(rates) & ~((rates >= 0) & (rates <= 1)))
    if len(bad):
        i = int(bad[0])
        raise InvalidArgument(
            "OUT_OF_RANGE",
            f"{field}[{i}] = {rates[i]} must be in [0, 1], or NaN for unknown.",
            f"{field}[{i}]",
        )
    return rates


def _embeddings(request: pb.AddPromptsRequest, count: int) -> NDArray[np.float16] | None:
    if not request.embeddings:
        return None
    dim = request.embedding_dim
    if not 0 < dim <= _MAX_EMBEDDING_DIM:
        raise InvalidArgument(
            "OUT_OF_RANGE",
            f"embedding_dim = {dim} must be between 1 and {_MAX_EMBEDDING_DIM}.",
            "embedding_dim",
        )
    if request.embedding_type not in _EMBEDDING_TYPES:
        raise InvalidArgument(
            "OUT_OF_RANGE",
            f"embedding_type = {request.embedding_type} is not an EmbeddingType this release knows.",
            "embedding_type",
        )
    dtype = np.dtype(_EMBEDDING_TYPES[request.embedding_type])
    _require_length(
        len(request.embeddings),
        count * dim * dtype.itemsize,
        "embeddings",
        f"bytes of {dtype.name}, {dim} per prompt",
    )
    vectors = np.frombuffer(request.embeddings, dtype=dtype.newbyteorder("<")).reshape(count, dim)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1) | (np.abs(vectors) > 60000).any(axis=1))
    if len(bad):
        raise InvalidArgument(
            "OUT_OF_RANGE",
            f"embeddings: the vector of prompt {int(bad[0])} of this chunk is not finite, or too large for float16.",
            "embeddings",
        )
    return vectors.astype(np.float16, copy=False)


# -- batches and reports ----------------------------------------------------------------


def grant_event(
    request: pb.NextBatchRequest, plan: BatchPlan, lease_id: str, lease_seconds: float
) -> log_pb2.BatchGranted:
    """A drawn batch as an event."""
    return log_pb2.BatchGranted(
        lease_id=lease_id,
        trainer_id=request.trainer_id,
        policy_version=request.policy_version,
        lease_millis=round(lease_seconds * 1000),
        budget=plan.budget,
        rows=to_bytes(plan.rows, "i4"),
        quotas=to_bytes(plan.quotas, "i4"),
        pass_rates=to_bytes(plan.pass_rates, "f4"),
        pass_rate_stddevs=to_bytes(plan.pass_rate_stddevs, "f4"),
        baselines=to_bytes(plan.baselines, "f4"),
        probabilities=to_bytes(plan.probabilities, "f4"),
        sources=to_bytes(plan.sources, "u1"),
        notes=plan.notes,
        epoch=plan.epoch,
    )


class ReportColumns:
    """The columns of a report as arrays, checked against each other."""

    def __init__(self, request: pb.ReportRolloutsRequest) -> None:
        self.prompt_ids = list(request.prompt_ids)
        self.counts = np.array(request.rollout_counts, dtype=np.int64)
        self.rewards = np.array(request.rewards, dtype=np.float32)
        self.statuses = np.array(request.statuses, dtype=np.int64)
        self.lengths = np.array(request.lengths, dtype=np.int32)
        self.gradient_norms = np.array(request.gradient_norms, dtype=np.float32)

    def event(self, slots: NDArray[Any], known: NDArray[np.bool_]) -> log_pb2.RolloutsReported:
        """As an event, without the prompts that are not `known`."""
        event = log_pb2.RolloutsReported(slots=to_bytes(slots[known], "i4"))
        counts, flat = self.counts, slice(None)
        if not known.all():
            flat = np.repeat(known, counts)  # type: ignore[assignment]
            counts = counts[known]
        event.rollout_counts = to_bytes(counts, "i4")
        event.rewards = to_bytes(self.rewards[flat], "f4")
        if len(self.statuses):
            event.statuses = to_bytes(self.statuses[flat], "u1")
        if len(self.lengths):
            event.lengths = to_bytes(self.lengths[flat], "i4")
        if len(self.gradient_norms):
            event.gradient_norms = to_bytes(self.gradient_norms[flat], "f4")
        return event


def report_columns(request: pb.ReportRolloutsRequest) -> ReportColumns:
    """The columns of a report.

    Raises:
        InvalidArgument: names the field that does not fit the others, or the prompt that comes twice.
    """
    prompts = len(request.prompt_ids)
    if prompts == 0:
        raise InvalidArgument("MISSING_FIELD", "prompt_ids must not be empty.", "prompt_ids")
    _require_length(len(request.rollout_counts), prompts, "rollout_counts", "one per prompt")
    columns = ReportColumns(request)
    if (columns.counts < 0).any():
        i = int(np.flatnonzero(columns.counts < 0)[0])
        raise InvalidArgument(
            "OUT_OF_RANGE",
            f"rollout_counts[{i}] = {columns.counts[i]} must not be negative.",
            f"rollout_counts[{i}]",
        )
    rollouts = int(columns.counts.sum())
    if rollouts > _MAX_REPORT_ROLLOUTS:
        raise InvalidArgument(
            "TOO_MANY_ROLLOUTS",
            f"rollout_counts sum to {rollouts}; a report may carry {_MAX_REPORT_ROLLOUTS}. Send several.",
            "rollout_counts",
        )
    per = "one per rollout, as rollout_counts say"
    _require_length(len(columns.rewards), rollouts, "rewards", per)
    for name in ("statuses", "lengths", "gradient_norms"):
        values = getattr(columns, name)
        if len(values):
            _require_length(len(values), rollouts, name, f"none, or {per}")
    if len(columns.statuses):
        bad = np.flatnonzero((columns.statuses < 0) | (columns.statuses > 5))
        if len(bad):
            i = int(bad[0])
            raise InvalidArgument(
                "UNKNOWN_STATUS",
                f"statuses[{i}] = {columns.statuses[i]} is not a RolloutStatus.",
                f"statuses[{i}]",
            )
    if len(set(columns.prompt_ids)) != prompts:
        seen: set[str] = set()
        for i, id_ in enumerate(columns.prompt_ids):
            if id_ in seen:
                raise InvalidArgument(
                    "DUPLICATE_PROMPT",
                    f"prompt_ids[{i}] = {id_!r} comes twice in one report. Put its rollouts together.",
                    f"prompt_ids[{i}]",
                )
            seen.add(id_)
    return columns


def slots_in_lease(lease: Lease | None, lease_ids: list[str], prompt_ids: list[str]) -> NDArray[np.int32]:
    """Slot of each reported prompt, −1 where the lease does not hold it."""
    if lease is None:
        return np.full(len(prompt_ids), -1, dtype=np.int32)
    if lease_ids == prompt_ids:
        return np.arange(len(lease_ids), dtype=np.int32)
    slots = {id_: slot for slot, id_ in enumerate(lease_ids)}
    return np.array([slots.get(id_, -1) for id_ in prompt_ids], dtype=np.int32)
