"""`kappa local up`: its arguments and help; `kappa_cli.local.up` does the work."""

from pathlib import Path
from typing import Annotated

import typer

from kappa_cli.commands.options import duration
from kappa_cli.commands.output import fail

app = typer.Typer(help="Run functions on this machine, without a cluster.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def local() -> None:
    """Run functions on this machine, without a cluster."""


@app.command("up")
def up(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Manifests, or folders to search for them.", show_default=False),
    ],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on. 0.0.0.0 means every address of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int,
        typer.Option("--port", "-p", metavar="PORT", min=0, max=65535, help="Port to listen on. 0 takes a free one."),
    ] = 8080,
    keep_warm: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="How long idle processes are kept, such as 30s. Default: each Function's scaling.keepWarm.",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File that stores asynchronous invocations, across restarts. "
            "Default: one for these paths in ~/.local/state/kappa.",
            show_default=False,
        ),
    ] = None,
    spare: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=10,
            help="Spare processes for each Python runtime and namespace. A cold start takes one, as in a cluster it "
            "takes a pod of a warm pool. 0 keeps none.",
        ),
    ] = 1,
    color: Annotated[
        bool | None,
        typer.Option(
            "--color/--no-color", help="Colour the functions' names. Default: on a terminal.", show_default=False
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the gateway's log too.")] = False,
) -> None:
    """Serve the Functions in files, without a cluster.

    The gateway, runtime, scaling and cold starts are those of a cluster; pods are processes of this machine.
    ConfigMaps and Secrets that a Function uses are read from the same files. The code of a ConfigMap may also be a
    folder of its name beside the manifest. Saved changes are served at once. Ctrl-C stops everything.

    \b
    kappa local up function.yaml
    kappa local up examples/ --port 9000 --keep-warm 30s
    """
    from kappa_cli.local.up import CannotStart, Options, run

    options = Options(
        paths=paths,
        host=host,
        port=port,
        keep_warm=keep_warm,
        queue=queue,
        spare_processes=spare,
        color=color,
        verbose=verbose,
    )
    try:
        run(options)
    except CannotStart as error:
        fail(str(error), 1)
