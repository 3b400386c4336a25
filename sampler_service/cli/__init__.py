"""The command line: `sampler-service serve | config | healthcheck | inspect | export | import | curricula`.

What only `serve` needs is imported when it runs, so that `healthcheck` stays quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sampler_service import __version__
from sampler_service.cli import curricula, files, health, prompts, serving

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


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command("serve")(serving.serve)
app.command("config")(serving.show_config)
app.command("healthcheck")(health.healthcheck)
app.command("inspect")(prompts.inspect)
app.command("export")(files.export_curriculum)
app.command("import")(files.import_curriculum)
app.add_typer(curricula.app, name="curricula")


def main() -> None:
    """Entry point of the console script."""
    app()
