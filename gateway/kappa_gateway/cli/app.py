"""The commands of `kappa`, by typer: arguments, help and exit statuses; what they do is elsewhere."""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from kappa_gateway.cli import events
from kappa_gateway.cli import invoke as invocation
from kappa_gateway.cli.client import BAD_INPUT, CallError, fail
from kappa_gateway.cli.options import DEFAULT_GATEWAY, Gateway, Name, Namespace, duration

EXIT_CODES = (
    "Exit status: 0 the function answered (with --async: the event is stored), 1 the function failed, 2 wrong arguments or no JSON, "
    "3 no gateway there, 4 no such function, 5 the gateway refused (its message says why)."
)

app = typer.Typer(
    name="kappa",
    help="Lambda-like functions for Kubernetes, and without it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
local = typer.Typer(
    help="Run functions on this machine, without a cluster.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(local, name="local")
app.add_typer(events.app, name="async")


def run() -> NoReturn:
    """Ends the process, with the command's exit status."""
    app(prog_name="kappa")
    raise SystemExit(0)


@local.command("up")
def local_up(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Manifests, or folders that are searched for them.", show_default=False),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every one of this machine.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", "-p", min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    keep_warm: Annotated[
        float | None,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Keep idle processes this long, such as 30s, instead of each Function's scaling.keepWarm.",
            show_default=False,
        ),
    ] = None,
    queue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where asynchronous invocations wait, over restarts too. Default: a file for these paths in ~/.local/state/kappa.",
            show_default=False,
        ),
    ] = None,
    spare: Annotated[
        int,
        typer.Option(
            min=0,
            max=10,
            help="Processes that wait, for each Python runtime, for a function's first invocation, as a cluster's warm pools do; 0: none.",
        ),
    ] = 1,
    color: Annotated[
        bool | None,
        typer.Option(
            "--color/--no-color", help="Colour the functions' names. Default: on a terminal.", show_default=False
        ),
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the gateway's own log too.")] = False,
) -> None:
    """Serve the Functions in files, without a cluster.

    Gateway, runtime, scaling and cold starts are those of a cluster; pods are processes of this machine. ConfigMaps and Secrets that they use are read from the same files; the code of a ConfigMap may also be a folder of
    its name beside the manifest. Saved changes are served at once. Ctrl-C stops everything.
    """
    from kappa_gateway.local.up import CannotStart, Options, up

    try:
        up(
            Options(
                paths=paths,
                host=host,
                port=port,
                keep_warm=keep_warm,
                color=color,
                verbose=verbose,
                queue=queue,
                pool_size=spare,
            )
        )
    except CannotStart as error:
        fail(str(error), 1)


@app.command(epilog=EXIT_CODES)
def invoke(
    name: Name,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="JSON", help="The event. Default: {}.", show_default=False)
    ] = None,
    file: Annotated[
        Path | None, typer.Option(help="The event, from a file; - is the standard input.", show_default=False)
    ] = None,
    tail: Annotated[bool, typer.Option("--tail", help="Print the end of the invocation's log on stderr.")] = False,
    queued: Annotated[
        bool, typer.Option("--async", help="Do not wait for the answer: queue the event, and print its request id.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="With --async: the same key within two minutes is the same event, so a repetition adds none.",
            show_default=False,
        ),
    ] = None,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Invoke a function and print its answer.

    \b
    kappa invoke hello -d '{"name": "Ada"}' --tail
    kappa invoke hello -d '{"name": "Ada"}' --async --idempotency-key order-7
    """
    if queued and tail:
        fail("--tail waits for the answer's log, and --async for no answer: leave one of them out", BAD_INPUT)
    if idempotency_key is not None and not queued:
        fail("--idempotency-key goes with --async", BAD_INPUT)
    if idempotency_key is not None and not (
        1 <= len(idempotency_key) <= 256 and idempotency_key.isascii() and idempotency_key.isprintable()
    ):
        fail("--idempotency-key must be 1 to 256 printable ASCII characters", BAD_INPUT)
    payload = _payload(data, file)
    try:
        if queued:
            event = invocation.submit(gateway, name, payload, namespace=namespace, idempotency_key=idempotency_key)
            if event.duplicate:
                print("kappa: this event was there already; nothing was added", file=sys.stderr)
            print(event.request_id)
            return
        answer = invocation.invoke(gateway, name, payload, namespace=namespace, tail=tail)
    except CallError as error:
        fail(str(error), error.exit_code)
    if answer.log_tail:
        print(answer.log_tail, end="" if answer.log_tail.endswith("\n") else "\n", file=sys.stderr)
    if answer.function_error:
        fail(f"{name} failed: {invocation.describe_error(answer.body)}", 1, prefix="")
    sys.stdout.buffer.write(answer.body if answer.body.endswith(b"\n") else answer.body + b"\n")
    sys.stdout.buffer.flush()


@app.command()
def version() -> None:
    """Print the versions of Kappa and Python."""
    print(f"kappa {importlib.metadata.version('kappa-functions')} (Python {platform.python_version()})")


def _payload(data: str | None, file: Path | None) -> bytes:
    if data is not None and file is not None:
        fail("give the event with --data or with --file, not with both", BAD_INPUT)
    source, payload = "--data", (data if data is not None else "{}").encode()
    if file is not None:
        source = "the standard input" if str(file) == "-" else str(file)
        try:
            payload = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        except OSError as error:
            fail(f"{file} cannot be read: {error.strerror}", BAD_INPUT)
    try:
        json.loads(payload)
    except ValueError as error:
        hint = """; quote it for the shell, as in -d '{"name": "Ada"}'""" if source == "--data" else ""
        fail(f"{source} is no JSON: {error}{hint}", BAD_INPUT)
    return payload
