"""Accuracy on held-out prompts: pass@1 and the unbiased pass@k (arXiv 2107.03374)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from trainer_client.client import RolloutStatus
from trainer_client.judging import Judge, LocalJudge
from trainer_client.rollouts import RolloutEngine, RolloutRequest, SamplingParams
from trainer_client.rounds import ReadPrompt


@dataclass(frozen=True)
class Evaluation:
    """accuracy: mean pass@1. by_cluster: cluster → (prompts, pass@1). pass_at: k → pass@k.

    pass_rates: share of correct samples of each prompt, in the order asked.
    """

    prompts: int
    samples: int
    accuracy: float
    pass_at: dict[int, float]
    by_cluster: dict[str, tuple[int, float]]
    failed_verdicts: int
    pass_rates: tuple[float, ...] = ()


def evaluate(
    engine: RolloutEngine,
    prompts: Sequence[ReadPrompt],
    sampling: SamplingParams,
    *,
    samples: int = 1,
    ks: Sequence[int] = (),
    seed: int = 0,
    success_threshold: float = 0.5,
    judge: Judge | None = None,
) -> Evaluation:
    """Samples and judges. A verifier that fails counts as a wrong answer here, and is counted.

    ks: which pass@k to give; default k = samples.
    """
    requests = [RolloutRequest(p.prompt.prompt_id, p.token_ids, samples) for p in prompts]
    groups = engine.generate(requests, sampling, seed)
    judged = (judge or LocalJudge()).judge(
        [(read.prompt, group.completions) for read, group in zip(prompts, groups, strict=True)]
    )
    correct = [sum(verdict.reward > success_threshold for verdict in verdicts) for verdicts in judged]
    failed = sum(verdict.status is RolloutStatus.ERROR for verdicts in judged for verdict in verdicts)
    clusters: dict[str, list[int]] = {}
    for read, right in zip(prompts, correct, strict=True):
        clusters.setdefault(read.prompt.cluster, []).append(right)
    count = len(prompts)
    return Evaluation(
        prompts=count,
        samples=samples,
        accuracy=sum(correct) / (count * samples) if count else 0.0,
        pass_at={
            k: sum(pass_at_k(samples, right, k) for right in correct) / count if count else 0.0
            for k in ks or (samples,)
        },
        by_cluster={
            cluster: (len(rights), sum(rights) / (len(rights) * samples))
            for cluster, rights in sorted(clusters.items())
        },
        failed_verdicts=failed,
        pass_rates=tuple(right / samples for right in correct),
    )


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """1 - C(n - c, k) / C(n, k): chance that k of n samples, c of them correct, hold a correct one."""
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k} must be between 1 and the {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)
