"""The sampler for verl behind a stand-in for verl's hook, which wants an environment of its own; a real service."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Sampler

from examples.service_process import ServiceProcess
from trainer_client.client import CurriculumClient
from trainer_client.trainer_errors import ConfigError, DataError

pytestmark = [pytest.mark.torch, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with ServiceProcess(folder / "data", folder) as running:
        yield running


@pytest.fixture
def sampler_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    hook = ModuleType("verl.experimental.dataset.sampler")
    hook.AbstractCurriculumSampler = type("AbstractCurriculumSampler", (Sampler,), {})  # type: ignore[attr-defined]
    for name in ("verl", "verl.experimental", "verl.experimental.dataset"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, hook.__name__, hook)
    monkeypatch.delitem(sys.modules, "trainer_client.integrations.verl", raising=False)
    yield importlib.import_module("trainer_client.integrations.verl").CurriculumSampler
    sys.modules.pop("trainer_client.integrations.verl", None)


class Rows:
    """As much of verl's RLHFDataset as the sampler looks at."""

    def __init__(self, extra: list[Any]) -> None:
        self.dataframe = {"extra_info": extra}

    def __len__(self) -> int:
        return len(self.dataframe["extra_info"])

    def __getitem__(self, row: int) -> Any:
        return self.dataframe["extra_info"][row]


class Settings(dict[str, Any]):
    """As OmegaConf has them: by key and by name."""

    def __getattr__(self, name: str) -> Any:
        return self[name]


def settings(service: ServiceProcess, **changes: Any) -> Settings:
    sampler = {"target": service.target, "curriculum_id": "verl", "rollouts_per_prompt": 4, **changes}
    return Settings(train_batch_size=8, sampler=Settings(sampler))


def test_every_epoch_is_drawn_by_the_service_and_every_step_reported(
    service: ServiceProcess, sampler_class: Any
) -> None:
    rows = Rows([{"index": 100 + n} for n in range(40)])
    sampler = sampler_class(data_source=rows, data_config=settings(service))
    loader = DataLoader(rows, batch_size=8, sampler=sampler, drop_last=True, collate_fn=list)
    rng = np.random.default_rng(0)
    drawn: dict[str, int] = {}
    for batch in [one for _ in range(2) for one in self_reporting(loader, sampler, rng)]:
        for extra in batch:
            drawn[str(extra["index"])] = drawn.get(str(extra["index"]), 0) + 1
    sampler.client.close()
    with CurriculumClient(service.target) as client:
        summary = client.summary("verl")
        (states,) = client.prompt_states("verl", page_size=100)
    assert len(loader) == 5
    assert summary.rollouts_spent == 2 * 5 * 32
    assert summary.groups == 2 * 5 * 8
    assert summary.policy_version == 10
    assert summary.prompts_in_flight == 0
    visits = dict(zip(states.prompt_ids, states.visits.tolist(), strict=True))
    assert {id_: count for id_, count in visits.items() if count} == drawn


def self_reporting(loader: Any, sampler: Any, rng: np.random.Generator) -> Iterator[Any]:
    """An epoch as verl makes it: rows are repeated for their rollouts and put in another order."""
    for batch in loader:
        extra = np.array([one for one in batch for _ in range(4)], dtype=object)[rng.permutation(32)]
        scores = torch.zeros(32, 5)
        scores[:, 4] = torch.tensor(rng.integers(0, 2, 32), dtype=torch.float32)
        columns = {"token_level_scores": scores, "response_mask": torch.ones(32, 5)}
        sampler.update(batch=SimpleNamespace(batch=columns, non_tensor_batch={"extra_info": extra}))
        yield batch


def test_rows_without_a_name_of_their_own_and_missing_settings_are_refused(
    service: ServiceProcess, sampler_class: Any
) -> None:
    for extra in ([{"index": 1}, {"index": 1}], [{"index": 1}, None]):
        with pytest.raises(DataError, match=r"row 1: extra_info\.index"):
            sampler_class(Rows(extra), settings(service))
    with pytest.raises(ConfigError, match=r"data\.sampler\.rollouts_per_prompt"):
        sampler_class(Rows([{"index": 1}]), settings(service, rollouts_per_prompt=None))
