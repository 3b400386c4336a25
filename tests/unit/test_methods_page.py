"""docs/methods.md has a section for every method and a line for every preset."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sampler_service.curriculum.cluster_sources import CLUSTER_SOURCES
from sampler_service.curriculum.clusters import CLUSTERS
from sampler_service.curriculum.decays import DECAYS
from sampler_service.curriculum.presets import PRESETS
from sampler_service.curriculum.proposals import PROPOSALS
from sampler_service.curriculum.quotas import QUOTAS
from sampler_service.curriculum.shared_evidence import SHARED_EVIDENCE
from sampler_service.curriculum.stopping import STOPPINGS

PAGE = (Path(__file__).parents[2] / "docs" / "methods.md").read_text(encoding="utf-8")
KINDS = {
    "Decays": DECAYS,
    "Shared evidence": SHARED_EVIDENCE,
    "Proposals": PROPOSALS,
    "Quotas": QUOTAS,
    "Stopping rules": STOPPINGS,
    "Clusters": CLUSTERS,
    "Cluster sources": CLUSTER_SOURCES,
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_method_has_its_section_and_every_section_its_method(kind: str) -> None:
    written = re.findall(rf"^### {kind}: `(\w+)`$", PAGE, flags=re.MULTILINE)
    assert sorted(written) == sorted(KINDS[kind])


def test_every_preset_has_its_line() -> None:
    table = PAGE.split("## Presets")[1]
    assert sorted(re.findall(r"^\| `([\w-]+)` \|", table, flags=re.MULTILINE)) == sorted(PRESETS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_method_says_in_its_docstring_what_it_does(kind: str) -> None:
    for name in KINDS[kind]:
        assert KINDS[kind][name].__doc__, name
        assert KINDS[kind][name].__module__.startswith("sampler_service.curriculum.")
