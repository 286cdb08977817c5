"""One invocation over the Lambda API, with the standard library alone."""

import base64
import http.client
import json
import ssl
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlsplit

CONNECT_TIMEOUT: Final = 5.0
ANSWER_TIMEOUT: Final = 3700.0
"""Seconds: a function may run for an hour."""


class InvokeError(Exception):
    """The gateway did not run the function; `exit_code` tells scripts why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


NOT_REACHED: Final = 3
NOT_FOUND: Final = 4
REFUSED: Final = 5
BAD_INPUT: Final = 2


@dataclass(frozen=True, slots=True)
class Answer:
    body: bytes
    function_error: bool
    log_tail: str
    """Empty unless it was asked for."""


def invoke(gateway: str, name: str, payload: bytes, *, namespace: str | None = None, tail: bool = False) -> Answer:
    """Invoke and wait for the answer. Raises `InvokeError`."""
    qualified = name if namespace in (None, "default") else f"{namespace}.{name}"
    status, headers, body = _post(gateway, qualified, payload, tail=tail)
    if status == 404:
        raise InvokeError(_message(body) or f"there is no function {qualified} at {gateway}", NOT_FOUND)
    if status >= 300:
        detail = _message(body) or body[:200].decode(errors="replace").strip() or "no reason given"
        raise InvokeError(f"{gateway} answered {status}: {detail}", REFUSED)
    log = headers.get("X-Amz-Log-Result") or ""
    return Answer(
        body,
        function_error=headers.get("X-Amz-Function-Error") is not None,
        log_tail=base64.b64decode(log).decode(errors="replace") if log else "",
    )


def _post(gateway: str, name: str, payload: bytes, *, tail: bool) -> tuple[int, http.client.HTTPMessage, bytes]:
    url = urlsplit(gateway)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise InvokeError(
            f"{gateway!r} is no address of a gateway: write it as http://127.0.0.1:8080 (--gateway, or KAPPA_GATEWAY)",
            BAD_INPUT,
        )
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=CONNECT_TIMEOUT, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=CONNECT_TIMEOUT)
    headers = {"Content-Type": "application/json", "User-Agent": "kappa-cli"}
    if tail:
        headers["X-Amz-Log-Type"] = "Tail"
    path = f"{url.path.rstrip('/')}/2015-03-31/functions/{quote(name, safe=':$')}/invocations"
    try:
        connection.connect()
        connection.sock.settimeout(ANSWER_TIMEOUT)
        connection.request("POST", path, payload, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    except TimeoutError:
        raise InvokeError(f"{gateway} does not answer", NOT_REACHED) from None
    except ConnectionRefusedError:
        raise InvokeError(
            f"nothing listens at {gateway}: start it with kappa local up PATH, or name another one with --gateway or KAPPA_GATEWAY",
            NOT_REACHED,
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise InvokeError(f"{gateway} cannot be reached: {error or type(error).__name__}", NOT_REACHED) from None
    finally:
        connection.close()


def _message(body: bytes) -> str:
    """The message of Lambda's error JSON; empty where the body is none."""
    try:
        error = json.loads(body)
        return str(error.get("Message") or error.get("message") or "")
    except (ValueError, AttributeError):
        return ""


def describe_error(body: bytes) -> str:
    """A function's error JSON as a person reads it: type and message, then the stack as the runtime printed it."""
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
