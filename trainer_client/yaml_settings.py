"""A YAML file as a mapping of settings, and `a.b=c` put over it."""

from pathlib import Path
from typing import Any

import yaml

from trainer_client.trainer_errors import ConfigError


def read_settings(path: Path) -> dict[str, Any]:
    """The file's settings. Raises ConfigError naming the file and what is wrong in it."""
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_OnceLoader)
    except OSError as error:
        raise ConfigError(f"config {path}: {error.strerror}; give the path of a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path}: not UTF-8 (byte {error.start}); give a YAML file") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"config {path}: not YAML: {error}") from error
    if data is None:
        raise ConfigError(f"config {path}: is empty; `tasks` at least must be set")
    if not isinstance(data, dict):
        raise ConfigError(f"config {path}: expected a mapping of settings, got {type(data).__name__}")
    return data


def override(data: dict[str, Any], text: str) -> None:
    """Puts `a.b=c` over the settings. Raises ConfigError when it fits nowhere."""
    name, separator, value = text.partition("=")
    parts = name.split(".")
    if not separator or not all(parts):
        raise ConfigError(f"--set {text!r}: expected name=value, for instance learner.learning_rate=1e-4")
    at: Any = data
    for part in parts[:-1]:
        at = _child(at, part, text)
    last = parts[-1]
    if isinstance(at, list):
        at[_index(at, last, text)] = _scalar(value)
    else:
        at[last] = _scalar(value)


class _OnceLoader(yaml.SafeLoader):
    """Refuses a setting that comes twice: YAML would take the last one and say nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} is set twice; remove one of them", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


def _child(at: Any, part: str, text: str) -> Any:
    if isinstance(at, list):
        return at[_index(at, part, text)]
    child = at.setdefault(part, {})
    if child is None:
        child = at[part] = {}
    if not isinstance(child, dict | list):
        raise ConfigError(f"--set {text!r}: {part!r} is the value {child!r} and has no settings below it")
    return child


def _index(items: list[Any], part: str, text: str) -> int:
    if not part.isdigit() or int(part) >= len(items):
        raise ConfigError(f"--set {text!r}: {part!r} is no place in a list of {len(items)}; count from 0")
    return int(part)


def _scalar(text: str) -> Any:
    # YAML 1.1 reads 1e-4 as a string; people mean the number.
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set value {text!r}: not YAML: {error}") from error
