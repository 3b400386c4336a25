"""What is compared: every preset, the parts of `frontier-ranked` one by one, and an oracle that knows p."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from benchmarks.simulated.learner import Floats, Learner, LearnerConfig
from benchmarks.simulated.pools import Pool
from benchmarks.simulated.service_run import Groups, ServiceRun
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.stopping import BestFirst

__all__ = ["ABLATIONS", "Arm", "Curve", "arms", "run_arm"]


@dataclass(frozen=True)
class Arm:
    """A strategy under a name."""

    name: str
    preset: str = "uniform-grpo"
    overrides: dict[str, Any] = field(default_factory=dict)
    refill: int = 1
    """Batches drawn at most to fill one update with mixed groups (DAPO)."""
    oracle: bool = False
    published: bool = False
    """A method of the literature, as opposed to ours or a floor."""


_LITERATURE: Final = (
    Arm("dapo with refill", "dapo", refill=10, published=True),
    Arm("thompson p(1-p)", overrides={
        "estimator": {"decay": {"per_visit": {"factor": 0.9}}},
        "proposal": {"thompson": {"objective": "variance"}}, "exploration": 0.1}, published=True),
)  # fmt: skip

_ONE_SHOT: Final[dict[str, Any]] = {"stopping": {"one_shot": {}}}
# `frontier` as it is, to exchange one part of.
_DILUTED: Final = PRESETS["frontier"]["proposal"]["frontier"]
_PILOT: Final = PRESETS["frontier"]["stopping"]["best_first_when_diluted"]


def _frontier(name: str, pilot: dict[str, Any] | None = None, **proposal: Any) -> Arm:
    """`frontier` with other parameters of its pilot, and of its proposal."""
    return Arm(f"frontier, {name}", "frontier", {
        "proposal": {"frontier": {**_DILUTED, **proposal}},
        "stopping": {"best_first_when_diluted": {**_PILOT, **(pilot or {})}}})  # fmt: skip


_PER_VISIT: Final = {"decay": {"per_visit": {"factor": 0.9}}, "shared_evidence": {"none": {}}}
ABLATIONS: Final = (
    Arm("ranked, E[p(1-p)] of own counts alone", "frontier-ranked", {
        "estimator": _PER_VISIT, "quota": {"fixed": {}}, "stopping": {"one_shot": {}}}),
    Arm("ranked, own counts + ridge alone", "frontier-ranked", {  # For pools with embeddings.
        "estimator": {**_PER_VISIT, "shared_evidence": {"ridge": {}}}, "stopping": {"one_shot": {}}}),
    Arm("ranked, own counts + pilot", "frontier-ranked", {"estimator": _PER_VISIT}),
    Arm("ranked, drifting regression as prior", "frontier-ranked", {
        "estimator": {**_PER_VISIT, "shared_evidence": {"drifting": {}}}}),
    Arm("ranked, no pilot", "frontier-ranked", {"quota": {"fixed": {}}, "stopping": {"one_shot": {}}}),
    Arm("ranked, no pilot, knapsack quotas", "frontier-ranked", {
        "quota": {"frontier": {}}, "stopping": {"one_shot": {}}}),
    Arm("ranked, plug-in m(1-m)", "frontier-ranked", {"proposal": {"learnability": {}}}),
    Arm("ranked, Thompson p(1-p)", "frontier-ranked", {"proposal": {"thompson": {"objective": "variance"}}}),
    Arm("ranked, candidates 1.25", "frontier-ranked", {"stopping": {"best_first": {"candidates": 1.25}}}),
    *(
        Arm(f"ranked, commits of {size}", "frontier-ranked", {
            "stopping": {"best_first": {"candidates": 1.0, "pilot": 4, "commit": size}}})
        for size in (12, 16, 24)
    ),
    *(
        Arm(f"ranked, drawn with power {power}", "frontier-ranked", {"proposal": {"frontier": {"power": power}}})
        for power in (4, 8, 16)
    ),
    *(
        Arm(f"frontier, power {power}", "frontier", {"proposal": {"frontier": {"power": power}}})
        for power in (1, 2, 6, 8, 16)
    ),
    *(
        Arm(f"{name}, sharper", "frontier", {
            "proposal": {"frontier": {"power": 4, "diluted_power": 64, **parts}}, **_ONE_SHOT})
        for name, parts in {"power 4": {}, "power 4, fatigue 1": {"fatigue": 1}}.items()
    ),
    *(
        Arm(f"{name}, sharper when established", "frontier", {"proposal": {
            "frontier": {"power": 4, "diluted_power": 64, "dilution_error": 0.3, **parts}}, **_ONE_SHOT})
        for name, parts in {"power 4": {}, "power 4, fatigue 1": {"fatigue": 1}}.items()
    ),
    Arm("frontier, never a pilot", "frontier", _ONE_SHOT),
    _frontier("no probes", dilution_probes=0),
    _frontier("eight differences", dilution_differences=8),
    _frontier("not held", dilution_hold=False),
    _frontier("all prompts, commits of 8", {"candidates": 1.0, "commit": 8}),
    _frontier("all prompts, commits of 16", {"candidates": 1.0, "commit": 16}),
    _frontier("half the prompts", {"candidates": 0.5}),
    Arm("power 4, fatigue 1", "frontier", {"proposal": {"frontier": {"power": 4, "fatigue": 1}}}),
    Arm("ranked, no exploration", "frontier-ranked", {"exploration": 0.0}),
    *(
        Arm(f"ranked, rest of {steps} steps", "frontier-ranked", {"proposal": {"frontier": {"rest_steps": steps}}})
        for steps in (0, 4, 8, 16, 32)
    ),
    Arm("ranked, offsets never drift", "frontier-ranked", {
        "estimator": {"shared_evidence": {"item_response": {"offset_drift": 0.0}}}}),
    Arm("ranked, fixed prior variance", "frontier-ranked", {
        "estimator": {"shared_evidence": {"item_response": {"variance_rate": 0.0}}}}),
)  # fmt: skip


def arms(*, ablations: bool = False) -> list[Arm]:
    """Uniform first, then the presets and the literature's methods, the oracle last."""
    ours = {"uniform-grpo", "frontier", "frontier-ranked"}
    presets = [
        Arm(name, name, published=name not in ours)
        for name in sorted(PRESETS, key=lambda name: name != "uniform-grpo")
    ]
    more = ABLATIONS if ablations else _LITERATURE
    if ablations:
        presets = [arm for arm in presets if arm.name in ours]
    return [*presets, *more, Arm("oracle", oracle=True)]


@dataclass
class Curve:
    """What one run came to; one entry per update, the state before the first included."""

    rollouts: list[int] = field(default_factory=lambda: [0])
    accuracies: list[float] = field(default_factory=list)
    mixed_shares: list[float] = field(default_factory=list)
    brier_scores: list[float] = field(default_factory=list)
    """Mean (served pass rate − first reward)² of each batch."""
    pass_rate_errors: list[float] = field(default_factory=list)
    """Mean (served pass rate − true pass rate)²."""

    def rollouts_to(self, accuracy: float) -> float:
        """Rollouts until the held-out accuracy is first reached, interpolated; infinite if never."""
        reached = np.flatnonzero(np.array(self.accuracies) >= accuracy)
        if len(reached) == 0:
            return float("inf")
        i = int(reached[0])
        if i == 0:
            return 0.0
        share = (accuracy - self.accuracies[i - 1]) / (self.accuracies[i] - self.accuracies[i - 1])
        return self.rollouts[i - 1] + share * (self.rollouts[i] - self.rollouts[i - 1])


def run_arm(
    arm: Arm, pool: Pool, config: LearnerConfig, seed: int, total_rollouts: int, prompts: int, group: int
) -> Curve:
    """Trains until `total_rollouts` are spent."""
    rng = np.random.default_rng([seed, 1])
    learner = Learner(pool, config)
    service = None if arm.oracle else ServiceRun(pool, arm.preset, arm.overrides, seed)
    curve = Curve(accuracies=[learner.held_out_accuracy()])
    spent = 0
    while spent < total_rollouts:
        batches: list[Groups] = []
        mixed = 0
        for _ in range(arm.refill):
            if service is None:
                batches.append(_oracle_batch(learner, prompts, group, rng))
            else:
                batches.append(_service_batch(service, learner, prompts, group, rng))
            curve.brier_scores.append(_mean_square(batches[-1].predicted, batches[-1].first_rewards))
            curve.pass_rate_errors.append(
                _mean_square(batches[-1].predicted, learner.observed_pass_rates(batches[-1].rows))
            )
            mixed += len(np.unique(batches[-1].groups))
            if mixed >= prompts:
                break
        spent += sum(batch.spent for batch in batches)
        offsets = np.cumsum([0, *(len(batch.rows) for batch in batches)])
        groups = np.concatenate([batch.groups + at for batch, at in zip(batches, offsets, strict=False)])
        update = learner.update(
            np.concatenate([batch.rows for batch in batches]),
            groups,
            np.concatenate([batch.right for batch in batches]),
            np.concatenate([batch.rewards for batch in batches]),
            prompts * group,
        )
        # Of all prompts rolled out, dropped ones included: what the rollouts bought.
        kept = len(np.unique(groups))
        curve.mixed_shares.append(update.mixed_share * kept / offsets[-1])
        curve.rollouts.append(spent)
        curve.accuracies.append(learner.held_out_accuracy())
        if service is not None:
            service.advance(update.kl)
    return curve


def _service_batch(
    service: ServiceRun, learner: Learner, prompts: int, group: int, rng: np.random.Generator
) -> Groups:
    # Methods that decide the rollouts by rounds spend what they need; the others share what they get.
    own = service.machine.state.strategy.stopping
    budget = prompts * group if not own.sets_rounds or isinstance(own, BestFirst) else 0
    return service.batch(learner, prompts, budget, rng)


def _oracle_batch(learner: Learner, prompts: int, group: int, rng: np.random.Generator) -> Groups:
    """The prompts of largest true p(1−p)."""
    p = learner.observed_pass_rates()
    rows = np.argsort(-p * (1.0 - p), kind="stable")[:prompts]
    groups, right, rewards = learner.sample(rows, np.full(prompts, group), rng)
    means = np.bincount(groups, rewards, minlength=prompts) / group
    return Groups(rows, groups, right, rewards, len(groups), p[rows], means)


def _mean_square(predicted: Floats, seen: Floats) -> float:
    return float(np.mean((predicted - seen) ** 2))
