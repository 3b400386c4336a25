"""The policy that learns: one optimizer update per batch of samples, in micro-batches.

Replayed samples are clipped as in DOTS (arXiv 2506.05316): with r = π/μ, μ the policy that made
them, and r_old = π_old/μ, π_old the policy before this update, the surrogate is
min(r A, clip(r, r_old (1 - ε), r_old (1 + ε)) A). Since r = r_old · π/π_old that is r_old times PPO's
surrogate in π/π_old, and so computed: π_old is the learner's own, r_old an importance weight.
With GSPO's ratio (`sequence`) both factors are geometric means over the sequence.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer_client.distributed.world import World, shares
from trainer_client.learner.agreement import Agreement
from trainer_client.learner.log_probs import TokenLogProbs, completion_log_probs
from trainer_client.learner.losses import (
    Aggregation,
    Ratio,
    clipped_policy_loss,
    k3,
    token_weights,
    truncated_importance,
)
from trainer_client.learner.movement import Probe, probe_samples
from trainer_client.learner.samples import Sample, micro_batches


@dataclass(frozen=True)
class UpdateSettings:
    """How a batch of samples becomes an update; see `trainer_client.config.LearnerConfig`."""

    learning_rate: float = 1e-5
    warmup_updates: int = 0
    max_gradient_norm: float = 1.0
    epochs: int = 1
    ratio: Ratio = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    aggregation: Aggregation = "token_mean"
    kl_coefficient: float = 0.0
    temperature: float = 1.0
    max_tokens: int = 64
    micro_batch_tokens: int = 4096
    share_prompts: bool = True
    mixed_precision: bool = False
    recompute_log_probs: bool = False
    importance_cap: float = 2.0
    replay_importance_cap: float | None = None


@dataclass(frozen=True)
class UpdateMetrics:
    """What one update did. `skipped` when there was no gradient, or none that is finite.

    engine_gap and importance: see `Agreement`; compared where old log-probs are recomputed.
    """

    loss: float = 0.0
    gradient_norm: float = 0.0
    clip_share: float = 0.0
    entropy: float = 0.0
    reference_kl: float = 0.0
    trained_tokens: int = 0
    engine_gap: float = 0.0
    importance_mean: float = 1.0
    importance_capped_share: float = 0.0
    skipped: bool = True


class Policy:
    """A model, its optimizer, and the update.

    model: trainable parameters are those that require gradients (LoRA: the adapters).
    world: the processes that learn together. Each reads its share of a batch; the losses' weights add
    up to 1 over the whole batch, so the sum of the gradients is that of a single process.
    With a KL term and no adapters to switch off, a copy of the model as it is now is kept.
    """

    def __init__(
        self, model: Any, settings: UpdateSettings, *, pad_id: int = 0, world: World | None = None
    ) -> None:
        self.model = model
        self.settings = settings
        self.pad_id = pad_id
        self.world = world or World()
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.updates = 0
        self._reference_model = None
        if settings.kl_coefficient > 0 and not hasattr(model, "disable_adapter"):
            self._reference_model = copy.deepcopy(model).requires_grad_(False).eval()

    @property
    def learning_rate(self) -> float:
        """That of the last update."""
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self, samples: Sequence[Sample]) -> UpdateMetrics:
        """Trains on the samples: `epochs` optimizer steps. Samples without advantage cost nothing.

        They do count in the mean: a batch with few informative groups makes a small step.
        """
        metrics = UpdateMetrics()
        useful = [s for s in samples if s.advantage != 0 or self.settings.kl_coefficient > 0]
        useful = [s for s in useful if s.completion_token_ids]
        if not useful:
            return metrics
        totals = (sum(len(s.completion_token_ids) for s in samples), len(samples))
        mine = self._share(useful)
        parts = self.parts(mine)
        old = self.world.together(lambda: [self._old_log_probs(part) for part in parts])
        agreement = self._agreement(parts, old)
        for _ in range(self.settings.epochs):
            metrics = self._optimizer_step(mine, old, totals)
        return replace(
            metrics,
            engine_gap=agreement.gap,
            importance_mean=agreement.importance,
            importance_capped_share=agreement.capped,
        )

    @torch.no_grad()
    def probe(self, samples: Sequence[Sample], max_prompts: int = 6, max_per_prompt: int = 4) -> Probe:
        """A few completions of a few prompts (prompts are what costs), to measure an update by."""
        chosen = self._share(probe_samples(samples, max_prompts, max_per_prompt))
        # What the engine says of its tokens differs by more than the update: it is no start to measure from.
        recomputed = self.settings.recompute_log_probs
        return self.world.together(
            lambda: Probe(
                tuple(
                    (part, self.log_probs(part).log_probs if recomputed else self._behaviour(part))
                    for part in self.parts(chosen)
                )
            )
        )

    @torch.no_grad()
    def mean_kl(self, probe: Probe) -> float:
        """Mean KL per token between the policy at the probe and the present one.

        k3 on the sampled tokens: an estimate of KL(then ‖ now), exact in expectation.
        """
        total, tokens = self._added_up(*self.world.together(lambda: self._moved(probe)))
        # Its terms are not negative, but for rounding when the policy has hardly moved.
        return max(total, 0.0) / tokens if tokens else 0.0

    def _moved(self, probe: Probe) -> tuple[float, float]:
        total = tokens = 0.0
        for part, before in probe.parts:
            now = self.log_probs(part)
            total += float((k3(before, now.log_probs) * now.mask).sum())
            tokens += float(now.mask.sum())
        return total, tokens

    def log_probs(self, samples: Sequence[Sample]) -> TokenLogProbs:
        """Token log-probabilities of the samples under the present policy."""
        return self._read(self.model, samples)

    def _read(self, model: Any, samples: Sequence[Sample]) -> TokenLogProbs:
        return completion_log_probs(
            model,
            samples,
            temperature=self.settings.temperature,
            pad_id=self.pad_id,
            share_prompts=self.settings.share_prompts,
            mixed_precision=self.settings.mixed_precision,
        )

    def _share(self, samples: Sequence[Sample]) -> list[Sample]:
        """This process's samples: whole groups, about as many tokens as any other's."""
        if self.world.size == 1:
            return list(samples)
        groups: dict[tuple[int, ...], list[Sample]] = {}
        for sample in samples:
            groups.setdefault(sample.prompt_token_ids, []).append(sample)
        costs = [
            len(prompt) + sum(len(sample.completion_token_ids) for sample in group)
            for prompt, group in groups.items()
        ]
        parts = list(groups.values())
        return [
            sample for place in shares(costs, self.world.size)[self.world.rank] for sample in parts[place]
        ]

    def _added_up(self, *values: float) -> list[float]:
        """Sums over the processes."""
        if self.world.size == 1:
            return list(values)
        device = self.parameters[0].device
        sums = torch.tensor(values, dtype=torch.float64, device=device)
        self.world.add(sums)
        return [float(value) for value in sums.tolist()]

    def parts(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """Micro-batches."""
        return micro_batches(samples, self.settings.micro_batch_tokens)

    def _behaviour(self, part: Sequence[Sample]) -> Tensor:
        """Log-probs by the policy that sampled [R, T], 0 beyond a completion's end."""
        longest = max(len(sample.completion_token_ids) for sample in part)
        values = torch.zeros(len(part), longest)
        for row, sample in enumerate(part):
            values[row, : len(sample.behaviour_log_probs)] = torch.tensor(sample.behaviour_log_probs)
        return values.to(self.parameters[0].device)

    def _old_log_probs(self, part: Sequence[Sample]) -> Tensor | None:
        """The learner's own log-probs before the update, where the samples' are another policy's."""
        if not self.settings.recompute_log_probs and not any(sample.replayed for sample in part):
            return None
        with torch.no_grad():
            return self.log_probs(part).log_probs

    def _agreement(self, parts: Sequence[Sequence[Sample]], old: Sequence[Tensor | None]) -> Agreement:
        agreement = Agreement()
        for part, recomputed in zip(parts, old, strict=True):
            if recomputed is not None and self.settings.recompute_log_probs:
                agreement.add(part, recomputed, self._behaviour(part), self.settings.importance_cap)
        return Agreement(
            *self._added_up(
                agreement.tokens, agreement.gap_sum, agreement.importance_sum, agreement.capped_sum
            )
        )

    def _correction(
        self,
        part: Sequence[Sample],
        behaviour_R_T: Tensor,
        recomputed_R_T: Tensor | None,
        mask_R_T: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """Old log-probs [R, T], and importance weights where they are not those that were sampled from."""
        if recomputed_R_T is None:
            return behaviour_R_T, None
        settings = self.settings
        always = settings.recompute_log_probs
        device = behaviour_R_T.device
        corrected_R = torch.tensor([always or sample.replayed for sample in part], device=device)[:, None]
        fresh_cap = settings.importance_cap
        replay_cap = settings.replay_importance_cap or math.inf
        caps_R = torch.tensor(
            [replay_cap if sample.replayed else fresh_cap for sample in part], device=device
        )
        old_R_T = torch.where(corrected_R, recomputed_R_T, behaviour_R_T)
        # Where nothing is corrected the two are the same, and their ratio 1.
        # A ratio of sequences is corrected by sequences: r_old is a mean of the same kind as π/π_old.
        whole = mask_R_T if settings.ratio == "sequence" else None
        return old_R_T, truncated_importance(old_R_T, behaviour_R_T, caps_R[:, None], whole)

    def _reference(self, part: Sequence[Sample]) -> Tensor | None:
        if self.settings.kl_coefficient <= 0:
            return None
        with torch.no_grad():
            if self._reference_model is not None:
                return self._read(self._reference_model, part).log_probs
            # The model without its adapters is the policy that training started from.
            with self.model.disable_adapter():
                return self.log_probs(part).log_probs

    def _optimizer_step(
        self, useful: Sequence[Sample], old: Sequence[Tensor | None], totals: tuple[int, int]
    ) -> UpdateMetrics:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        sums = self.world.together(lambda: self._accumulate(useful, old, totals))
        self.world.add_gradients(self.parameters)
        loss, clipped, entropy, reference_kl, tokens = self._added_up(*sums)
        trained = int(tokens)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.max_gradient_norm))
        if not math.isfinite(norm):
            self.optimizer.zero_grad(set_to_none=True)
            return UpdateMetrics(loss=loss, gradient_norm=norm, trained_tokens=trained)
        self._set_learning_rate()
        self.optimizer.step()
        self.updates += 1
        return UpdateMetrics(
            loss,
            norm,
            clipped / trained,
            entropy / trained,
            reference_kl / trained,
            trained,
            skipped=False,
        )

    def _accumulate(
        self, useful: Sequence[Sample], old: Sequence[Tensor | None], totals: tuple[int, int]
    ) -> tuple[float, float, float, float, float]:
        """This process's gradients; sums of loss, clipped tokens, entropies, KL to the reference, and tokens."""
        settings = self.settings
        loss = clipped = entropy = reference_kl = trained = 0.0
        for part, recomputed in zip(self.parts(useful), old, strict=True):
            reference = self._reference(part)
            now = self.log_probs(part)
            old_log_probs, importance = self._correction(part, self._behaviour(part), recomputed, now.mask)
            terms = clipped_policy_loss(
                now.log_probs,
                old_log_probs,
                torch.tensor([s.advantage for s in part], device=now.mask.device, dtype=torch.float32),
                now.mask,
                token_weights(
                    now.mask,
                    "sequence_mean" if settings.ratio == "sequence" else settings.aggregation,
                    total_tokens=totals[0],
                    total_sequences=totals[1],
                    max_tokens=settings.max_tokens,
                ),
                ratio=settings.ratio,
                clip_low=settings.clip_low,
                clip_high=settings.clip_high,
                importance_R_T=importance,
                reference_log_probs_R_T=reference,
                kl_coefficient=settings.kl_coefficient,
            )
            terms.loss.backward()  # type: ignore[no-untyped-call]
            loss += float(terms.loss.detach())
            clipped += float(terms.clipped_tokens)
            reference_kl += float(terms.kl_sum)
            entropy += float(now.entropies.sum())
            trained += float(now.mask.sum())
        return loss, clipped, entropy, reference_kl, trained

    def _set_learning_rate(self) -> None:
        warmup = self.settings.warmup_updates
        share = min(1.0, (self.updates + 1) / warmup) if warmup else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share
