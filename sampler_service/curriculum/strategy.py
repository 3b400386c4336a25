"""A strategy is a composition: estimator + proposal + quota + stopping, over a named preset."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sampler_service.curriculum.cluster_sources import CLUSTER_SOURCES, ClusterSource
from sampler_service.curriculum.clusters import CLUSTERS, ClusterShares
from sampler_service.curriculum.combinations import check_combination
from sampler_service.curriculum.decays import DECAYS, Decay
from sampler_service.curriculum.errors import InvalidArgument, renamed_fields
from sampler_service.curriculum.iterations import Iterations
from sampler_service.curriculum.parts import Part, Registry, known_names, validated
from sampler_service.curriculum.presets import DEFAULT_PRESET, PRESETS
from sampler_service.curriculum.proposals import PROPOSALS, Proposal
from sampler_service.curriculum.quotas import QUOTAS, Quota
from sampler_service.curriculum.shared_evidence import SHARED_EVIDENCE, SharedEvidence
from sampler_service.curriculum.stopping import STOPPINGS, Stopping

__all__ = ["MOST_SHADOWS", "Estimator", "Shadow", "Strategy", "resolve"]

MOST_SHADOWS: Final = 4
_SHADOW_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")


class Estimator(BaseModel):
    """How a prompt's pass rate is estimated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    decay: Decay = DECAYS["none"]()
    """How evidence ages."""
    prior: tuple[float, float] = (1.0, 1.0)
    """α0 and β0 of the Beta prior, both positive."""
    success_threshold: float = 0.5
    """A rollout is a success when its reward is strictly above this."""
    fractional: bool = False
    """Count a reward in [0, 1] as that much of a success, instead of 0 or 1."""
    shared_evidence: SharedEvidence = SHARED_EVIDENCE["none"]()
    """What other prompts say about a prompt."""
    ema_rate: float = Field(default=0.1, gt=0, le=1)
    """a of the exponential moving averages of reward mean and variance."""

    @field_validator("decay", mode="before")
    @classmethod
    def _parse_decay(cls, value: object) -> Decay:
        return DECAYS.parse(value, "strategy.estimator.decay")

    @field_validator("shared_evidence", mode="before")
    @classmethod
    def _parse_shared(cls, value: object) -> SharedEvidence:
        return SHARED_EVIDENCE.parse(value, "strategy.estimator.shared_evidence")

    @field_validator("prior")
    @classmethod
    def _positive(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not min(value) > 0:
            raise ValueError("both entries must be positive")
        return value

    @property
    def name(self) -> str:
        """Shared evidence and decay, and a digest that differs when any parameter does."""
        plain = self.dump()
        parts = [next(iter(plain[part])) for part in ("shared_evidence", "decay")]
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
        return f"{'+'.join(parts)}#{hashlib.blake2b(text.encode(), digest_size=3).hexdigest()}"

    def dump(self) -> dict[str, Any]:
        """As JSON values, every parameter spelt out."""
        plain = self.model_dump(mode="json", exclude={"decay", "shared_evidence"})
        return {
            "decay": DECAYS.dump(self.decay),
            "shared_evidence": SHARED_EVIDENCE.dump(self.shared_evidence),
            **plain,
        }


class Strategy(BaseModel):
    """How a curriculum estimates, chooses, allots and stops."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    estimator: Estimator = Estimator()
    """How a prompt's pass rate is estimated."""
    proposal: Proposal
    """Which prompts."""
    quota: Quota
    """How many rollouts each."""
    stopping: Stopping = STOPPINGS["one_shot"]()
    """When a prompt has had enough."""
    clusters: ClusterShares | None = None
    """How groups of prompts share a batch; None: they are not told apart."""
    cluster_source: ClusterSource = CLUSTER_SOURCES["labels"]()
    """Where the labels of prompts come from."""
    iterations: Iterations | None = None
    """Disjoint subsets of the pool, one after the other; None: the whole pool, always."""
    equal_quotas: bool = False
    """The trainer cannot vary the group size: parts that would are refused."""
    exploration: float = Field(default=0.1, ge=0, le=1)
    """Share of every batch that goes to unseen, then to least recently visited prompts."""
    rollouts_per_prompt: int = Field(default=8, ge=1, le=4096)
    """Rollouts per prompt when a request names no budget."""
    lease_seconds: float = Field(default=1800.0, ge=0.1, le=7 * 86400)
    """How long a batch stays leased."""
    max_staleness: int = Field(default=8, ge=0)
    """A report whose policy is more versions behind than this is no evidence."""
    shadows: dict[str, Shadow] = Field(default_factory=dict)
    """By name: strategies that are followed beside this one and compared with it, and never served."""

    PARTS: ClassVar[dict[str, Registry[Any]]] = {
        "proposal": PROPOSALS,
        "quota": QUOTAS,
        "stopping": STOPPINGS,
        "cluster_source": CLUSTER_SOURCES,
    }

    @field_validator("proposal", "quota", "stopping", "cluster_source", mode="before")
    @classmethod
    def _parse_part(cls, value: object, info: Any) -> object:
        return cls.PARTS[info.field_name].parse(value, f"strategy.{info.field_name}")

    @field_validator("clusters", mode="before")
    @classmethod
    def _parse_clusters(cls, value: object) -> object:
        return (
            None if value in (None, {}, "none", {"none": {}}) else CLUSTERS.parse(value, "strategy.clusters")
        )

    @field_validator("iterations", mode="before")
    @classmethod
    def _parse_iterations(cls, value: object) -> object:
        if isinstance(value, Mapping) and value and value != {"none": {}}:
            return validated(Iterations, value, "strategy.iterations")
        return None if value in (None, {}, "none", {"none": {}}) else value

    @field_validator("shadows", mode="before")
    @classmethod
    def _parse_shadows(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            raise InvalidArgument(
                "INVALID_PART",
                f"strategy.shadows must map names to strategies, got {value!r}.",
                "strategy.shadows",
            )
        return {name: _stored_shadow(name, shadow) for name, shadow in value.items()}

    @field_validator("estimator", mode="before")
    @classmethod
    def _parse_estimator(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return validated(Estimator, value, "strategy.estimator")
        return value

    def dump(self) -> dict[str, Any]:
        """As JSON values, every part and parameter spelt out."""
        apart = {"estimator", "clusters", "iterations", "shadows", *self.PARTS}
        plain = self.model_dump(mode="json", exclude=apart)
        parts = {name: registry.dump(getattr(self, name)) for name, registry in self.PARTS.items()}
        # A part that is off is spelt out too, or it would come back with the preset.
        parts["clusters"] = {} if self.clusters is None else CLUSTERS.dump(self.clusters)
        parts["iterations"] = {} if self.iterations is None else self.iterations.model_dump(mode="json")
        if self.shadows:  # Left out when empty: a strategy without any keeps the etag it always had.
            parts["shadows"] = {name: shadow.dump() for name, shadow in self.shadows.items()}
        return {"estimator": self.estimator.dump(), **parts, **plain}

    def to_json(self) -> str:
        """Canonical JSON."""
        return json.dumps(self.dump(), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Strategy:
        """The inverse of `to_json`."""
        return validated(cls, json.loads(text), "strategy")

    @property
    def uses_embeddings(self) -> bool:
        """Whether a part of it reads embeddings."""
        return any(part.uses_embeddings for part in self._parts())

    @property
    def uses_id_hashes(self) -> bool:
        """Whether a part of it chooses by hashes of ids."""
        return any(part.uses_id_hashes for part in self._parts())

    def _parts(self) -> list[Part]:
        parts = (
            self.estimator.shared_evidence,
            self.estimator.decay,
            self.clusters,
            self.iterations,
            *(getattr(self, name) for name in self.PARTS),
        )
        return [part for part in parts if part is not None]

    @property
    def etag(self) -> str:
        """Changes whenever the strategy does."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=8).hexdigest()


class Shadow(BaseModel):
    """A strategy that is followed beside the one in force."""

    model_config = ConfigDict(frozen=True)

    preset: str
    """The preset that it was made from."""
    strategy: Strategy
    """All of it, without shadows of its own."""

    def dump(self) -> dict[str, Any]:
        """As JSON values, every part and parameter spelt out."""
        return {"preset": self.preset, **self.strategy.dump()}


Strategy.model_rebuild()


def _stored_shadow(name: str, value: object) -> Shadow:
    """A shadow as `Shadow.dump` spells it out."""
    if isinstance(value, Shadow):
        return value
    if not isinstance(value, Mapping):
        raise InvalidArgument(
            "INVALID_PART",
            f"strategy.shadows.{name} must be a strategy, as {{preset: name}} or part by part, got {value!r}.",
            f"strategy.shadows.{name}",
        )
    parts = {key: part for key, part in value.items() if key != "preset"}
    return Shadow(
        preset=str(value.get("preset", "")), strategy=validated(Strategy, parts, f"strategy.shadows.{name}")
    )


def _resolved_shadows(value: object) -> object:
    """Shadows as requests name them, each a preset with parts of it replaced.

    Raises:
        InvalidArgument: too many, a name that is none, or a strategy that is not valid; names the field.
    """
    if not isinstance(value, Mapping):
        return value  # Refused with the other fields.
    if len(value) > MOST_SHADOWS:
        raise InvalidArgument(
            "TOO_MANY_SHADOWS",
            f"strategy.shadows has {len(value)} entries; {MOST_SHADOWS} can be followed. Leave some out, or compare"
            " them over the recorded log (ReplayCurriculum).",
            "strategy.shadows",
        )
    return {name: _resolved_shadow(name, shadow) for name, shadow in value.items()}


def _resolved_shadow(name: str, value: object) -> object:
    field = f"strategy.shadows.{name}"
    if not _SHADOW_NAME.fullmatch(name):
        raise InvalidArgument(
            "INVALID_ID",
            f"strategy.shadows: the name {name[:80]!r} must be 1 to 64 letters, digits or . _ + -, the first a letter"
            " or digit.",
            "strategy.shadows",
        )
    if isinstance(value, str):
        value = {"preset": value}
    if not isinstance(value, Mapping):
        return value
    if value.get("shadows"):
        raise InvalidArgument(
            "IMPOSSIBLE_COMBINATION", f"{field}.shadows: a shadow has none of its own.", f"{field}.shadows"
        )
    preset = value.get("preset") or ""
    parts = {key: part for key, part in value.items() if key not in ("preset", "shadows")}
    with renamed_fields(field):
        if not isinstance(preset, str):
            raise InvalidArgument(
                "INVALID_PART", f"strategy.preset = {preset!r} must be a preset's name.", "strategy.preset"
            )
        strategy = resolve(preset, parts)
    return Shadow(preset=preset or DEFAULT_PRESET, strategy=strategy)


def resolve(preset: str, overrides: Mapping[str, Any]) -> Strategy:
    """The strategy of a preset with parts of it replaced.

    A part given in `overrides` replaces the preset's part of the same name whole, except
    `estimator`, whose fields are replaced one by one. `predictor` is another name for
    `estimator.shared_evidence`.

    Raises:
        InvalidArgument: unknown preset, part or parameter, or a combination that cannot work.
    """
    name = preset or DEFAULT_PRESET
    if name not in PRESETS:
        raise InvalidArgument(
            "UNKNOWN_PRESET",
            f"strategy.preset = {name!r} is not a preset. {known_names(name, PRESETS)}",
            "strategy.preset",
        )
    values: dict[str, Any] = {**PRESETS[name], **overrides}
    if "shadows" in values:
        values["shadows"] = _resolved_shadows(values["shadows"])
    estimator = overrides.get("estimator", {})
    if isinstance(estimator, Mapping):
        values["estimator"] = {
            **PRESETS[name].get("estimator", {}),
            **estimator,
            **_predictor(values, estimator),
        }
    strategy = validated(Strategy, values, "strategy")
    check_combination(strategy)
    return strategy


def _predictor(values: dict[str, Any], estimator: Mapping[str, Any]) -> dict[str, SharedEvidence]:
    """Takes `predictor` out of the values of a strategy: what it says of the estimator asked for."""
    predictor = values.pop("predictor", None)
    if predictor in (None, {}):
        return {}
    model = SHARED_EVIDENCE.parse(predictor, "strategy.predictor")
    given = estimator.get("shared_evidence")
    if given is not None and SHARED_EVIDENCE.parse(given, "strategy.estimator.shared_evidence") != model:
        raise InvalidArgument(
            "IMPOSSIBLE_COMBINATION",
            "strategy.predictor and strategy.estimator.shared_evidence are two names for one part, and"
            " name different models. Give one of them.",
            "strategy.predictor",
        )
    return {"shared_evidence": model}
