"""Batched sampling with transformers, on CPU or GPU, sharing the learner's model.

A prompt is read once, whatever its quota: its keys and values are repeated for its rollouts. Rows
that have ended leave the batch. Every rollout has random numbers of its own, drawn from the seed,
the prompt and its place in the group, so that a completion does not depend on what shares its batch.
"""

import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from trainer_client.models.precision import autocast
from trainer_client.models.weights import load_weights
from trainer_client.rollouts.batch_session import BatchSession
from trainer_client.rollouts.protocol import (
    Completion,
    FinishReason,
    RolloutGroup,
    RolloutRequest,
    RolloutSession,
    SamplingParams,
    cut_at_stop,
)
from trainer_client.stopping import Stopped
from trainer_client.trainer_errors import DivergedError

# A batch is compacted when this share of its rows is still going: copying the cache costs
# about as much as one step of the rows it frees.
COMPACT_BELOW = 0.8


@dataclass
class _Row:
    """One rollout in the making."""

    request_index: int
    uniforms_T: np.ndarray
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "length"


class TransformersEngine:
    """Samples from a causal language model of transformers (or a PEFT model around one).

    model: the learner's own model, or another copy that `update_policy` loads adapters into.
    max_batch_rows: rollouts sampled at once; bounds the memory of the cache.
    mixed_precision: as the learner's, so that both compute the same log-probabilities.
    should_stop: looked at before every token; `generate` then raises Stopped.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        max_batch_rows: int = 64,
        mixed_precision: bool = False,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_batch_rows = max_batch_rows
        self.mixed_precision = mixed_precision
        self.should_stop = should_stop
        self.policy_version = 0
        self._eos_ids = _eos_token_ids(model, tokenizer)
        self._pad_id = next(iter(self._eos_ids), 0)

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Loads the folder's weights into the model, if one is given, and notes the version."""
        if adapter is not None:
            load_weights(self.model, adapter)
        self.policy_version = version

    def session(self, sampling: SamplingParams, seed: int) -> RolloutSession:
        """Requests in rounds: those submitted together end together."""
        return BatchSession(self, sampling, seed)

    def rest(self) -> None:
        """Nothing to give back: the cache of a batch ends with it."""

    def close(self) -> None:
        """Nothing to free: the model belongs to the learner."""

    @torch.no_grad()
    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """Samples all requests, longest prompts together. O(tokens) forward passes over the model."""
        rows = [
            _Row(index, _uniforms(seed, request.prompt_id, place, sampling.max_tokens))
            for index, request in enumerate(requests)
            for place in range(request.first, request.first + request.n)
        ]
        # Equal lengths side by side: little padding.
        rows.sort(key=lambda row: -len(requests[row.request_index].prompt_token_ids))
        with _evaluating(self.model), autocast(self._device, self.mixed_precision):
            for start in range(0, len(rows), self.max_batch_rows):
                self._sample_batch(rows[start : start + self.max_batch_rows], requests, sampling)
        completions: list[list[Completion]] = [[] for _ in requests]
        for row in rows:
            completions[row.request_index].append(self._completion(row, sampling))
        return [
            RolloutGroup(request.prompt_id, request.prompt_token_ids, tuple(group))
            for request, group in zip(requests, completions, strict=True)
        ]

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device  # type: ignore[no-any-return]

    def _completion(self, row: _Row, sampling: SamplingParams) -> Completion:
        text = self.tokenizer.decode(row.token_ids, skip_special_tokens=True)
        return Completion(
            tuple(row.token_ids), tuple(row.log_probs), cut_at_stop(text, sampling.stop), row.finish_reason
        )

    def _sample_batch(
        self, rows: list[_Row], requests: Sequence[RolloutRequest], sampling: SamplingParams
    ) -> None:
        logits_R_V, cache, mask_R_L = self._read_prompts(rows, requests)
        positions_R = mask_R_L.sum(dim=1)
        active = rows
        for step in range(sampling.max_tokens):
            if self.should_stop():
                raise Stopped
            uniforms_R = torch.tensor([row.uniforms_T[step] for row in active], dtype=torch.float64)
            tokens_R, log_probs_R = sample_tokens(logits_R_V, uniforms_R, sampling)
            tokens = tokens_R.tolist()
            log_probs = log_probs_R.tolist()
            if not all(map(math.isfinite, log_probs)):
                raise DivergedError(
                    "the model's probabilities are not numbers: its weights have exploded; lower "
                    "learner.learning_rate and go on with --resume from an earlier checkpoint"
                )
            ended = []
            for row, token, log_prob in zip(active, tokens, log_probs, strict=True):
                row.token_ids.append(token)
                row.log_probs.append(log_prob)
                ended.append(self._has_ended(row, sampling))
            if step + 1 == sampling.max_tokens:
                return
            going = [index for index, end in enumerate(ended) if not end]
            if not going:
                return
            if len(going) < COMPACT_BELOW * len(active) or any(ended):
                keep = torch.tensor(going, device=self._device)
                active = [active[index] for index in going]
                tokens_R, mask_R_L, positions_R = tokens_R[keep], mask_R_L[keep], positions_R[keep]
                cache.batch_select_indices(keep)
            mask_R_L = torch.cat([mask_R_L, mask_R_L.new_ones(len(active), 1)], dim=1)
            output = self.model(
                input_ids=tokens_R[:, None],
                attention_mask=mask_R_L,
                position_ids=positions_R[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            logits_R_V = output.logits[:, -1]
            positions_R = positions_R + 1

    def _read_prompts(
        self, rows: list[_Row], requests: Sequence[RolloutRequest]
    ) -> tuple[Tensor, DynamicCache, Tensor]:
        """Logits after the prompt [R, V], cache and attention mask [R, L], one row per rollout."""
        order = list(dict.fromkeys(row.request_index for row in rows))
        place = {index: position for position, index in enumerate(order)}
        ids_P_L, mask_P_L, positions_P_L = pad_left(
            [requests[index].prompt_token_ids for index in order], self._pad_id, self._device
        )
        cache = DynamicCache(config=self.model.config)
        output = self.model(
            input_ids=ids_P_L,
            attention_mask=mask_P_L,
            position_ids=positions_P_L,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        spread_R = torch.tensor([place[row.request_index] for row in rows], device=self._device)
        cache.batch_select_indices(spread_R)
        return output.logits[:, -1][spread_R], cache, mask_P_L[spread_R]

    def _has_ended(self, row: _Row, sampling: SamplingParams) -> bool:
        if row.token_ids[-1] in self._eos_ids:
            row.finish_reason = "stop"
        elif sampling.stop:
            # Every token has at least one byte, so the tail that can hold a new stop string is short.
            tail_tokens = 4 + max(len(mark.encode()) for mark in sampling.stop)
            tail = self.tokenizer.decode(row.token_ids[-tail_tokens:], skip_special_tokens=True)
            if any(mark in tail for mark in sampling.stop):
                row.finish_reason = "stop"
        return row.finish_reason == "stop"


def sample_tokens(logits_R_V: Tensor, uniforms_R: Tensor, sampling: SamplingParams) -> tuple[Tensor, Tensor]:
    """One token per row by the inverse of its cumulative distribution, and its log-probability.

    The log-probability is that at the sampling temperature over the whole vocabulary, so that it
    compares with what a learner computes; with top-p below 1 the draw is from the cut distribution.
    """
    logits_R_V = logits_R_V.float()
    if sampling.temperature <= 0:
        log_probs_R_V = torch.log_softmax(logits_R_V, dim=-1)
        tokens_R = log_probs_R_V.argmax(dim=-1)
    else:
        log_probs_R_V = torch.log_softmax(logits_R_V / sampling.temperature, dim=-1)
        probs_R_V = log_probs_R_V.exp().double()
        if sampling.top_p < 1:
            probs_R_V = _cut_to_nucleus(probs_R_V, sampling.top_p)
        cumulative_R_V = probs_R_V.cumsum(dim=-1)
        targets_R_1 = uniforms_R.to(cumulative_R_V.device)[:, None] * cumulative_R_V[:, -1:]
        # The first token whose cumulative mass exceeds the target has a mass of its own.
        tokens_R = torch.searchsorted(cumulative_R_V, targets_R_1, right=True)[:, 0]
        # Where probabilities are not numbers there is none: the log-probability then says so.
        tokens_R = tokens_R.clamp(max=logits_R_V.shape[1] - 1)
    return tokens_R, log_probs_R_V.gather(1, tokens_R[:, None])[:, 0]


def pad_left(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, mask and position ids, each [rows, longest]; padding on the left."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    for row, sequence in enumerate(sequences):
        if len(sequence):
            ids[row, longest - len(sequence) :] = torch.tensor(sequence, dtype=torch.long)
            mask[row, longest - len(sequence) :] = 1
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return ids.to(device), mask.to(device), positions.to(device)


def _cut_to_nucleus(probs_R_V: Tensor, top_p: float) -> Tensor:
    """Zeroes all but the smallest set of tokens with a mass of at least top_p."""
    ordered, order = probs_R_V.sort(dim=-1, descending=True)
    # A token stays when the mass before it is still below top_p: the best one always does.
    before = ordered.cumsum(dim=-1) - ordered
    return torch.zeros_like(probs_R_V).scatter(1, order, ordered * (before < top_p))


def _uniforms(seed: int, prompt_id: str, place: int, count: int) -> np.ndarray:
    key = (seed & 0xFFFFFFFFFFFFFFFF, zlib.crc32(prompt_id.encode()), place)
    return np.random.default_rng(key).random(count)


def _eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found: set[int] = set()
    generation = getattr(model, "generation_config", None)
    for value in (tokenizer.eos_token_id, getattr(generation, "eos_token_id", None)):
        if value is not None:
            found.update([value] if isinstance(value, int) else value)
    return frozenset(found)


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
