"""Log-probabilities of completions under a model, with gradients.

Two ways to the same numbers: `share_prompts=True` reads every distinct prompt once and lets the
completions of its group attend to the kept keys and values (gradients flow through them): with
groups of 8 and prompts much longer than completions about four times less work. `False` is the
plain forward over prompt + completion; gradient checkpointing needs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache

from trainer_client.learner.samples import Sample
from trainer_client.models.precision import autocast
from trainer_client.rollouts.transformers_engine import pad_left

# So many tokens' logits are in float32 at a time.
PIECE_TOKENS = 1024


@dataclass(frozen=True)
class TokenLogProbs:
    """Per completion token, padded on the right: log_probs, entropies and mask, each [R, T]."""

    log_probs: Tensor
    entropies: Tensor
    mask: Tensor


def completion_log_probs(
    model: Any,
    samples: Sequence[Sample],
    *,
    temperature: float = 1.0,
    pad_id: int = 0,
    share_prompts: bool = True,
    mixed_precision: bool = False,
) -> TokenLogProbs:
    """Log-probabilities of the completions at `temperature`. Entropies carry no gradient.

    mixed_precision: matrices are multiplied in bfloat16, whatever the weights are kept in.
    """
    device = next(model.parameters()).device
    targets_R_T, mask_R_T = padded_completions(samples, pad_id, device)
    read = _shared_logits if share_prompts else plain_logits
    with autocast(device, mixed_precision):
        logits_R_T_V = read(model, samples, targets_R_T, mask_R_T, pad_id)
    log_probs_N, entropies_N = token_statistics(
        logits_R_T_V.flatten(0, 1), targets_R_T.flatten(), temperature
    )
    shape = targets_R_T.shape
    return TokenLogProbs(log_probs_N.view(shape) * mask_R_T, entropies_N.view(shape) * mask_R_T, mask_R_T)


def token_statistics(
    logits_N_V: Tensor, targets_N: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, both [N], in float32.

    Piece by piece, and pieces are computed again for the gradient: of a large vocabulary's logits
    only one copy, in the model's own type, is kept.
    """
    pieces = []
    for start in range(0, len(targets_N), PIECE_TOKENS):
        piece = slice(start, start + PIECE_TOKENS)
        arguments = (logits_N_V[piece], targets_N[piece], temperature)
        if logits_N_V.requires_grad and len(targets_N) > PIECE_TOKENS:
            pieces.append(checkpoint(_statistics, *arguments, use_reentrant=False))
        else:
            pieces.append(_statistics(*arguments))
    return torch.cat([one for one, _ in pieces]), torch.cat([one for _, one in pieces])


def _statistics(logits_N_V: Tensor, targets_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logits_N_V = logits_N_V.float()
    if temperature not in (0.0, 1.0):
        logits_N_V = logits_N_V / temperature
    normaliser_N = torch.logsumexp(logits_N_V, dim=-1)
    log_probs_N = logits_N_V.gather(1, targets_N[:, None])[:, 0] - normaliser_N
    with torch.no_grad():
        # H = log Z - E[logit]
        probs_N_V = torch.softmax(logits_N_V, dim=-1)
        entropies_N = normaliser_N - (probs_N_V * logits_N_V).sum(dim=-1)
    return log_probs_N, entropies_N


def _shared_logits(
    model: Any, samples: Sequence[Sample], targets_R_T: Tensor, mask_R_T: Tensor, pad_id: int
) -> Tensor:
    device = targets_R_T.device
    prompts = list(dict.fromkeys(sample.prompt_token_ids for sample in samples))
    place = {prompt: index for index, prompt in enumerate(prompts)}
    rows_R = torch.tensor([place[sample.prompt_token_ids] for sample in samples], device=device)
    ids_P_L, mask_P_L, positions_P_L = pad_left(prompts, pad_id, device)
    cache = DynamicCache(config=model.config)
    first_P_1_V: Tensor = model(
        input_ids=ids_P_L,
        attention_mask=mask_P_L,
        position_ids=positions_P_L,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits
    first_R_1_V = first_P_1_V[rows_R]
    length = targets_R_T.shape[1]
    if length == 1:
        return first_R_1_V
    cache.batch_select_indices(rows_R)
    prompt_mask_R_L = mask_P_L[rows_R]
    steps = torch.arange(length - 1, device=device)
    rest_R_T_V: Tensor = model(
        input_ids=targets_R_T[:, :-1],
        attention_mask=torch.cat([prompt_mask_R_L, mask_R_T[:, :-1].long()], dim=1),
        position_ids=prompt_mask_R_L.sum(dim=1, keepdim=True) + steps,
        past_key_values=cache,
        use_cache=True,
    ).logits
    return torch.cat([first_R_1_V, rest_R_T_V], dim=1)


def plain_logits(
    model: Any, samples: Sequence[Sample], targets_R_T: Tensor, mask_R_T: Tensor, pad_id: int
) -> Tensor:
    """Logits [R, T, V] that the completions were drawn from, by one pass over prompt and completion."""
    device = targets_R_T.device
    ids_R_L, prompt_mask_R_L, _ = pad_left([s.prompt_token_ids for s in samples], pad_id, device)
    mask = torch.cat([prompt_mask_R_L, mask_R_T.long()], dim=1)
    output = model(
        input_ids=torch.cat([ids_R_L, targets_R_T], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=targets_R_T.shape[1] + 1,
    )
    logits: Tensor = output.logits[:, :-1]
    return logits


def padded_completions(samples: Sequence[Sample], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask of the completions, each [rows, longest]; padding on the right."""
    longest = max(len(sample.completion_token_ids) for sample in samples)
    ids = torch.full((len(samples), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(samples), longest))
    for row, sample in enumerate(samples):
        length = len(sample.completion_token_ids)
        ids[row, :length] = torch.tensor(sample.completion_token_ids, dtype=torch.long)
        mask[row, :length] = 1
    return ids.to(device), mask.to(device)
