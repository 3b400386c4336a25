"""Rollouts by vLLM's offline engine (extra `vllm`), with a LoRA adapter per policy version.

What vLLM does that one must know:
- the same adapter id with changed files silently keeps the old weights: every version gets a new id;
- log-probs are by default those before the temperature: `processed_logprobs` asks for the ones sampled from;
- a prompt's `n` may differ from its neighbours', so one call serves all quotas.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer_client.rollouts.protocol import (
    Completion,
    FinishReason,
    RolloutGroup,
    RolloutRequest,
    SamplingParams,
    cut_at_stop,
)
from trainer_client.trainer_errors import ModelError


class VllmEngine:
    """Samples with `vllm.LLM`. Raises ModelError when vLLM is not installed.

    model: folder of the base model; adapters come by `update_policy`.
    """

    def __init__(
        self,
        model: str,
        *,
        dtype: str = "bfloat16",
        max_model_tokens: int = 4096,
        max_lora_rank: int = 16,
        gpu_memory_share: float = 0.45,
        seed: int = 0,
    ) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise ModelError(
                "rollouts.engine vllm: vLLM is not installed; install the 'vllm' extra, "
                "or set rollouts.engine: transformers"
            ) from error
        self._llm: Any = LLM(
            model=model,
            dtype=dtype,
            max_model_len=max_model_tokens,
            enable_lora=True,
            max_lora_rank=max_lora_rank,
            max_loras=1,
            enable_prefix_caching=True,
            gpu_memory_utilization=gpu_memory_share,
            logprobs_mode="processed_logprobs",
            seed=seed,
        )
        self.policy_version = 0
        self._adapter: Path | None = None

    def update_policy(self, version: int, adapter: Path | None) -> None:
        """Samples from this version's adapter from now on; None: from the base model."""
        self.policy_version = version
        self._adapter = adapter

    def close(self) -> None:
        """Lets go of the engine and its memory."""
        self._llm = None

    def generate(
        self, requests: Sequence[RolloutRequest], sampling: SamplingParams, seed: int
    ) -> list[RolloutGroup]:
        """One call for all requests, each with its own n."""
        from vllm import SamplingParams as VllmSamplingParams
        from vllm.lora.request import LoRARequest

        parameters = [
            VllmSamplingParams(
                n=request.n,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                stop=list(sampling.stop) or None,
                # One seed per prompt: equal prompts of a batch must not sample alike.
                seed=(seed + place) % 2**31,
                logprobs=0,
            )
            for place, request in enumerate(requests)
        ]
        lora = None
        if self._adapter is not None:
            # Ids start at 1 and never repeat, so no version is served from another's cache.
            identity = self.policy_version + 1
            lora = LoRARequest(f"policy-{self.policy_version}", identity, str(self._adapter))
        outputs = self._llm.generate(
            [{"prompt_token_ids": list(request.prompt_token_ids)} for request in requests],
            parameters,
            lora_request=lora,
            use_tqdm=False,
        )
        return [
            RolloutGroup(
                request.prompt_id,
                request.prompt_token_ids,
                tuple(_completion(one, sampling) for one in output.outputs),
            )
            for request, output in zip(requests, outputs, strict=True)
        ]


def _completion(output: Any, sampling: SamplingParams) -> Completion:
    token_ids = tuple(output.token_ids)
    log_probs = tuple(
        float(entry[token].logprob) for token, entry in zip(token_ids, output.logprobs, strict=True)
    )
    reason: FinishReason = "length" if output.finish_reason == "length" else "stop"
    return Completion(token_ids, log_probs, cut_at_stop(output.text, sampling.stop), reason)
