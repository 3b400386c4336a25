"""The command line: `serve | config | healthcheck | top | inspect | export | import | replay | curricula | tokens`.

What only `serve` needs is imported when it runs, so that `healthcheck` stays quick.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sampler_service import __version__
from sampler_service.cli import curricula, files, health, prompts, replay, serving, tokens, top
from sampler_service.cli.connection import Connection, choose

__all__ = ["app", "main"]

app = typer.Typer(
    name="sampler-service",
    help="One curriculum for any trainer: which prompts next, and how many rollouts each.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sampler-service {__version__}")
        raise typer.Exit


_CLIENT = "Reaching a service"


@app.callback()
def _options(
    token_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SAMPLER_TOKEN_FILE",
            help="File with the token to show; or the token itself in SAMPLER_TOKEN.",
            rich_help_panel=_CLIENT,
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            envvar="SAMPLER_CLIENT_TLS",
            help="Encrypt. [default: with a --ca-file, or when a token would leave this machine]",
            show_default=False,
            rich_help_panel=_CLIENT,
        ),
    ] = None,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SAMPLER_CLIENT_CA_FILE",
            help="PEM file of authorities to trust.",
            rich_help_panel=_CLIENT,
        ),
    ] = None,
    cert_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SAMPLER_CLIENT_CERT_FILE",
            help="PEM file of our certificate, for mutual TLS.",
            rich_help_panel=_CLIENT,
        ),
    ] = None,
    key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="SAMPLER_CLIENT_KEY_FILE", help="PEM file of its private key.", rich_help_panel=_CLIENT
        ),
    ] = None,
    server_name: Annotated[
        str,
        typer.Option(
            envvar="SAMPLER_CLIENT_SERVER_NAME",
            help="Name in the service's certificate, if not the target's.",
            rich_help_panel=_CLIENT,
        ),
    ] = "",
    version: Annotated[  # noqa: ARG001
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    choose(
        Connection(
            token_file=token_file,
            tls=tls,
            ca_file=ca_file,
            cert_file=cert_file,
            key_file=key_file,
            server_name=server_name,
        )
    )


app.command("serve")(serving.serve)
app.command("config")(serving.show_config)
app.command("healthcheck")(health.healthcheck)
app.command("top")(top.top)
app.command("inspect")(prompts.inspect)
app.command("export")(files.export_curriculum)
app.command("import")(files.import_curriculum)
app.command("replay")(replay.replay)
# They are commands on curricula like the others there, and looked for in both places.
curricula.app.command("export")(files.export_curriculum)
curricula.app.command("import")(files.import_curriculum)
app.add_typer(curricula.app, name="curricula")
app.add_typer(tokens.app, name="tokens")


def main() -> None:
    """Entry point of the console script."""
    app()
