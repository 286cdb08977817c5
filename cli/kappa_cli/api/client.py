"""One request to a gateway, with the standard library alone. A failure carries the exit status of the command."""

import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

CONNECT_TIMEOUT: Final = 5.0
"""Seconds."""
BAD_INPUT: Final = 2
NOT_REACHED: Final = 3
NOT_FOUND: Final = 4
REFUSED: Final = 5


class CallError(Exception):
    """The request failed; `exit_code` tells scripts why."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer with a status below 300."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:  # Any: JSON
        """Raises `ValueError`."""
        return json.loads(self.body)


def call(
    gateway: str,
    method: str,
    path: str,
    payload: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    timeout: float = 60.0,
) -> Reply:
    """Send one request; `timeout` is how many seconds the gateway may be silent. Raises `CallError`."""
    status, answer_headers, body = _exchange(gateway, method, path, payload, headers or {}, timeout)
    if status == 404:
        raise CallError(error_message(body) or f"{gateway} has nothing at {path}: is it a gateway?", NOT_FOUND)
    if status >= 300:
        detail = error_message(body) or body[:200].decode(errors="replace").strip() or "no reason given"
        raise CallError(f"{gateway} answered {status}: {detail}", REFUSED)
    return Reply(status, answer_headers, body)


def _exchange(
    gateway: str, method: str, path: str, payload: bytes | None, headers: Mapping[str, str], timeout: float
) -> tuple[int, http.client.HTTPMessage, bytes]:
    url = urlsplit(gateway)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise CallError(
            f"{gateway!r} is not a gateway's address: write it as http://127.0.0.1:8080 (--gateway, or KAPPA_GATEWAY)",
            BAD_INPUT,
        )
    connection: http.client.HTTPConnection
    if url.scheme == "https":
        connection = http.client.HTTPSConnection(
            url.hostname, url.port, timeout=CONNECT_TIMEOUT, context=ssl.create_default_context()
        )
    else:
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=CONNECT_TIMEOUT)
    sent = {"Content-Type": "application/json", "User-Agent": "kappa-cli", **headers}
    try:
        connection.connect()
        connection.sock.settimeout(timeout)
        connection.request(method, url.path.rstrip("/") + path, payload, sent)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    except TimeoutError:
        raise CallError(f"{gateway} does not answer", NOT_REACHED) from None
    except ConnectionRefusedError:
        raise CallError(
            f"nothing listens at {gateway}: start a gateway with kappa local up PATH, "
            "or name another one with --gateway or KAPPA_GATEWAY",
            NOT_REACHED,
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise CallError(f"{gateway} cannot be reached: {error or type(error).__name__}", NOT_REACHED) from None
    finally:
        connection.close()


def error_message(body: bytes) -> str:
    """The message of Lambda's error JSON; empty where the body is not one."""
    try:
        error = json.loads(body)
        return str(error.get("Message") or error.get("message") or "")
    except (ValueError, AttributeError):
        return ""
