"""Settings and the command line: what is accepted, and that mistakes are named."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trainer_client import config
from trainer_client.cli import app, main
from trainer_client.config import TrainConfig, load_config, parse_config
from trainer_client.evaluation import pass_at_k
from trainer_client.settings import Settings
from trainer_client.settings_list import settings_list
from trainer_client.tasks import settings
from trainer_client.trainer_errors import ConfigError

pytestmark = pytest.mark.torch
TASKS = "tasks:\n  - type: arithmetic\n    kinds: [add-1]\n"


def config_file(folder: Path, text: str = TASKS) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_overrides_reach_fields_lists_and_sections_that_are_not_in_the_file(tmp_path: Path) -> None:
    found = load_config(
        config_file(tmp_path),
        [
            "learner.learning_rate=1e-4",
            "tasks.0.per_kind=7",
            "curriculum.strategy=cures",
            "lora=null",
            "steps=3",
            "model.chat_template=true",
        ],
    )
    assert found.learner.learning_rate == 1e-4
    assert found.tasks[0].per_kind == 7  # type: ignore[union-attr]
    assert found.curriculum.strategy == "cures"
    assert found.lora is None
    assert found.steps == 3
    assert found.model.chat_template is True
    assert found.curriculum_id == "run"


def test_vllm_needs_lora_and_room_for_the_longest_rollout() -> None:
    tasks = [{"type": "arithmetic"}]
    with pytest.raises(ConfigError, match="needs lora"):
        parse_config({"tasks": tasks, "rollouts": {"engine": "vllm"}, "lora": None})
    with pytest.raises(ConfigError, match=r"= 4048 exceeds rollouts.max_model_tokens = 4000"):
        parse_config(
            {"tasks": tasks, "rollouts": {"engine": "vllm", "max_tokens": 2000, "max_model_tokens": 4000}}
        )


def test_log_probs_are_recomputed_where_vllm_samples_unless_told_otherwise() -> None:
    tasks = [{"type": "arithmetic"}]
    assert not parse_config({"tasks": tasks}).recompute_log_probs
    assert parse_config({"tasks": tasks, "rollouts": {"engine": "vllm"}}).recompute_log_probs
    told = {"tasks": tasks, "rollouts": {"engine": "vllm"}, "learner": {"recompute_log_probs": False}}
    assert not parse_config(told).recompute_log_probs


def test_every_wrong_setting_is_listed_with_its_name_and_value() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(
            {
                "tasks": [{"type": "arithmetic", "kinds": []}],
                "steps": 0,
                "learner": {"advantage": "ppo", "learning_rat": 1},
                "model": {"system_prompt": "be good"},
            }
        )
    message = str(caught.value)
    assert "setting(s) wrong" in message
    for part in (
        "steps: ",
        "got 0",
        "learner.advantage: ",
        "learner.learning_rat: ",
        "tasks.0.arithmetic.kinds",
    ):
        assert part in message
    assert "chat_template" in message


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "name=value"),
        ("steps.x=1", "no settings below"),
        ("tasks.4.seed=1", "no place in a list of 1"),
        ("=3", "name=value"),
        ("learner..x=3", "name=value"),
    ],
)
def test_an_override_that_fits_nowhere_is_named(tmp_path: Path, override: str, message: str) -> None:
    text = TASKS + "steps: 5\n"
    with pytest.raises(ConfigError, match=message):
        load_config(config_file(tmp_path, text), [override])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [", "not YAML"),
        (b"- 1", "expected a mapping"),
        (b"", "is empty"),
        (b"\xff\xfe\x00", r"not UTF-8 \(byte 0\)"),
        (b"steps: 1\nname: x\nsteps: 2\n", "'steps' is set twice"),
        (b"learner:\n  epochs: 1\n  epochs: 2\n", "'epochs' is set twice"),
    ],
)
def test_a_file_that_holds_no_settings_or_one_of_them_twice_is_an_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"(?s)run\.yaml.*{message}"):
        load_config(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learner": {"learning_rat": 1}}, "learner.learning_rat: .*did you mean 'learning_rate'"),
        ({"learnr": {"learning_rate": 1}}, "learnr: .*did you mean 'learner'"),
        ({"learning_rate": 1}, "learning_rate: .*did you mean 'learner.learning_rate'"),
        ({"checkpoint": {"zzz": 1}}, "checkpoint.zzz: .*there are every, keep"),
        (
            {"tasks": [{"type": "jsonl", "path": "x", "promt_column": "q"}]},
            "tasks.0.jsonl.promt_column: .*did you mean 'prompt_column'",
        ),
    ],
)
def test_a_setting_that_does_not_exist_brings_the_one_that_was_meant(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"tasks": [{"type": "arithmetic"}], **settings})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": True}, "steps must be a number, got True"),
        ({"learner": {"learning_rate": float("inf")}}, "learner.learning_rate: .*finite number"),
    ],
)
def test_a_number_is_a_finite_number(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_config({"tasks": [{"type": "arithmetic"}], **settings})


def test_a_wrong_item_of_a_list_is_not_reported_as_a_list_too_short() -> None:
    with pytest.raises(ConfigError, match=r"1 setting\(s\) wrong") as caught:
        parse_config({"tasks": [{"type": "arithmetik"}]})
    assert "arithmetik" in str(caught.value)


def test_every_setting_is_described() -> None:
    models = [
        model
        for module in (config, settings)
        for model in vars(module).values()
        if isinstance(model, type) and issubclass(model, Settings) and model is not Settings
    ]
    assert len(models) > 12
    for model in models:
        lines = inspect.getsource(model).splitlines()
        for name in vars(model)["__annotations__"]:
            places = [i for i, line in enumerate(lines) if line.startswith(f"    {name}: ")]
            assert places, f"{model.__name__}.{name}"
            following = "\n".join(lines[places[0] : places[0] + 6])
            assert '"""' in following or name == "type", f"{model.__name__}.{name}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--config", "absent.yaml"], "absent.yaml"),
        (["train", "--config", "{file}", "--set", "steps=-1"], "steps"),
        (["train", "--config", "{file}", "--resume"], "no checkpoint to resume from"),
        (["evaluate", "--config", "{file}", "--checkpoint", "nowhere"], "nowhere"),
        (["evaluate", "--config", "{file}", "--set", "model.path=/no/such"], "model.path '/no/such'"),
    ],
)
def test_mistakes_end_with_one_message_and_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    file = config_file(tmp_path, TASKS + f"directory: {tmp_path}\nmodel: {{path: tiny}}\n")
    monkeypatch.setattr("sys.argv", ["trainer-client", *(a.format(file=file) for a in arguments)])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_every_setting_is_listed_with_default_and_meaning() -> None:
    listed = {name: (default, meaning) for name, default, meaning in settings_list()}
    assert listed["learner.learning_rate"][0] == "1e-05"
    assert listed["tasks.N (jsonl).path"] == ("(required)", "The file; one object a line.")
    assert listed["replay.max_age_steps"][0] == "null"
    assert all(meaning for name, (_, meaning) in listed.items() if not name.endswith(".type"))
    # What is listed can be set.
    for name in listed:
        assert "N (" in name or name.split(".")[0] in TrainConfig.model_fields
    shown = CliRunner().invoke(app, ["settings", "lora."])
    assert shown.exit_code == 0
    assert "lora.rank" in shown.output
    assert "learner" not in shown.output


def test_evaluate_prints_a_table_by_cluster(tmp_path: Path) -> None:
    file = config_file(tmp_path, TASKS + "model: {path: tiny}\nrollouts: {max_tokens: 2}\n")
    result = CliRunner().invoke(app, ["evaluate", "--config", str(file), "--checkpoint", "none"])
    assert result.exit_code == 0, result.output
    assert "add-1" in result.output
    assert "pass@1" in result.output


def test_pass_at_k_is_the_unbiased_estimate() -> None:
    assert pass_at_k(4, 1, 1) == pytest.approx(0.25)
    assert pass_at_k(4, 2, 2) == pytest.approx(1 - 1 / 6)
    assert pass_at_k(4, 0, 4) == 0
    assert pass_at_k(4, 1, 4) == 1
    with pytest.raises(ValueError, match="k = 5"):
        pass_at_k(4, 1, 5)
