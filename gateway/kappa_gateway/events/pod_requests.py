"""What is sent to a pod for an event. Pure: nothing in an event can add a header or a request of its own."""

import json
import re
from typing import Final

from kappa_core import wire
from kappa_core.event import HTTP_HEADERS, HTTP_METHOD, HTTP_TARGET, Event
from kappa_gateway.invoke.request import Request

_PASSED_ON: Final = tuple(name.lower() for name in (wire.CLIENT_CONTEXT, wire.TRACE_ID, wire.COGNITO_IDENTITY))
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_TARGET: Final = re.compile(r"/[!-~\x80-\xff]*")
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})


class UnreadableEvent(ValueError):
    """The event is not one that can be run: another version's, or broken. The message says what is wrong with it."""


def lambda_request(event: Event, attempt: int) -> Request:
    """`attempt` counts from 1. Raises `UnreadableEvent`."""
    if not event.id.isascii() or not event.id.isprintable():
        raise UnreadableEvent(f"{event.id[:64]!r} is not an id")
    more = b"%b: %d\r\n" % (wire.ATTEMPT.encode(), attempt)
    for name in _PASSED_ON:
        value = event.attributes.get(name)
        if value:
            more += _line(name, value)
    tail = b"%b\r\n%bContent-Length: %d\r\n\r\n" % (event.id.encode(), more, len(event.payload))
    return Request(lambda function: function.request_head + tail, event.payload)


def web_request(event: Event) -> Request:
    """The web server's original request. Raises `UnreadableEvent`."""
    method, target = event.attributes.get(HTTP_METHOD, "POST"), event.attributes.get(HTTP_TARGET, "/")
    if not _TOKEN.fullmatch(method) or not _TARGET.fullmatch(target):
        raise UnreadableEvent(f"{method[:64]!r} {target[:200]!r} is not a request line")
    try:
        pairs = [(str(name), str(value)) for name, value in json.loads(event.attributes.get(HTTP_HEADERS, "[]"))]
    except (ValueError, TypeError) as error:
        raise UnreadableEvent(f"its headers are not a list of pairs ({error})") from None
    if HTTP_METHOD not in event.attributes:
        # the record of how another function's event ended
        pairs = [("content-type", "application/json"), *pairs]
    lines = [_line(name, value) for name, value in pairs if name.lower() != "content-length"]
    if not any(name.lower() == "host" for name, _ in pairs):
        lines.append(_line("host", f"{event.lane.function}.{event.lane.namespace}"))
    lines.append(_line(wire.REQUEST_ID, event.id))
    first = f"{method} {target} HTTP/1.1\r\n".encode("latin-1")
    head = first + b"".join(lines) + b"content-length: %d\r\n\r\n" % len(event.payload)
    return Request(lambda _: head, event.payload, idempotent=method in _IDEMPOTENT, is_head=method == "HEAD")


def _line(name: str, value: str) -> bytes:
    if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
        raise UnreadableEvent(f"{name[:64]!r}: {value[:64]!r} is not a header")
    return f"{name}: {value}\r\n".encode("latin-1")
