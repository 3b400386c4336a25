"""A strategy as people write it: a YAML or JSON file, or JSON on the command line."""

from __future__ import annotations

from pathlib import Path

import typer
import yaml
from google.protobuf import json_format

from curriculum.v1 import curriculum_pb2 as pb

__all__ = ["read_any_strategy", "read_strategy"]


def read_any_strategy(text: str) -> pb.Strategy:
    """The message for a preset, a YAML or JSON file, or JSON."""
    is_text = text.lstrip().startswith("{") or Path(text).suffix in (".yaml", ".yml", ".json")
    return read_strategy("", text) if is_text else read_strategy(text, "")


def read_strategy(preset: str, text_or_file: str) -> pb.Strategy:
    """The message for `--preset` and `--strategy`; `typer.BadParameter` says what is wrong with them."""
    strategy = pb.Strategy()
    if text_or_file:
        try:
            inline = text_or_file.lstrip().startswith("{")
            text = text_or_file if inline else Path(text_or_file).read_text(encoding="utf-8")
            values = yaml.safe_load(text) or {}
        except OSError as error:
            raise typer.BadParameter(f"{text_or_file}: {error.strerror}", param_hint="--strategy") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise typer.BadParameter(" ".join(str(error).split()), param_hint="--strategy") from None
        # A file may be the whole document of the docs, `strategy: {...}`.
        if isinstance(values, dict) and set(values) == {"strategy"}:
            values = values["strategy"]
        fields = pb.Strategy.DESCRIPTOR.fields_by_name
        known = {*fields, *pb.Strategy.DESCRIPTOR.fields_by_camelcase_name}
        unknown = [name for name in values if name not in known] if isinstance(values, dict) else []
        if unknown:
            raise typer.BadParameter(
                f"{unknown[0]} is no part of a strategy; the parts are {', '.join(fields)}",
                param_hint="--strategy",
            )
        try:
            json_format.ParseDict(values, strategy)
        except (json_format.ParseError, AttributeError, TypeError, ValueError) as error:
            raise typer.BadParameter(str(error), param_hint="--strategy") from None
    if preset:
        strategy.preset = preset
    return strategy
