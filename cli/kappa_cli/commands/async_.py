"""`kappa async …`: list and look up asynchronous invocations, redrive and purge them."""

import json
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from kappa_cli.api.async_api import AsyncApi
from kappa_cli.api.client import BAD_INPUT, NOT_FOUND, CallError
from kappa_cli.commands.options import DEFAULT_GATEWAY, Gateway, Name, Namespace, duration
from kappa_cli.commands.output import age, block, due, error_text, fail, print_json, print_table
from kappa_core.event import Status

EXIT_CODES = (
    "Exit status: 0 done, 1 the invocation failed or expired, 2 wrong arguments, 3 no gateway there, "
    "4 no such function or invocation, 5 the gateway refused (its message says why)."
)

_STATUSES = ", ".join(Status)
Json = Annotated[bool, typer.Option("--json", help="Print the gateway's JSON.")]

app = typer.Typer(
    help="List, redrive and purge asynchronous invocations. kappa invoke --async makes one.",
    short_help="List, redrive and purge asynchronous invocations.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls", epilog=EXIT_CODES)
def list_(
    name: Name,
    status: Annotated[
        Status | None,
        typer.Option(metavar="STATUS", help=f"Only those with this status: {_STATUSES}.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, max=1000, help="How many at most.")] = 100,
    as_json: Json = False,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """List them, newest first.

    Lists those that wait, run or are retried, those that ended in the last hour, and the dead letter.

    \b
    kappa async ls hello
    kappa async ls hello --status failed --json
    """
    with _failing():
        api = AsyncApi(gateway, name, namespace)
        answer = api.list(limit=limit, status=status)
    if as_json:
        print_json(answer)
        return
    if not answer["invocations"]:
        which = f"that are {status.value}" if status is not None else "that wait, run, or ended in the last hour"
        print(f"kappa: {api.function} has no asynchronous invocations {which}", file=sys.stderr)
        return
    now = time.time()
    print_table(
        [("REQUEST ID", "STATUS", "ATTEMPTS", "AGE", "")]
        + [
            (one["requestId"], one["status"], str(one["attempts"]), age(one["receivedAt"], now), _remark(one, now))
            for one in answer["invocations"]
        ]
    )


@app.command(epilog=EXIT_CODES)
def get(
    name: Name,
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The request id.", show_default=False)],
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has succeeded, failed or expired.")] = False,
    timeout: Annotated[
        float,
        typer.Option(parser=duration, metavar="DURATION", help="Wait no longer than this, such as 30s."),
    ] = "6h",  # type: ignore[assignment]  # the parser gets it
    as_json: Json = False,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Print the status and result of one.

    \b
    kappa async get hello 0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55
    kappa async get hello "$(kappa invoke hello --async)" --wait --json
    """
    try:
        request_id = str(uuid.UUID(request_id))
    except ValueError:
        fail(f"{request_id!r} is not a request id: those look like 0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55", BAD_INPUT)
    with _failing():
        api = AsyncApi(gateway, name, namespace)
        found = api.wait(request_id, timeout) if wait else api.get(request_id)
    if as_json:
        print_json(found)
    else:
        print_table(_lines(found))
    if found["status"] in (Status.FAILED, Status.EXPIRED):
        raise typer.Exit(1)


@app.command(epilog=EXIT_CODES)
def redrive(
    name: Name,
    request_ids: Annotated[
        list[str] | None, typer.Argument(metavar="[ID]...", help="Request ids.", show_default=False)
    ] = None,
    all_: Annotated[bool, typer.Option("--all", help="Everything in the function's dead letter.")] = False,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Run what is in the dead letter again.

    Each invocation gets a new request id, which is printed, and all its attempts again.

    \b
    kappa async redrive hello 0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55
    kappa async redrive hello --all
    """
    if bool(request_ids) == all_:
        fail("name the request ids, or say --all", BAD_INPUT)
    count = 0
    missing: list[str] = []
    with _failing():
        api = AsyncApi(gateway, name, namespace)
        for answer in api.redrive(None if all_ else request_ids):
            for one in answer["redriven"]:
                print(f"{one['requestId']} redriven as {one['redrivenAs']}")
            count += len(answer["redriven"])
            missing += answer["notFound"]
    if all_ and not count:
        print(f"kappa: the dead letter of {api.function} is empty", file=sys.stderr)
    if missing:
        fail(f"not in the dead letter of {api.function}: {' '.join(missing)}", NOT_FOUND)


@app.command(epilog=EXIT_CODES)
def purge(
    name: Name,
    dead: Annotated[bool, typer.Option("--dead", help="Empty the dead letter instead of what waits.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Drop all that waits, or the dead letter.

    This cannot be undone. An invocation that runs now goes on, and is not retried.

    \b
    kappa async purge hello
    kappa async purge hello --dead --yes
    """
    with _failing():
        api = AsyncApi(gateway, name, namespace)
    what = f"the dead letter of {api.function}" if dead else f"everything that waits for {api.function}"
    if not yes:
        if not sys.stdin.isatty():
            fail(f"this drops {what} for good: say --yes", BAD_INPUT)
        print(f"Drop {what} for good? [y/N]: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            fail("nothing was dropped", 1)
    with _failing():
        print(f"{api.purge(dead=dead)} dropped")


@contextmanager
def _failing() -> Iterator[None]:
    """End the command with the message and exit status of a failed request."""
    try:
        yield
    except CallError as error:
        fail(str(error), error.exit_code)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:  # Any: JSON
    now = time.time()
    lines = [("request id", found["requestId"]), ("status", found["status"]), ("attempts", str(found["attempts"]))]
    lines.append(("received", f"{found['receivedAt']} ({age(found['receivedAt'], now)} ago)"))
    lines.append(("updated", f"{found['updatedAt']} ({age(found['updatedAt'], now)} ago)"))
    if found["nextAttempt"] is not None:
        lines.append(("next attempt", f"{found['nextAttempt']} ({due(found['nextAttempt'], now)})"))
    if found["deadLetter"]:
        lines.append(("dead letter", "yes: kappa async redrive runs it again"))
    for field, label in (("redriveOf", "redrive of"), ("redrivenAs", "redriven as")):
        if found.get(field) is not None:
            lines.append((label, found[field]))
    if (error := found["error"]) is not None:
        stack = error.get("stackTrace")
        frames = [str(line).rstrip("\n") for line in stack] if isinstance(stack, list) else []
        lines += block("error", "\n".join([error_text(error), *frames]))
    if found["status"] == Status.SUCCEEDED:
        label = "result (only its beginning is kept)" if found["resultTruncated"] else "result"
        result = found["result"]
        lines += block(label, result if isinstance(result, str) else json.dumps(result, ensure_ascii=False))
    return lines


def _remark(one: dict[str, Any], now: float) -> str:  # Any: JSON
    parts = []
    if one.get("delivery"):
        parts.append("a record for a destination")
    if one["nextAttempt"] is not None:
        parts.append(due(one["nextAttempt"], now))
    if one["deadLetter"]:
        parts.append("dead letter")
    remark = ", ".join(parts)
    if one["error"] is not None:
        text = " ".join(error_text(one["error"]).split())
        remark += (": " if remark else "") + (text if len(text) <= 100 else text[:99] + "…")
    return remark
