"""What the model reads: system prompts, chat templates, conversations, and a prefix of the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer_client.config import TrainConfig, parse_config
from trainer_client.models.tiny import tiny_tokenizer
from trainer_client.prompt_reading import read_prompts
from trainer_client.tasks import TaskPrompt
from trainer_client.tasks.verifiers import exact_match
from trainer_client.trainer_errors import ConfigError, DataError

pytestmark = pytest.mark.torch

TEMPLATE = (
    "{% for m in messages %}{{ m.role[0] }}({{ m.content }}){% endfor %}"
    "{% if add_generation_prompt %}a{{ mark }}{% endif %}"
)


def config(**model: Any) -> TrainConfig:
    return parse_config({"tasks": [{"type": "arithmetic"}], "model": {"path": "tiny", **model}})


def read(prompt: TaskPrompt, **model: Any) -> str:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    text: str = tokenizer.decode(read_prompts([prompt], tokenizer, config(**model))[0].token_ids)
    return text


def prompt(**fields: Any) -> TaskPrompt:
    return TaskPrompt("p", "1+1=", "2", exact_match, **fields)


def test_a_prompt_is_read_as_it_is_without_a_template() -> None:
    assert read(prompt()) == "1+1="
    assert read(prompt(), response_prefix="so ") == "1+1=so "


def test_a_template_wraps_the_prompt_with_the_system_prompt_before_it() -> None:
    assert read(prompt(), chat_template=True) == "u(1+1=)a"
    assert read(prompt(), chat_template=True, system_prompt="be good") == "s(be good)u(1+1=)a"
    arguments = {"chat_template_arguments": {"mark": 7}, "response_prefix": "="}
    assert read(prompt(), chat_template=True, **arguments) == "u(1+1=)a7="


def test_a_task_s_own_system_prompt_and_a_conversation_s_own_come_first() -> None:
    own = prompt(system_prompt="task")
    assert read(own, chat_template=True, system_prompt="model") == "s(task)u(1+1=)a"
    talk = prompt(messages=(("system", "mine"), ("user", "a"), ("assistant", "b"), ("user", "c")))
    assert read(talk, chat_template=True, system_prompt="model") == "s(mine)u(a)a(b)u(c)a"


def test_the_template_may_come_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{{ messages[0].content }};")
    assert read(prompt(), chat_template=True, chat_template_file=str(file)) == "1+1=;"
    with pytest.raises(ConfigError, match="absent"):
        read(prompt(), chat_template=True, chat_template_file=str(tmp_path / "absent"))
    file.write_text("{{ raise_exception('no system') }}")
    with pytest.raises(ConfigError, match="'p' does not fit it: no system"):
        read(prompt(), chat_template=True, chat_template_file=str(file))


def test_what_needs_a_template_says_so() -> None:
    with pytest.raises(ConfigError, match=r"is a list of messages; set model\.chat_template: true"):
        read(prompt(messages=(("user", "a"),)))
    with pytest.raises(ConfigError, match=r"has a system prompt; set model\.chat_template: true"):
        read(prompt(system_prompt="task"))
    with pytest.raises(ConfigError, match="has no template"):
        read_prompts([prompt()], tiny_tokenizer(), config(chat_template=True))
    for name, value in (("system_prompt", "x"), ("chat_template_arguments", {"a": 1})):
        with pytest.raises(ConfigError, match=f"{name} is set but chat_template is false"):
            config(**{name: value})


def test_a_prompt_that_is_too_long_is_named() -> None:
    with pytest.raises(DataError, match=r"'p': 4 tokens.*max_prompt_tokens = 3"):
        read(prompt(), max_prompt_tokens=3)
