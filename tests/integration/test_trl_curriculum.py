"""TRL's own GRPOTrainer, with a tiny model, trains on what the real service draws."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from examples.service_process import ServiceProcess
from trainer_client.client import CurriculumClient
from trainer_client.integrations.trl import CHECKPOINT_FILE, TrlCurriculum
from trainer_client.models.tiny import tiny_model, tiny_tokenizer
from trainer_client.trainer_errors import ConfigError, DataError

pytestmark = [pytest.mark.torch, pytest.mark.timeout(900)]

PROMPTS = Dataset.from_dict(
    {
        "prompt": [f"{n}+1=" for n in range(40)],
        "answer": [str(n + 1) for n in range(40)],
        "name": [f"q{n}" for n in range(40)],
        "kind": ["even" if n % 2 == 0 else "odd" for n in range(40)],
    }
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder = tmp_path_factory.mktemp("service")
    with ServiceProcess(folder / "data", folder) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: ServiceProcess) -> Iterator[CurriculumClient]:
    with CurriculumClient(service.target) as one:
        yield one


def arguments(folder: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
        "num_generations": 4,
        "max_completion_length": 3,
        "learning_rate": 1e-3,
        "shuffle_dataset": False,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "seed": 3,
    }
    return GRPOConfig(**{**settings, **changes})


class Verdicts:
    """A reward by lot, with a note of what was asked, and now and then no verdict."""

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    def by_lot(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Any
    ) -> list[float | None]:
        assert [f"{int(one) - 1}+1=" for one in columns["answer"]] == list(prompts)
        self.seen.append(list(prompts))
        values: list[float | None] = [float(zlib.crc32(text.encode()) % 2) for text in completions]
        values[0] = None
        return values


def trainer_of(curriculum: TrlCurriculum, args: GRPOConfig, verdicts: Verdicts) -> GRPOTrainer:
    tokenizer = tiny_tokenizer()
    return GRPOTrainer(
        tiny_model(tokenizer),
        reward_funcs=curriculum.reporting(verdicts.by_lot),
        args=args,
        train_dataset=curriculum.dataset,
        processing_class=tokenizer,
        callbacks=[curriculum],
    )


def test_every_rollout_is_of_a_prompt_that_was_drawn_and_is_reported_once(
    client: CurriculumClient, tmp_path: Path
) -> None:
    args, verdicts = arguments(tmp_path), Verdicts()
    curriculum = TrlCurriculum(client, "trl", PROMPTS, args, id_column="name", cluster_column="kind")
    trainer_of(curriculum, args, verdicts).train()

    summary = client.summary("trl")
    # 4 steps × 2 micro-batches of 4 rollouts; one of each batch of 8 had no verdict.
    assert summary.rollouts_spent == 4 * 7
    assert summary.groups == 4 * 2
    assert summary.policy_version == 4
    assert summary.prompts_in_flight == 0
    assert len(verdicts.seen) == 4
    trained = {prompt for batch in verdicts.seen for prompt in batch}
    (states,) = client.prompt_states("trl", page_size=100)
    visited = {id_ for id_, visits in zip(states.prompt_ids, states.visits, strict=True) if visits}
    assert {f"{id_[1:]}+1=" for id_ in visited} == trained
    assert sum(states.rollouts) == 4 * 7
    assert set(states.clusters) == {"even", "odd"}


def test_training_again_from_a_checkpoint_takes_the_curriculum_back_to_it(
    client: CurriculumClient, tmp_path: Path
) -> None:
    changes: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    args = arguments(tmp_path, **changes)
    curriculum = TrlCurriculum(client, "resumed", PROMPTS, args)
    trainer_of(curriculum, args, Verdicts()).train()
    assert client.summary("resumed").policy_version == 4
    assert len(client.list_checkpoints("resumed")) == 2
    assert (tmp_path / "checkpoint-3" / CHECKPOINT_FILE).exists()

    again, verdicts = arguments(tmp_path, max_steps=5, **changes), Verdicts()
    curriculum = TrlCurriculum(client, "resumed", PROMPTS, again)
    trainer_of(curriculum, again, verdicts).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    summary = client.summary("resumed")
    # Steps 4 and 5 on top of the three that the checkpoint knew: step 4 is not there twice.
    assert len(verdicts.seen) == 2
    assert summary.rollouts_spent == 5 * 7
    assert summary.policy_version == 5
    assert summary.prompts_in_flight == 0


@pytest.mark.slow
def test_generations_that_are_trained_on_several_times_are_one_batch(
    client: CurriculumClient, tmp_path: Path
) -> None:
    args, verdicts = arguments(tmp_path, num_iterations=2, max_steps=6), Verdicts()
    curriculum = TrlCurriculum(client, "iterated", PROMPTS, args)
    trainer_of(curriculum, args, verdicts).train()
    assert len(verdicts.seen) == 3
    assert client.summary("iterated").rollouts_spent == 3 * 7
    assert client.summary("iterated").prompts_in_flight == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shuffle_dataset": True}, "shuffle_dataset"),
        ({"max_steps": -1}, "max_steps"),
        ({"dataloader_num_workers": 2}, "dataloader_num_workers"),
    ],
)
def test_settings_that_would_train_on_other_prompts_are_refused(
    client: CurriculumClient, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        TrlCurriculum(client, "refused", PROMPTS, arguments(tmp_path, **changes))


def test_prompts_that_cannot_fill_batches_or_share_an_id_are_refused(
    client: CurriculumClient, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="too few"):
        TrlCurriculum(client, "few", PROMPTS.select(range(5)), arguments(tmp_path))
    with pytest.raises(DataError, match="comes twice"):
        TrlCurriculum(client, "twice", PROMPTS, arguments(tmp_path), id_column="kind")


def test_an_async_reward_function_is_refused(client: CurriculumClient, tmp_path: Path) -> None:
    curriculum = TrlCurriculum(client, "async", PROMPTS, arguments(tmp_path))

    async def later(**columns: Any) -> list[float]:
        return [0.0]

    with pytest.raises(ConfigError, match="async"):
        curriculum.reporting(later)  # type: ignore[arg-type]


@pytest.mark.slow
def test_two_processes_train_on_one_batch_and_report_it_once(
    service: ServiceProcess, client: CurriculumClient, tmp_path: Path
) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "-m", "tests.trl_run", service.target, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=800,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    summary = client.summary("pair")
    assert summary.rollouts_spent == 3 * 12
    assert summary.groups == 3 * 3
    assert summary.policy_version == 3
    assert summary.prompts_in_flight == 0
    assert len(client.list_checkpoints("pair")) == 1


@pytest.mark.slow
def test_the_example_runs_as_written(service: ServiceProcess, tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "examples" / "trl_grpo.py"
    done = subprocess.run(
        [sys.executable, str(example), service.target],
        capture_output=True,
        text=True,
        timeout=800,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 groups, 32 rollouts reported" in done.stdout
