"""The commands of `kappa`, put together."""

from typing import NoReturn

import typer

from kappa_cli.commands import async_, invoke, local, version

app = typer.Typer(
    name="kappa",
    help="Invoke Lambda-like functions on Kubernetes, or run them on this machine.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(local.app, name="local")
app.command(epilog=invoke.EXIT_CODES)(invoke.invoke)
app.add_typer(async_.app, name="async")
app.command()(version.version)


def run() -> NoReturn:
    """Ends the process, with the command's exit status."""
    app(prog_name="kappa")
    raise SystemExit(0)
