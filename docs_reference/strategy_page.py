"""The page of strategy parts and presets, from the registries."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import BaseModel

from docs_reference.markdown import code, prose
from docs_reference.model_fields import fields_table
from sampler_service.curriculum.clusters import CLUSTERS
from sampler_service.curriculum.decays import DECAYS
from sampler_service.curriculum.iterations import Iterations
from sampler_service.curriculum.parts import Part, Registry
from sampler_service.curriculum.presets import DEFAULT_PRESET, PRESETS
from sampler_service.curriculum.shared_evidence import SHARED_EVIDENCE
from sampler_service.curriculum.strategy import Estimator, Strategy

__all__ = ["REGISTRIES", "strategy_page"]

REGISTRIES: dict[str, Registry[Any]] = {
    "estimator.decay": DECAYS,
    "estimator.shared_evidence": SHARED_EVIDENCE,
    **Strategy.PARTS,
    "clusters": CLUSTERS,
}
"""Where in a strategy a part goes → what may stand there."""

_INTRO = """# Strategy parts and presets

A strategy is a preset with parts of it replaced; a part is `{method: {parameters}}`. How the parts fit
together: [Strategies](../strategies.md). Formulas, papers and where we differ: [Methods](../methods.md)."""


def strategy_page() -> str:
    """Every part with its parameters, and every preset."""
    return "\n\n".join([_INTRO, *_parts(), *_presets()]) + "\n"


def _parts() -> Iterator[str]:
    yield f"## The strategy\n\n{_documented(Strategy)}"
    yield f"## `estimator`\n\n{_documented(Estimator)}"
    for place, registry in REGISTRIES.items():
        yield f"## `{place}`"
        for name in registry:
            yield f"### `{place}`: `{name}`\n\n{_documented(registry[name])}\n\n{_asks_for(registry[name])}".rstrip()
    yield f"## `iterations`\n\n{_documented(Iterations)}"


def _documented(model: type[BaseModel]) -> str:
    return f"{prose(inspect.getdoc(model) or '')}\n\n{fields_table(model)}"


def _asks_for(part: type[Part]) -> str:
    columns = " or ".join(code(column) for column in part.needs)
    asks = [f"Works from {columns} of AddPrompts."] if columns else []
    asks += ["Reads the prompts' embeddings."] if part.uses_embeddings else []
    return " ".join(asks)


def _presets() -> Iterator[str]:
    yield (
        "## Presets\n\nWhat each sets; all else has the defaults above."
        " Where they are from: [Methods](../methods.md#presets)."
    )
    for name, parts in PRESETS.items():
        default = " (the default)" * (name == DEFAULT_PRESET)
        shown = yaml.safe_dump(parts, sort_keys=False, default_flow_style=None)
        yield f"### `{name}`{default}\n\n```yaml\n{shown}```"
