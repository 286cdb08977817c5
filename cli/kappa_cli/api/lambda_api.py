"""Invocations over the Lambda API."""

import base64
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from kappa_cli.api.client import Reply, call

ANSWER_TIMEOUT: Final = 3700.0
"""Seconds: a function may run for an hour."""


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    function_error: bool
    log_tail: str
    """Empty unless `tail` asked for it."""


@dataclass(frozen=True, slots=True)
class Queued:
    request_id: str
    duplicate: bool
    """An event with this idempotency key was stored before."""


def invoke(gateway: str, name: str, payload: bytes, *, namespace: str | None = None, tail: bool = False) -> Answer:
    """Invoke and wait for the answer. Raises `CallError`."""
    reply = _post(gateway, name, namespace, payload, {"X-Amz-Log-Type": "Tail"} if tail else {})
    log = reply.headers.get("X-Amz-Log-Result") or ""
    return Answer(
        reply.body,
        function_error=reply.headers.get("X-Amz-Function-Error") is not None,
        log_tail=base64.b64decode(log).decode(errors="replace") if log else "",
    )


def submit(
    gateway: str, name: str, payload: bytes, *, namespace: str | None = None, idempotency_key: str | None = None
) -> Queued:
    """Invoke asynchronously: returns once the event is stored. Raises `CallError`."""
    headers = {"X-Amz-Invocation-Type": "Event"}
    if idempotency_key is not None:
        headers["Kappa-Idempotency-Key"] = idempotency_key
    reply = _post(gateway, name, namespace, payload, headers)
    return Queued(reply.headers.get("x-amzn-requestid") or "", reply.headers.get("Kappa-Duplicate") == "true")


def _post(gateway: str, name: str, namespace: str | None, payload: bytes, headers: dict[str, str]) -> Reply:
    qualified = name if namespace in (None, "default") else f"{namespace}.{name}"
    path = f"/2015-03-31/functions/{quote(qualified, safe=':$')}/invocations"
    return call(gateway, "POST", path, payload, headers, timeout=ANSWER_TIMEOUT)


def describe_error(body: bytes) -> str:
    """A function error's JSON as text: its type and message, then the stack as the runtime printed it."""
    try:
        error: Any = json.loads(body)  # Any: JSON
        kind, message = error["errorType"], error["errorMessage"]
        stack = error.get("stackTrace") or []
    except (ValueError, KeyError, TypeError, AttributeError):
        return body.decode(errors="replace")
    lines = [f"{kind}: {message}"]
    if isinstance(stack, list):
        lines += [str(line).rstrip("\n") for line in stack]
    return "\n".join(lines)
