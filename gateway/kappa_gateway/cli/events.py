"""`kappa async …`: what became of asynchronous invocations, redrive and purge, over the gateway's status API."""

import json
import sys
import time
import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import typer

from kappa_core import function_name
from kappa_core.durations import format_duration
from kappa_core.errors import FunctionNotFound, InvalidRequest
from kappa_core.event import Status
from kappa_gateway.cli.client import BAD_INPUT, NOT_FOUND, NOT_REACHED, REFUSED, CallError, call, fail
from kappa_gateway.cli.options import DEFAULT_GATEWAY, Gateway, Name, Namespace, duration

EXIT_CODES = (
    "Exit status: 0 done, 1 the invocation failed or expired, 2 wrong arguments, 3 no gateway there, "
    "4 no such function or invocation, 5 the gateway refused (its message says why)."
)
PATIENCE: Final = 60.0
"""Seconds for which `get --wait` bears with a gateway that is away."""

Json = Annotated[bool, typer.Option("--json", help="Print the gateway's JSON.")]

app = typer.Typer(
    help="See what becomes of asynchronous invocations, and steer them. kappa invoke --async makes one.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("ls", epilog=EXIT_CODES)
def list_(
    name: Name,
    status: Annotated[Status | None, typer.Option(help="Only those of this status.", show_default=False)] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    as_json: Json = False,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """List them, newest first.

    Those that wait, run or are retried, those that ended in the last hour, and the dead letter.

    \b
    kappa async ls hello
    kappa async ls hello --status failed --json
    """
    query = urlencode({"limit": limit} | ({"status": status.value} if status is not None else {}))
    path, key = _path(name, namespace)
    answer = _call(gateway, "GET", f"{path}?{query}")
    if as_json:
        print(json.dumps(answer, indent=2, ensure_ascii=False))
        return
    found = answer["invocations"]
    if not found:
        what = f"that are {status.value}" if status is not None else "that wait, run, or ended lately"
        print(f"kappa: {key} has no asynchronous invocations {what}", file=sys.stderr)
        return
    now = time.time()
    rows = [("REQUEST ID", "STATUS", "ATTEMPTS", "AGE", "")]
    rows += [
        (one["requestId"], one["status"], str(one["attempts"]), _ago(one["receivedAt"], now), _remark(one, now))
        for one in found
    ]
    _table(rows)


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
    """Print what became of one, and its result.

    \b
    kappa async get hello 0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55
    kappa async get hello "$(kappa invoke hello --async)" --wait --json
    """
    try:
        request_id = str(uuid.UUID(request_id))
    except ValueError:
        fail(f"{request_id!r} is no request id: those look like 0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55", BAD_INPUT)
    base, _ = _path(name, namespace)
    path = f"{base}/{request_id}"
    found = _wait_for_end(gateway, path, timeout) if wait else _call(gateway, "GET", path)
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _table(_lines(found))
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

    Each invocation gets a request id of its own, which is printed, and all its attempts.

    \b
    kappa async redrive hello 0b1f7c1e-5f0a-4f6e-a8f0-9d2c3f6f1a55
    kappa async redrive hello --all
    """
    if bool(request_ids) == all_:
        fail("name the request ids, or say --all", BAD_INPUT)
    base, key = _path(name, namespace)
    body: dict[str, Any] = {"all": True} if all_ else {"requestIds": request_ids}  # Any: JSON
    count, more = 0, True
    missing: list[str] = []
    while more:
        answer = _call(gateway, "POST", f"{base}/redrive", body)
        for one in answer["redriven"]:
            print(f"{one['requestId']} redriven as {one['redrivenAs']}")
        count += len(answer["redriven"])
        missing += answer["notFound"]
        more = answer["more"]
        body["until"] = answer["until"]
    if all_ and not count:
        print(f"kappa: the dead letter of {key} is empty", file=sys.stderr)
    if missing:
        fail(f"not in the dead letter of {key}: {' '.join(missing)}", NOT_FOUND)


@app.command(epilog=EXIT_CODES)
def purge(
    name: Name,
    dead: Annotated[bool, typer.Option("--dead", help="Empty the dead letter, and leave alone what waits.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    namespace: Namespace = None,
    gateway: Gateway = DEFAULT_GATEWAY,
) -> None:
    """Drop all that waits, or the dead letter.

    There is no way back. What runs now runs on, but is not retried.

    \b
    kappa async purge hello
    kappa async purge hello --dead --yes
    """
    base, key = _path(name, namespace)
    what = f"the dead letter of {key}" if dead else f"everything that waits for {key}"
    if not yes:
        if not sys.stdin.isatty():
            fail(f"this drops {what} for good: say --yes", BAD_INPUT)
        print(f"Drop {what} for good? [y/N]: ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            fail("nothing was dropped", 1)
    count, more = 0, True
    while more:
        answer = _call(gateway, "DELETE", f"{base}?dead={'true' if dead else 'false'}")
        count += answer["purged"]
        more = answer["more"]
    print(f"{count} dropped")


# -- inside


def _path(name: str, namespace: str | None) -> tuple[str, str]:
    """The API's path of the function, and how it is called in messages."""
    try:
        found = function_name.parse(name if namespace is None else f"{namespace}.{name}")
    except FunctionNotFound as error:
        fail(error.message, NOT_FOUND)
    except InvalidRequest as error:
        fail(error.message, BAD_INPUT)
    return (
        f"/v1/namespaces/{found.namespace}/functions/{found.name}/async",
        f"{found.namespace}/{found.name}",
    )


def _call(gateway: str, method: str, path: str, body: Any = None) -> Any:  # Any: JSON
    try:
        return call(gateway, method, path, None if body is None else json.dumps(body).encode()).json()
    except CallError as error:
        fail(str(error), error.exit_code)
    except ValueError:
        fail(f"{gateway} answered with no JSON: is it a gateway?", REFUSED)


def _wait_for_end(gateway: str, path: str, timeout: float) -> Any:
    """Asks ever more slowly, and bears with a gateway that is replaced meanwhile."""
    deadline = time.monotonic() + timeout
    code = REFUSED
    answered = time.monotonic()
    pause = 0.1
    while True:
        try:
            found = call(gateway, "GET", path).json()
            answered = time.monotonic()
            if Status(found["status"]).final:
                return found
            said, code = f"it is {found['status']}", REFUSED
        except CallError as error:
            passing = error.exit_code == NOT_REACHED or (error.exit_code == REFUSED and " answered 503" in str(error))
            if not passing or time.monotonic() - answered > PATIENCE:
                fail(str(error), error.exit_code)
            said, code = str(error), error.exit_code
        if time.monotonic() + pause > deadline:
            fail(f"it has not ended within {format_duration(timeout)}: {said}", code)
        time.sleep(pause)
        pause = min(pause * 1.5, 2.0)


def _lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    now = time.time()
    lines = [("request id", found["requestId"]), ("status", found["status"]), ("attempts", str(found["attempts"]))]
    lines.append(("received", f"{found['receivedAt']} ({_ago(found['receivedAt'], now)} ago)"))
    lines.append(("updated", f"{found['updatedAt']} ({_ago(found['updatedAt'], now)} ago)"))
    if found["nextAttempt"] is not None:
        lines.append(("next attempt", f"{found['nextAttempt']} ({_due(found['nextAttempt'], now)})"))
    if found["deadLetter"]:
        lines.append(("dead letter", "yes: kappa async redrive runs it again"))
    for field, label in (("redriveOf", "redrive of"), ("redrivenAs", "redriven as")):
        if found.get(field) is not None:
            lines.append((label, found[field]))
    if found["error"] is not None:
        stack = found["error"].get("stackTrace")
        text = "\n".join(
            [_error(found["error"]), *(str(line).rstrip("\n") for line in (stack if isinstance(stack, list) else ()))]
        )
        lines += zip(["error", *[""] * text.count("\n")], text.split("\n"), strict=True)
    if found["status"] == Status.SUCCEEDED:
        cut = " (only its beginning is kept)" if found["resultTruncated"] else ""
        result = found["result"]
        text = result if isinstance(result, str) else json.dumps(result, ensure_ascii=False)
        lines += zip(["result" + cut, *[""] * text.count("\n")], text.split("\n"), strict=True)
    return lines


def _remark(one: dict[str, Any], now: float) -> str:
    parts = []
    if one.get("delivery"):
        parts.append("a record for a destination")
    if one["nextAttempt"] is not None:
        parts.append(_due(one["nextAttempt"], now))
    if one["deadLetter"]:
        parts.append("dead letter")
    remark = ", ".join(parts)
    if one["error"] is not None:
        text = " ".join(_error(one["error"]).split())
        remark += (": " if remark else "") + (text if len(text) <= 100 else text[:99] + "…")
    return remark


def _error(error: dict[str, Any]) -> str:
    kind, message = error.get("errorType"), error.get("errorMessage")
    return f"{kind or 'Error'}: {message}" if message is not None else json.dumps(error, ensure_ascii=False)


def _ago(stamp: str, now: float) -> str:
    return _short(max(now - datetime.fromisoformat(stamp).timestamp(), 0.0))


def _due(stamp: str, now: float) -> str:
    left = datetime.fromisoformat(stamp).timestamp() - now
    return f"again in {_short(left)}" if left > 0 else "again now"


def _short(seconds: float) -> str:
    """A duration in at most two units, as kubectl prints ages."""
    whole = int(seconds)
    for unit, size, lower, lower_size in (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1)):
        if whole >= 2 * size:
            count, rest = divmod(whole, size)
            return (
                f"{count}{unit}{rest // lower_size}{lower}" if count < 10 and rest // lower_size else f"{count}{unit}"
            )
    return f"{whole}s"


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
