"""A curriculum that learns, without a service: a `CurriculumReader` with deterministic data.

`step()` moves the policy one version on. Every aggregate it answers is consistent with the others: groups are
mixed plus all correct plus all wrong, histogram rows sum to the prompts seen, and so on.
"""

import math

import numpy as np

from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.dashboard import ReadError

CLUSTERS = ("arithmetic/add-1", "arithmetic/mul-2", "reasoning/gcd", "reasoning/countdown", "Größe/单位")
GROUPS_PER_STEP, GROUP_SIZE = 32, 8
HISTORY_BINS = 24
EPOCH_SECONDS = 1_760_000_000


def rebin(counts: np.ndarray, bins: int) -> np.ndarray:
    """120 fine bins as fewer."""
    return np.add.reduceat(counts, np.arange(bins) * 120 // bins)


class SimulatedCurriculum:
    """One curriculum: skill rises with every step, prompts are seen a batch at a time."""

    def __init__(self, curriculum_id: str, prompts: int, *, seed: int = 0, preset: str = "frontier") -> None:
        self.curriculum_id, self.prompts, self.preset = curriculum_id, prompts, preset
        self.rng = np.random.default_rng(seed)
        self.difficulty_N = self.rng.normal(1.2, 1.6, min(prompts, 5_000))
        self.version = 0
        self.points: list[dict[str, float]] = []
        self.rows: list[np.ndarray] = []
        self.stale = False
        self.etag = "e1"
        self.changed = pb.Strategy()
        self.prompt_ids = [
            f"{CLUSTERS[i % len(CLUSTERS)]}/prompt {i:05d}" for i in range(min(prompts, 5_000))
        ]

    @property
    def revision(self) -> str:
        return f"{EPOCH_SECONDS}-{self.version}"

    @property
    def seen(self) -> int:
        return min(self.prompts, self.version * GROUPS_PER_STEP)

    def pass_rates(self) -> np.ndarray:
        return 1 / (1 + np.exp(self.difficulty_N - 0.06 * self.version))

    def step(self, steps: int = 1) -> None:
        for _ in range(steps):
            self.version += 1
            wrong = max(2, 22 - self.version * 3 // 5)
            correct = min(6, 3 + self.version // 12)
            mixed = GROUPS_PER_STEP - wrong - correct
            self.points.append(
                {
                    "mixed": mixed,
                    "correct": correct,
                    "wrong": wrong,
                    "exploration": 8 * (6 - min(3, self.version // 10)),
                    "reward": float(self.pass_rates().mean()),
                    "brier": float("nan") if self.version < 3 else 0.25 * math.exp(-self.version / 25) + 0.08,
                }
            )
            share, _edges = np.histogram(self.pass_rates(), bins=120, range=(0, 1))
            share = share / share.sum()
            counts = np.floor(share * self.seen).astype(int)
            counts[0] += self.seen - counts.sum()
            self.rows.append(counts)

    def curriculum(self) -> pb.Curriculum:
        message = pb.Curriculum(
            curriculum_id=self.curriculum_id,
            etag=self.etag,
            revision=self.revision,
            prompt_count=self.prompts,
            policy_version=self.version,
            iteration=self.version // 15,
            rollout_count=self.version * GROUPS_PER_STEP * GROUP_SIZE,
            live_lease_count=2 if self.version else 0,
        )
        message.create_time.FromSeconds(EPOCH_SECONDS)
        strategy = message.strategy
        strategy.preset = self.preset
        strategy.estimator.update({"decay": {"per_visit": {"factor": 0.9}}, "prior": [1, 1]})
        strategy.proposal.update({"frontier": {}})
        strategy.quota.update({"frontier": {"min": 2, "max": 32}})
        strategy.stopping.update({"balanced": {"round": 8, "keep": 8, "max": 32}})
        strategy.exploration = 0.1
        strategy.rollouts_per_prompt = 8
        strategy.lease_seconds = 600
        strategy.MergeFrom(self.changed)
        return message

    def history_of(self, prompt_id: str) -> pb.GetPromptHistoryResponse:
        """Eight visits, one every fourth step: the prompt is learnt, and the last batch is still out."""
        visits = range(min(8, self.version // 4))
        rates = [0.1 + 0.1 * i for i in visits]
        right = [round(GROUP_SIZE * rate) for rate in rates]
        last = len(visits) - 1
        back = [GROUP_SIZE if i < last else 0 for i in visits]
        return pb.GetPromptHistoryResponse(
            prompt_id=prompt_id,
            times_seconds=[EPOCH_SECONDS + 48.0 * i for i in visits],
            revisions=[f"{EPOCH_SECONDS}-{i}" for i in visits],
            lease_ids=[f"lease-{i}" for i in visits],
            trainer_ids=["trainer-0"] * len(visits),
            policy_versions=[4 * i for i in visits],
            sources=[pb.SOURCE_EXPLORATION if i % 4 == 0 else pb.SOURCE_PROPOSAL for i in visits],
            pass_rates=rates,
            pass_rate_stddevs=[0.28 / (i + 1) for i in visits],
            probabilities=[1e-4] * len(visits),
            quotas=[GROUP_SIZE] * len(visits),
            rollouts=back,
            outcomes=back,
            successes=[n if i < last else 0 for i, n in zip(visits, right, strict=True)],
            mean_rewards=[
                n / GROUP_SIZE if i < last else math.nan for i, n in zip(visits, right, strict=True)
            ],
            report_times_seconds=[EPOCH_SECONDS + 48.0 * i + 9 if i < last else math.nan for i in visits],
            statuses=[pb.VISIT_STATUS_REPORTED if i < last else pb.VISIT_STATUS_OPEN for i in visits],
            from_revision=f"{EPOCH_SECONDS}-0",
            from_time_seconds=EPOCH_SECONDS,
            revision=self.revision,
            rollouts_counted=sum(back) + (16 if visits else 0),
            visits_found=len(visits),
            events_read=2 * self.version,
        )

    def summary(self, bins: int) -> pb.Summary:
        bins = bins or 20
        total = lambda name: int(sum(point[name] for point in self.points))  # noqa: E731
        now = rebin(self.rows[-1], bins) if self.rows else np.zeros(bins, int)
        message = pb.Summary(
            curriculum_id=self.curriculum_id,
            revision=self.revision,
            preset=self.preset,
            policy_version=self.version,
            iteration=self.version // 15,
            prompts=self.prompts,
            prompts_seen=self.seen,
            prompts_in_flight=40 if self.version else 0,
            groups=GROUPS_PER_STEP * self.version,
            mixed_groups=total("mixed"),
            rollouts_spent=GROUPS_PER_STEP * GROUP_SIZE * self.version,
            rollouts_wasted=GROUP_SIZE * (total("correct") + total("wrong")),
            rollouts_saved=61.5 * self.version,
            exploration_rollouts=total("exploration"),
            rollouts_error=self.version // 4,
            rollouts_truncated=self.version // 2,
            leases_expired=self.version // 20,
            duplicates=self.version // 10,
            stale=self.stale,
        )
        message.update_time.FromSeconds(EPOCH_SECONDS + 12 * self.version)
        histogram = message.difficulty_histogram
        histogram.edges.extend(np.linspace(0, 1, bins + 1).tolist())
        histogram.counts.extend(now.tolist())
        histogram.unseen = self.prompts - self.seen
        message.uncertainty.unseen_stddev = 12**-0.5
        message.uncertainty.mean_stddev = float("nan")
        message.lag_seconds = 0.2
        if not self.points:
            return message
        message.effective_prompt_ratio = sum(p["mixed"] for p in self.points[-10:]) / (
            GROUPS_PER_STEP * len(self.points[-10:])
        )
        self._fill_uncertainty(message.uncertainty, now)
        self._fill_history(message.history)
        self._fill_calibration(message.calibration)
        if self.points:
            one = message.estimators.add(estimator="item_response+none#1f00aa", in_force=True)
            self._fill_calibration(one.calibration)
            count = len(self.points)
            one.policy_versions.extend(range(1, count + 1))
            one.predictions.extend([GROUPS_PER_STEP] * count)
            one.briers.extend(p["brier"] for p in self.points)
            one.log_losses.extend(3 * p["brier"] for p in self.points)
            one.spearmans.extend([0.62] * count)
        self._fill_shadows(message.shadows)
        self._fill_quota_profile(message.quota_profile)
        self._fill_clusters(message)
        self._fill_leases(message)
        return message

    def _fill_uncertainty(self, uncertainty: pb.Uncertainty, now: np.ndarray) -> None:
        """Ten rollouts a prompt: the deviation follows from the pass rate."""
        bins = len(now)
        rates = (np.arange(bins) + 0.5) / bins
        stddevs = np.sqrt(rates * (1 - rates) / 13)
        uncertainty.edges.extend(np.linspace(0, 0.3, 31).tolist())
        places = (stddevs * 100).astype(int)
        uncertainty.counts.extend(np.bincount(places, weights=now, minlength=30).astype(int).tolist())
        uncertainty.mean_stddev = float((stddevs * now).sum() / max(1, now.sum()))
        uncertainty.mean_stddevs.extend(np.where(now > 0, stddevs, np.nan).tolist())

    def _fill_history(self, history: pb.History) -> None:
        history.wasted_rollouts.extend(int(GROUP_SIZE * (p["correct"] + p["wrong"])) for p in self.points)
        count = len(self.points)
        history.times_seconds.extend(EPOCH_SECONDS + 12.0 * (i + 1) for i in range(count))
        history.policy_versions.extend(range(1, count + 1))
        history.groups.extend([GROUPS_PER_STEP] * count)
        history.mixed_groups.extend(int(p["mixed"]) for p in self.points)
        history.all_correct_groups.extend(int(p["correct"]) for p in self.points)
        history.all_wrong_groups.extend(int(p["wrong"]) for p in self.points)
        history.rollouts.extend([GROUPS_PER_STEP * GROUP_SIZE] * count)
        history.exploration_rollouts.extend(int(p["exploration"]) for p in self.points)
        history.mean_rewards.extend(p["reward"] for p in self.points)
        history.briers.extend(p["brier"] for p in self.points)
        history.histogram_bins = HISTORY_BINS
        for row in self.rows:
            history.histogram_counts.extend(rebin(row, HISTORY_BINS).tolist())

    def _fill_calibration(self, calibration: pb.Calibration) -> None:
        calibration.predictions = GROUPS_PER_STEP * self.version
        calibration.brier, calibration.log_loss = 0.142, 0.431
        calibration.spearman, calibration.spearman_groups = 0.62, 2048
        for i in range(10):
            predicted = (i + 0.5) / 10
            count = 0 if i == 9 else int(self.version * (4 - abs(i - 4) * 0.6))
            calibration.bin_counts.append(count)
            calibration.bin_predicted.append(predicted if count else float("nan"))
            calibration.bin_observed.append(
                0.08 + 0.85 * predicted + 0.03 * (-1) ** i if count else float("nan")
            )

    def _fill_shadows(self, shadows: pb.Shadows) -> None:
        shadows.batches, shadows.compared_batches = self.version, self.version - 1
        for i, name in enumerate(("in force", "mopps", "cures-0.3")):
            one = shadows.strategies.add(strategy=name, estimator=f"none+none#{i:06d}")
            self._fill_calibration(one.calibration)
            one.calibration.brier += 0.01 * i
            one.predicted_mixed_share, one.expected_mixed_share = 0.41 + 0.02 * i, 0.47 - 0.03 * i
            one.quota_overlap, one.batch_overlap = 1.0 - 0.2 * i, 0.31 / (1 + i)
            one.shared_groups, one.shared_mixed_share = 40 * self.version, 0.52 - 0.1 * i
            one.weighted_groups, one.weighted_support = 400.0 / (1 + i), 0.98
            one.weighted_mixed_share = 0.44 if i < 2 else math.nan
            series = shadows.series.add(strategy=name, policy_versions=range(1, len(self.points) + 1))
            series.briers.extend(p["brier"] + 0.01 * i for p in self.points)
            series.expected_mixed_shares.extend(p["mixed"] / GROUPS_PER_STEP - 0.02 * i for p in self.points)

    def _fill_quota_profile(self, profile: pb.QuotaProfile) -> None:
        profile.edges.extend(np.linspace(0, 1, 21).tolist())
        for i in range(20):
            p = (i + 0.5) / 20
            known = 0 < i < 19
            profile.prompts.append(10 * self.version if known else 0)
            profile.mean_quotas.append(2 + 22 * math.sqrt(p * (1 - p)) if known else float("nan"))

    def _fill_clusters(self, message: pb.Summary) -> None:
        for i, name in enumerate(CLUSTERS):
            groups = 6 * self.version
            message.clusters.add(
                cluster=name,
                prompts=self.prompts // len(CLUSTERS),
                pass_rate=min(0.95, 0.9 - 0.2 * i + 0.004 * self.version),
                groups=groups,
                mixed_groups=groups * (i + 1) // 8,
                rollouts=groups * GROUP_SIZE,
                recent_share=(i + 1) / 15,
            )

    def _fill_leases(self, message: pb.Summary) -> None:
        for i in range(2):
            lease = message.leases.add(
                lease_id=f"lease-{self.version:04d}-{i}",
                trainer_id=f"trainer-{i}/rank-0",
                prompts=32,
                open_prompts=20 - 8 * i,
                rollouts_granted=256,
                rollouts_reported=96 + 64 * i,
                policy_version=self.version,
            )
            lease.grant_time.FromSeconds(EPOCH_SECONDS + 12 * self.version)
            lease.expire_time.FromSeconds(EPOCH_SECONDS + 12 * self.version + 600)


class SimulatedReader:
    """A `CurriculumReader` over simulated curricula; set `failure` to take the service away."""

    def __init__(self, *curricula: SimulatedCurriculum) -> None:
        self.curricula = {c.curriculum_id: c for c in curricula}
        self.failure: ReadError | None = None
        self.reads = 0

    def _find(self, curriculum_id: str) -> SimulatedCurriculum:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        if curriculum_id not in self.curricula:
            raise ReadError(5, "CURRICULUM_NOT_FOUND", f"There is no curriculum {curriculum_id!r}.")
        return self.curricula[curriculum_id]

    async def list_curricula(self, page_size: int, page_token: str) -> pb.ListCurriculaResponse:
        if self.failure is not None:
            raise self.failure
        ids = sorted(self.curricula)
        start = int(page_token or 0)
        end = start + page_size
        return pb.ListCurriculaResponse(
            curricula=[self.curricula[i].curriculum() for i in ids[start:end]],
            next_page_token=str(end) if end < len(ids) else "",
        )

    async def curriculum(self, curriculum_id: str) -> pb.Curriculum:
        return self._find(curriculum_id).curriculum()

    async def summary(self, curriculum_id: str, bins: int) -> pb.Summary:
        return self._find(curriculum_id).summary(bins)

    async def prompt_states(self, request: pb.ListPromptStatesRequest) -> pb.ListPromptStatesResponse:
        curriculum = self._find(request.curriculum_id)
        where = request.filter
        rates = curriculum.pass_rates()
        if where.prompt_ids:
            unknown = [i for i in where.prompt_ids if i not in curriculum.prompt_ids]
            if unknown:
                raise ReadError(5, "PROMPT_NOT_FOUND", f"There is no prompt {unknown[0]!r}.")
            slots = [curriculum.prompt_ids.index(i) for i in where.prompt_ids]
        else:
            low = where.min_pass_rate if where.HasField("min_pass_rate") else 0.0
            high = where.max_pass_rate if where.HasField("max_pass_rate") else 1.0
            slots = [
                i
                for i, prompt_id in enumerate(curriculum.prompt_ids)
                if low <= rates[i] <= high
                and where.id_contains in prompt_id
                and (not where.clusters or CLUSTERS[i % len(CLUSTERS)] in where.clusters)
            ]
        if request.order_by:
            name, _, direction = request.order_by.partition(" ")
            if name != "pass_rate":
                raise ReadError(3, "INVALID_ORDER", f"order_by = {request.order_by!r} is none.", "order_by")
            slots.sort(key=lambda i: (rates[i], i), reverse=direction == "desc")
        start = int(request.page_token or 0)
        end = start + request.page_size
        page = slots[start:end]
        seen = [i < curriculum.seen for i in page]
        weight = [10.0 if s else 0.0 for s in seen]
        return pb.ListPromptStatesResponse(
            prompt_ids=[curriculum.prompt_ids[i] for i in page],
            pass_rates=[float(rates[i]) for i in page],
            pass_rate_stddevs=[0.1] * len(page),
            alphas=[1 + w * float(rates[i]) for i, w in zip(page, weight, strict=True)],
            betas=[1 + w * (1 - float(rates[i])) for i, w in zip(page, weight, strict=True)],
            ema_means=[float(rates[i]) for i in page],
            ema_variances=[float(rates[i] * (1 - rates[i])) for i in page],
            visits=[int(s) for s in seen],
            rollouts=[8 * int(s) for s in seen],
            last_policy_versions=[curriculum.version if s else 0 for s in seen],
            clusters=[CLUSTERS[i % len(CLUSTERS)] for i in page],
            in_flight=[i % 7 == 0 for i in page],
            next_page_token=str(end) if end < len(slots) else "",
            revision=curriculum.revision,
        )

    async def prompt_history(
        self, curriculum_id: str, prompt_id: str, most_visits: int
    ) -> pb.GetPromptHistoryResponse:
        curriculum = self._find(curriculum_id)
        if prompt_id not in curriculum.prompt_ids:
            raise ReadError(5, "PROMPT_NOT_FOUND", f"There is no prompt {prompt_id!r}.", "prompt_id")
        return curriculum.history_of(prompt_id)

    async def update_strategy(self, request: pb.UpdateCurriculumRequest) -> pb.Curriculum:
        curriculum = self._find(request.curriculum_id)
        if request.etag != curriculum.etag:
            raise ReadError(10, "ETAG_MISMATCH", "Somebody changed the strategy. Read it again.", "etag")
        if request.strategy.exploration > 1:
            raise ReadError(
                3,
                "INVALID_STRATEGY",
                f"strategy.exploration = {request.strategy.exploration:g} must be at most 1.",
                "strategy.exploration",
            )
        if request.validate_only:
            would_be = curriculum.curriculum()
            would_be.strategy.CopyFrom(request.strategy)
            return would_be
        curriculum.etag += "+"
        curriculum.changed.CopyFrom(request.strategy)
        return curriculum.curriculum()

    def presets(self) -> dict[str, pb.Strategy]:
        return {
            name: SimulatedCurriculum(name, 1, preset=name).curriculum().strategy
            for name in ("cures", "dapo")
        }

    async def ready(self) -> tuple[bool, str]:
        return (self.failure is None, str(self.failure or ""))
