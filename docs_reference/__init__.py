"""Pages of the docs site that are read off the code and the protos, so that they cannot fall behind it."""

from __future__ import annotations

from docs_reference.command_page import command_page
from docs_reference.http_page import http_page
from docs_reference.proto_page import proto_page
from docs_reference.service_settings_page import service_settings_page
from docs_reference.strategy_page import strategy_page
from docs_reference.trainer_settings_page import trainer_settings_page

__all__ = ["reference_pages"]

_INTRO = """# Reference

Generated from the code and the protos of this version when the site was built.

- [RPCs and messages](rpc.md): every call with the role it needs, every field
- [Events of the log](log-events.md): what a curriculum's log holds
- [Strategy parts and presets](strategy-parts.md): every method with its parameters and their defaults
- [Commands](commands.md): `sampler-service` and `trainer-client`
- [Settings of the service](service-settings.md) and [of the trainer](trainer-settings.md)
- [HTTP routes](http.md): what the dashboard asks
"""


def reference_pages() -> dict[str, str]:
    """Markdown of every page, by its place in the docs folder."""
    return {
        "reference/index.md": _INTRO,
        "reference/rpc.md": proto_page("curriculum.proto", "RPCs and messages"),
        "reference/log-events.md": proto_page("log.proto", "Events of the log"),
        "reference/strategy-parts.md": strategy_page(),
        "reference/commands.md": command_page(),
        "reference/service-settings.md": service_settings_page(),
        "reference/trainer-settings.md": trainer_settings_page(),
        "reference/http.md": http_page(),
    }
