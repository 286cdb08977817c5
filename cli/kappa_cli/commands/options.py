"""Arguments and options that several commands share."""

from typing import Annotated

import typer

from kappa_core.durations import parse_duration

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="The function: NAME, NAMESPACE.NAME or an ARN.", show_default=False)
]
Namespace = Annotated[
    str | None,
    typer.Option(
        "--namespace", "-n", metavar="NAMESPACE", help="The Function's namespace. Default: default.", show_default=False
    ),
]
Gateway = Annotated[str, typer.Option(metavar="URL", envvar="KAPPA_GATEWAY", help="The gateway's address.")]
DEFAULT_GATEWAY = "http://127.0.0.1:8080"


def duration(text: str) -> float:
    """A typer parser: seconds."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
