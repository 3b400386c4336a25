"""What goes wrong while a run goes on: the disk, the verifier, the weights, a stop in the middle of something."""

from __future__ import annotations

import errno
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from tests.trainer_fakes import FakeCurriculum
from tests.unit.test_trainer_loop import digit_pool, make_trainer, says_a_digit, tiny_config
from trainer_client.assembly import read_pool
from trainer_client.client import Batch
from trainer_client.config import ModelConfig
from trainer_client.exceptions import CurriculumError, NotFoundError, UnauthenticatedError
from trainer_client.metrics import MetricsLog
from trainer_client.models.load import context_tokens, load_model, load_tokenizer
from trainer_client.prompt_reading import check_room
from trainer_client.stopping import StopRequest
from trainer_client.tasks import VerifierError
from trainer_client.tasks.protocol import Pool
from trainer_client.trainer_errors import CheckpointError, DataError, DivergedError, ModelError, TrainerError

pytestmark = pytest.mark.torch


def test_a_run_whose_verdicts_all_fail_ends_and_says_why(tmp_path: Path) -> None:
    def fails(completion: str, answer: str) -> float:
        raise VerifierError("no module named 'sympy'")

    trainer, service, _, _ = make_trainer(tiny_config(tmp_path, steps=9), pool=digit_pool(verifier=fails))
    with pytest.raises(
        TrainerError, match=r"step 3: every verdict failed in 3 steps.*no module named 'sympy'"
    ):
        trainer.run()
    assert sum(service.state.rollouts.values()) == 0
    assert trainer.checkpoints.steps()[-1] == 3


@pytest.mark.parametrize(
    "refusal",
    [NotFoundError("curriculum_id = 'tiny' does not exist"), UnauthenticatedError("the token is revoked")],
)
def test_a_service_that_refuses_ends_the_run_and_what_was_learnt_is_kept(
    tmp_path: Path, refusal: CurriculumError
) -> None:
    class Refusing(FakeCurriculum):
        def next_batch(self, curriculum_id: str, **named: Any) -> Batch:
            if named["step"] == 1:
                raise refusal
            return super().next_batch(curriculum_id, **named)

    service = Refusing([prompt.prompt_id for prompt in digit_pool().train])
    trainer, _, _, _ = make_trainer(tiny_config(tmp_path, checkpoint={"every": 0}), service)
    with pytest.raises(type(refusal), match=str(refusal)):
        trainer.run()
    assert trainer.checkpoints.steps() == [1]
    assert trainer.checkpoints.read_state(1).curriculum_checkpoint_id == ""


def test_a_verdict_that_is_no_number_is_the_verifier_s_failure(tmp_path: Path) -> None:
    rewards: Iterator[float] = iter([math.nan, math.inf] + [1.0, 0.0] * 100)
    pool = digit_pool(verifier=lambda completion, answer: next(rewards))
    trainer, service, reporter, _ = make_trainer(
        tiny_config(tmp_path, steps=1, evaluation={"every": 0, "prompts": 0}), pool=pool
    )
    history = trainer.run().history
    assert history[0]["rollouts/error_share"] == 2 / 16
    assert sum(service.state.rollouts.values()) == 14
    assert "2 of 16 verdicts failed" in reporter.notes[0]
    assert "the verifier gave nan, which is no reward" in reporter.notes[0]


@pytest.mark.parametrize(
    "refusal",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device (os error 28)"),
        RuntimeError("PytorchStreamWriter failed writing file: No space left on device"),
    ],
)
def test_a_checkpoint_that_cannot_be_written_leaves_the_ones_before_and_nothing_at_the_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refusal: Exception
) -> None:
    trainer, service, _, learner = make_trainer(tiny_config(tmp_path, evaluation={"prompts": 0}))
    save = learner.policy.model.save_pretrained

    def full_later(folder: str) -> None:
        save(folder)
        if trainer.step == 4:
            raise refusal

    monkeypatch.setattr(learner.policy.model, "save_pretrained", full_later)
    with pytest.raises(
        CheckpointError, match=r"step-000004: cannot be written: .*No space.*--resume from step 2"
    ):
        trainer.run()
    assert trainer.checkpoints.steps() == [2]
    assert [path.name for path in trainer.checkpoints.directory.iterdir()] == ["step-000002"]
    assert list(service.checkpoints) == [f"{trainer.run_id}-step-2"]


def test_metrics_that_cannot_be_written_name_the_file(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log._metrics.close()
    log._metrics = Path("/dev/full").open("w")  # noqa: SIM115 (the log closes it)
    with pytest.raises(TrainerError, match=r"/dev/full: cannot be written: No space left.*--resume"):
        log.write(1, {"reward/mean": 1.0})
    # What could not be written then cannot be now, and has been said.
    log.close()


@pytest.mark.parametrize(
    "damaged", ["policy/adapter_model.safetensors", "optimizer.pt", "replay.npz", "state.json"]
)
def test_a_damaged_checkpoint_is_named(tmp_path: Path, damaged: str) -> None:
    config = tiny_config(tmp_path, steps=2, evaluation={"prompts": 0}, replay={"share": 0.5})
    trainer, service, _, _ = make_trainer(config)
    trainer.run()
    file = trainer.checkpoints.path(2) / damaged
    file.write_bytes(file.read_bytes()[:20])
    again, _, _, _ = make_trainer(config, service, first_step=2)
    with pytest.raises(CheckpointError, match=r"step-000002: is damaged: .*remove it"):
        again.resume()


def test_weights_that_have_exploded_end_the_run_where_they_are_sampled_from(tmp_path: Path) -> None:
    trainer, service, _, learner = make_trainer(tiny_config(tmp_path, evaluation={"prompts": 0}))
    with torch.no_grad():
        for parameter in learner.policy.parameters:
            parameter.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"weights have exploded; lower learner.learning_rate"):
        trainer.run()
    assert service.released == ["lease-0"]


def test_a_stop_between_two_tokens_ends_the_batch_there_and_gives_it_back(tmp_path: Path) -> None:
    stop = StopRequest()
    trainer, service, _, learner = make_trainer(tiny_config(tmp_path, evaluation={"prompts": 0}), stop=stop)
    tokens = 0

    def asked() -> bool:
        nonlocal tokens
        tokens += 1
        stop.requested = tokens > 2
        return stop.requested

    learner.engine.should_stop = asked  # type: ignore[attr-defined]
    result = trainer.run()
    assert result.interrupted
    assert result.steps == 0
    assert tokens == 3
    assert service.reports == []
    assert service.released == ["lease-0"]
    assert trainer.checkpoints.steps() == [0]


def test_a_stop_between_two_verdicts_ends_the_batch_there_and_gives_it_back(tmp_path: Path) -> None:
    stop = StopRequest()
    judged = 0

    def slow(completion: str, answer: str) -> float:
        nonlocal judged
        judged += 1
        stop.requested = judged == 5
        return says_a_digit(completion, answer)

    trainer, service, _, _ = make_trainer(
        tiny_config(tmp_path, evaluation={"prompts": 0}), pool=digit_pool(verifier=slow), stop=stop
    )
    assert trainer.run().interrupted
    assert judged == 5
    assert service.reports == []
    assert service.released == ["lease-0"]


def test_a_stop_during_an_evaluation_counts_as_none(tmp_path: Path) -> None:
    stop = StopRequest()

    def stopping(completion: str, answer: str) -> float:
        stop.requested = True
        return 1.0

    trainer, service, reporter, _ = make_trainer(
        tiny_config(tmp_path), pool=digit_pool(verifier=stopping), stop=stop
    )
    result = trainer.run()
    assert result.interrupted
    assert result.evaluations == []
    assert service.released == []
    assert reporter.notes == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", "{", "cannot be loaded"),
        ("model.safetensors", "\x08", "cannot be loaded: .*is the folder complete"),
        ("model.safetensors", None, "cannot be loaded"),
        ("config.json", None, "no config.json there"),
    ],
)
def test_a_model_folder_that_is_not_whole_is_named(
    tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    model, tokenizer = load_model(ModelConfig(path="tiny"))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = ModelConfig(path=str(tmp_path))
    assert context_tokens(settings) == context_tokens(ModelConfig(path="tiny")) == 512
    assert len(load_tokenizer(settings)) == len(tokenizer)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=rf"model.path '{tmp_path}': {message}"):
        load_model(settings)


def test_a_prompt_that_leaves_the_model_no_room_to_answer_is_named(tmp_path: Path) -> None:
    config: Any = tiny_config(tmp_path, rollouts={"max_tokens": 500})
    long = digit_pool()
    long = Pool(long.train[:1] + tuple(p for p in long.train[1:]), ())
    read = read_pool(config, long, load_tokenizer(config.model))
    check_room(read.train, None, config)
    check_room(read.train, 512, config)
    with pytest.raises(
        DataError, match=r"prompt 'p0': its 4 tokens and rollouts.max_tokens = 500 exceed the 503"
    ):
        check_room(read.train, 503, config)
