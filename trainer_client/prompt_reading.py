"""Prompts as the model reads them: system prompt, chat template, token ids."""

from collections.abc import Sequence
from typing import Any

from trainer_client.config import ModelConfig, TrainConfig
from trainer_client.rounds import ReadPrompt
from trainer_client.tasks import TaskPrompt
from trainer_client.trainer_errors import ConfigError, DataError


def read_prompts(prompts: Sequence[TaskPrompt], tokenizer: Any, config: TrainConfig) -> list[ReadPrompt]:
    """Prompts as token ids. Raises DataError naming the first that is empty or too long."""
    settings = config.model
    template = _template(settings, tokenizer) if settings.chat_template else None
    read = []
    for prompt in prompts:
        text = prompt.text
        if template is not None:
            text = _templated(prompt, tokenizer, template, settings)
        elif prompt.messages or prompt.system_prompt:
            what = "is a list of messages" if prompt.messages else "has a system prompt"
            raise ConfigError(f"prompt {prompt.prompt_id!r} {what}; set model.chat_template: true")
        # A template has written its own special tokens.
        special = not settings.chat_template
        token_ids = tuple(tokenizer(text + settings.response_prefix, add_special_tokens=special)["input_ids"])
        if not 1 <= len(token_ids) <= settings.max_prompt_tokens:
            raise DataError(
                f"prompt {prompt.prompt_id!r}: {len(token_ids)} tokens, must be 1 to "
                f"model.max_prompt_tokens = {settings.max_prompt_tokens}"
            )
        read.append(ReadPrompt(prompt, token_ids))
    return read


def check_room(prompts: Sequence[ReadPrompt], context: int | None, config: TrainConfig) -> None:
    """Raises DataError naming the first prompt that leaves no room for a completion of `rollouts.max_tokens`.

    context: tokens that the model can read; None: unknown.
    """
    most = config.rollouts.max_tokens
    for read in prompts:
        if context is not None and len(read.token_ids) + most > context:
            raise DataError(
                f"prompt {read.prompt.prompt_id!r}: its {len(read.token_ids)} tokens and rollouts.max_tokens = "
                f"{most} exceed the {context} tokens that model.path {config.model.path!r} can read; shorten it, "
                "or lower rollouts.max_tokens"
            )


def conversation(prompt: TaskPrompt, system_prompt: str = "") -> list[dict[str, str]]:
    """The messages a template is given; a prompt's own system message goes before the settings'."""
    messages = list(prompt.messages) or [("user", prompt.text)]
    system = prompt.system_prompt or system_prompt
    if system and messages[0][0] != "system":
        messages.insert(0, ("system", system))
    return [{"role": role, "content": content} for role, content in messages]


def _template(settings: ModelConfig, tokenizer: Any) -> str:
    if settings.chat_template_file is not None:
        try:
            return settings.chat_template_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"model.chat_template_file {settings.chat_template_file}: {error}") from error
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise ConfigError(
            f"model.chat_template: the tokenizer of {settings.path!r} has no template; "
            "give one as model.chat_template_file, or set chat_template to false"
        )
    return str(template)


def _templated(prompt: TaskPrompt, tokenizer: Any, template: str, settings: ModelConfig) -> str:
    from jinja2 import TemplateError

    try:
        text: str = tokenizer.apply_chat_template(
            conversation(prompt, settings.system_prompt),
            chat_template=template,
            tokenize=False,
            add_generation_prompt=True,
            **settings.chat_template_arguments,
        )
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(
            f"model.chat_template: prompt {prompt.prompt_id!r} does not fit it: {error}"
        ) from error
    return text
