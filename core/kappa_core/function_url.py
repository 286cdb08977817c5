"""Function URLs: an HTTP request as a payload, and a function's answer as an HTTP response. Pure.

Both are Lambda's payload format 2.0:
https://docs.aws.amazon.com/lambda/latest/dg/urls-invocation.html#urls-payloads
"""

import base64
import binascii
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from kappa_core.errors import BadAnswer

Headers = Iterable[tuple[bytes, bytes]]
"""(name in lower case, value), in the order of the request."""

_TEXT: Final = re.compile(r"(?:text/.*|application/(?:json|javascript|xml|.*\+json|.*\+xml))", re.IGNORECASE)
_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")
_DROPPED: Final = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Headers of an answer that belong to the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    """The parts of a request from which the payload is made."""

    method: str
    path: str
    """As received, percent-encoded, without the prefix that names the function; starts with `/`."""
    query: str
    """As received, without `?`."""
    headers: Headers
    body: bytes
    protocol: str
    """Such as `HTTP/1.1`."""
    source_ip: str
    domain: str
    request_id: str
    function: str
    """The Function's name: `apiId` in the payload."""
    time: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""


def to_payload(request: HttpRequest) -> dict[str, Any]:
    """The payload for a request, as JSON values. `body`, `cookies` and `queryStringParameters` are absent if empty."""
    headers: dict[str, str] = {}
    cookies: list[str] = []
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "cookie":
            cookies += [cookie for part in value.split(";") if (cookie := part.strip())]
        elif name in headers:
            headers[name] += f",{value}"
        else:
            headers[name] = value
    event: dict[str, Any] = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": request.query,
    }
    if cookies:
        event["cookies"] = cookies
    event["headers"] = headers
    parameters = query_parameters(request.query)
    if parameters:
        event["queryStringParameters"] = parameters
    event["requestContext"] = {
        "accountId": "anonymous",
        "apiId": request.function,
        "domainName": request.domain,
        "domainPrefix": request.domain.partition(".")[0],
        "http": {
            "method": request.method,
            "path": request.path,
            "protocol": request.protocol,
            "sourceIp": request.source_ip,
            "userAgent": headers.get("user-agent", ""),
        },
        "requestId": request.request_id,
        "routeKey": "$default",
        "stage": "$default",
        "time": datetime.fromtimestamp(request.time, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "timeEpoch": int(request.time * 1000),
    }
    text = _as_text(request.body, headers.get("content-type", ""))
    if request.body:
        event["body"] = base64.b64encode(request.body).decode() if text is None else text
    event["isBase64Encoded"] = bool(request.body) and text is None
    return event


def query_parameters(query: str) -> dict[str, str]:
    """Decoded parameters. If one occurs several times, commas join its values."""
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


def _as_text(body: bytes, content_type: str) -> str | None:
    """The body as text; None: it must be base64, because of its content type or because it is not UTF-8."""
    kind = content_type.partition(";")[0].strip()
    if kind and not _TEXT.fullmatch(kind):
        return None
    try:
        return body.decode()
    except UnicodeDecodeError:
        return None


def from_answer(answer: bytes) -> HttpResponse:
    """The HTTP response for a function's answer, which is JSON.

    An object with `statusCode` describes the whole response: `statusCode`, `headers`, `cookies`, `body`,
    `isBase64Encoded`. Anything else becomes a body of type application/json with status 200. Raises `BadAnswer` if the
    answer cannot be a response.
    """
    try:
        value = json.loads(answer)
    except (ValueError, RecursionError):
        raise BadAnswer("the function's answer is not JSON") from None
    if not isinstance(value, dict) or "statusCode" not in value:
        return HttpResponse(200, [(b"content-type", b"application/json")], answer)
    headers = _headers(value.get("headers"))
    if not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"application/json"))
    headers += _cookies(value.get("cookies"))
    return HttpResponse(_status(value["statusCode"]), headers, _body(value))


def _status(value: object) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{3}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 200 <= value <= 599:
        raise BadAnswer(f"the function's answer has statusCode {value!r}: it must be a number from 200 to 599")
    return value


def _headers(value: object) -> list[tuple[bytes, bytes]]:
    if value is None:
        return []
    if not isinstance(value, dict):
        raise BadAnswer("the function's answer has headers that are no object of strings")
    headers = []
    for name, content in value.items():
        if isinstance(content, bool):
            content = "true" if content else "false"
        elif isinstance(content, int | float):
            content = str(content)
        if not isinstance(content, str) or not _NAME.fullmatch(name) or not _VALUE.fullmatch(content):
            raise BadAnswer(f"the function's answer has a header {name!r} that is not valid: write a name and a string")
        if name.lower() not in _DROPPED:
            headers.append((name.lower().encode(), _encode(content)))
    return headers


def _cookies(value: object) -> list[tuple[bytes, bytes]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) and _VALUE.fullmatch(item) for item in value):
        raise BadAnswer("the function's answer has cookies that are not a list of strings")
    return [(b"set-cookie", _encode(item)) for item in value]


def _encode(text: str) -> bytes:
    """Header values are bytes: Latin-1, HTTP's original encoding, where that suffices, otherwise UTF-8."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace")


def _body(answer: dict[str, Any]) -> bytes:
    body = answer.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        raise BadAnswer(
            f"the function's answer has a body of type {type(body).__name__}, not a string: use json.dumps for objects"
        )
    if answer.get("isBase64Encoded"):
        try:
            return base64.b64decode(body, validate=True)
        except (binascii.Error, ValueError):
            raise BadAnswer("the function's answer says isBase64Encoded, but its body is not base64") from None
    return body.encode("utf-8", "replace")
