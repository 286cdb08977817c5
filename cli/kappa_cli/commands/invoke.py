"""`kappa invoke`: one invocation over the Lambda API, synchronous or asynchronous."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from kappa_cli.api import lambda_api
from kappa_cli.api.client import BAD_INPUT, CallError
from kappa_cli.commands.options import DEFAULT_GATEWAY, Gateway, Name, Namespace
from kappa_cli.commands.output import fail

EXIT_CODES = (
    "Exit status: 0 the function answered (with --async: the event is stored), 1 the function failed, "
    "2 wrong arguments or invalid JSON, 3 no gateway there, 4 no such function, "
    "5 the gateway refused (its message says why)."
)


def invoke(
    name: Name,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="JSON", help="The payload. Default: {}.", show_default=False),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Read the payload from a file; - is the standard input.", show_default=False),
    ] = None,
    tail: Annotated[bool, typer.Option("--tail", help="Print the end of the invocation's log on stderr.")] = False,
    queued: Annotated[
        bool, typer.Option("--async", help="Do not wait for the answer: enqueue an event, and print its request id.")
    ] = False,
    idempotency_key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="With --async: a second event with the same key within two minutes is not stored again.",
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
    _check_options(tail=tail, queued=queued, idempotency_key=idempotency_key)
    payload = _payload(data, file)
    try:
        if queued:
            event = lambda_api.submit(gateway, name, payload, namespace=namespace, idempotency_key=idempotency_key)
            if event.duplicate:
                print("kappa: this event was stored before; nothing was added", file=sys.stderr)
            print(event.request_id)
            return
        answer = lambda_api.invoke(gateway, name, payload, namespace=namespace, tail=tail)
    except CallError as error:
        fail(str(error), error.exit_code)
    if answer.log_tail:
        print(answer.log_tail, end="" if answer.log_tail.endswith("\n") else "\n", file=sys.stderr)
    if answer.function_error:
        fail(f"{name} failed: {lambda_api.describe_error(answer.body)}", 1, prefix="")
    sys.stdout.buffer.write(answer.body if answer.body.endswith(b"\n") else answer.body + b"\n")
    sys.stdout.buffer.flush()


def _check_options(*, tail: bool, queued: bool, idempotency_key: str | None) -> None:
    if queued and tail:
        fail(
            "--tail prints the answer's log, and --async does not wait for an answer: leave one of them out", BAD_INPUT
        )
    if idempotency_key is None:
        return
    if not queued:
        fail("--idempotency-key goes with --async", BAD_INPUT)
    if not (1 <= len(idempotency_key) <= 256 and idempotency_key.isascii() and idempotency_key.isprintable()):
        fail("--idempotency-key must be 1 to 256 printable ASCII characters", BAD_INPUT)


def _payload(data: str | None, file: Path | None) -> bytes:
    if data is not None and file is not None:
        fail("give the payload with --data or with --file, not with both", BAD_INPUT)
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
        fail(f"{source} is not JSON: {error}{hint}", BAD_INPUT)
    return payload
