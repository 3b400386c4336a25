"""Every preset's calls on one large pool whose prompts have all that a method may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.service import latency
from benchmarks.service.process import Server
from curriculum.v1 import curriculum_pb2 as pb
from sampler_service.curriculum.presets import PRESETS

__all__ = ["BAR_MILLISECONDS", "of_presets"]

BAR_MILLISECONDS = 100.0
"""Median of NextBatch(512) at 100,000 prompts."""
_DIMENSIONS = 16


def _add(server: Server, curriculum: str, preset: str, prompts: int) -> None:
    """As `latency.add_prompts`, with known pass rates and embeddings besides."""
    channel, stub = server.stub()
    strategy = pb.Strategy(preset=preset)
    strategy.iterations.SetInParent()  # Draws are measured, not a cold start.
    stub.CreateCurriculum(
        pb.CreateCurriculumRequest(request_id="create", curriculum_id=curriculum, strategy=strategy)
    )
    rng = np.random.default_rng(0)

    def chunks() -> Iterator[pb.AddPromptsRequest]:
        for start in range(0, prompts, latency.CHUNK):
            numbers = range(start, min(start + latency.CHUNK, prompts))
            rates = rng.beta(0.5, 0.8, len(numbers)).astype(np.float32)
            anchors = np.stack([rates * 0.5, rates * 0.5 + 0.5], axis=1)
            vectors = rng.standard_normal((len(numbers), _DIMENSIONS)).astype("<f2")
            yield pb.AddPromptsRequest(
                curriculum_id=curriculum,
                request_id="add",
                prompt_ids=[f"prompt-{i:09d}" for i in numbers],
                clusters=[f"cluster-{i % 50}" for i in numbers],
                reference_pass_rates=rates.tolist(),
                anchor_pass_rates=anchors.ravel().tolist(),
                embeddings=vectors.tobytes(),
                embedding_dim=_DIMENSIONS,
                embedding_type=pb.EMBEDDING_TYPE_FLOAT16,
            )

    with channel:
        stub.AddPrompts(chunks())


def of_presets(server: Server, prompts: int, batch: int, rounds: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and figures of each, in turn; the last curriculum is deleted before the next is made."""
    for number, preset in enumerate(PRESETS):
        _add(server, preset, preset, prompts)
        figures = latency.measure(server, preset, batch, 8, rounds, 0.005, seed=number)
        figures["within_bar"] = figures["next"]["p50_ms"] <= BAR_MILLISECONDS
        yield preset, figures
        channel, stub = server.stub()
        with channel:
            stub.DeleteCurriculum(
                pb.DeleteCurriculumRequest(request_id=f"delete-{preset}", curriculum_id=preset)
            )
