"""awslambdaric's native module `runtime_client` in Python, for systems where AWS does not build it, such as macOS.

awslambdaric 4 calls four functions of that module. These have the same arguments, results and errors. Only
`python_runtime.ensure_runtime_client` imports this module, and only where the native one cannot be imported.

There is one connection for each process. It opens with the first request, so after any fork, and stays open.
"""

from __future__ import annotations

import http.client
import os
from collections.abc import Mapping

_INVOCATION = "/2018-06-01/runtime/invocation/"


class _Client:
    """The connection to one Runtime API."""

    def __init__(self, address: str, user_agent: str) -> None:
        # without a timeout, whatever default a function sets for new sockets: `next` waits for hours
        self._connection = http.client.HTTPConnection(address, timeout=None)
        self._user_agent = user_agent

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[bytes, http.client.HTTPMessage]:
        """The answer's body and headers. Raises `OSError` and `http.client.HTTPException`, the latter also for a status
        that is no success."""
        # UTF-8 as the native module sends it; http.client itself would encode Latin-1
        encoded = {name: value.encode() for name, value in (headers or {}).items()}
        encoded["User-Agent"] = self._user_agent.encode()
        connection = self._connection
        kept = connection.sock is not None
        try:
            try:
                connection.request(method, path, body, encoded)
                response = connection.getresponse()
            except ConnectionError:
                # a kept connection may have been closed since its last request: then a new one is tried, once
                connection.close()
                if not kept:
                    raise
                connection.request(method, path, body, encoded)
                response = connection.getresponse()
            content = response.read()
        except BaseException:
            connection.close()
            raise
        if not 200 <= response.status < 300:
            connection.close()
            raise http.client.HTTPException(f"HTTP status {response.status}: {content[:1000].decode(errors='replace')}")
        return content, response.headers


_client: _Client | None = None


def initialize_client(user_agent: str) -> None:
    """Called once, when awslambdaric is imported."""
    global _client
    _client = _Client(os.environ.get("AWS_LAMBDA_RUNTIME_API", "127.0.0.1:9001"), user_agent)


def next() -> tuple[bytes, dict[str, str | int | None]]:
    """Wait for the next invocation: its payload, and its headers by name; None for a header that is missing or empty.

    Raises `RuntimeError`.
    """
    try:
        payload, headers = _initialized().request("GET", f"{_INVOCATION}next")

        def text(name: str) -> str | None:
            value = headers.get(name)
            return value.encode("latin-1").decode() if value else None

        request_id = text("Lambda-Runtime-Aws-Request-Id")
        if request_id is None:
            raise http.client.HTTPException("the invocation has no Lambda-Runtime-Aws-Request-Id")
        found: dict[str, str | int | None] = {
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Invoked-Function-Arn": text("Lambda-Runtime-Invoked-Function-Arn") or "",
            "Lambda-Runtime-Deadline-Ms": int(text("Lambda-Runtime-Deadline-Ms") or 0),
        }
        for name in (
            "Lambda-Runtime-Trace-Id",
            "Lambda-Runtime-Client-Context",
            "Content-Type",
            "Lambda-Runtime-Cognito-Identity",
            "Lambda-Runtime-Aws-Tenant-Id",
            "Lambda-Runtime-Invocation-Id",
        ):
            found[name] = text(name)
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError("Failed to get next") from error
    return payload, found


def post_invocation_result(
    request_id: str, content: bytes, content_type: str, invocation_id: str | None = None
) -> None:
    """Send a function's result. Raises `RuntimeError`."""
    headers = {"Content-Type": content_type or "text/html"}
    _post(f"{request_id}/response", content, headers, invocation_id, "Failed to post invocation response")


def post_error(request_id: str, error: str, xray_fault: str, invocation_id: str | None = None) -> None:
    """Send a function's error and what X-Ray wants to know of it, both JSON. Raises `RuntimeError`."""
    headers = {"Content-Type": "application/json"}
    if xray_fault:
        headers["Lambda-Runtime-Function-XRay-Error-Cause"] = xray_fault
    _post(f"{request_id}/error", error.encode(), headers, invocation_id, "Failed to post invocation error")


def _post(path: str, content: bytes, headers: dict[str, str], invocation_id: str | None, failure: str) -> None:
    if invocation_id:
        headers["Lambda-Runtime-Invocation-Id"] = invocation_id
    try:
        _initialized().request("POST", _INVOCATION + path, content, headers)
    except (OSError, http.client.HTTPException) as error:
        raise RuntimeError(failure) from error


def _initialized() -> _Client:
    if _client is None:
        raise RuntimeError("Client not yet initialized")
    return _client
