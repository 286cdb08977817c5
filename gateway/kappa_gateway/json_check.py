"""Is a body JSON? The gateway passes payloads on as bytes, so it needs the verdict and never the value.

msgspec skips over a text without building objects. With the look at the depth, 6 MB of small objects take 75 ms here
(`json.loads`: 450 ms). Both hold Python's lock, so a thread would not keep the event loop free.
"""

import re
import sys
from typing import Final

import msgspec

from kappa_core.errors import InvalidRequestContent

MAX_DEPTH: Final = 1000
"""Levels of arrays and objects. Python versions differ in how deep they can go, so the limit is our own."""
_TOO_DEEP: Final = f"it is nested deeper than {MAX_DEPTH} levels"
_SURROGATE: Final = re.compile(rb"\\u[dD][89a-fA-F]")
_TO_SQUARE: Final = bytes.maketrans(b"{}", b"[]")
_NEITHER_BRACKETS_NOR_QUOTES: Final = bytes(set(range(256)) - set(b'[]{}"'))
_DOWN_AND_UP: Final = re.compile(rb"(\[+)(\]*)")
_INNERMOST: Final = 2
"""Levels that are removed before the rest is counted: of a wide and shallow text, little is left."""


def check(payload: bytes) -> None:
    """Raises `InvalidRequestContent` if this is not a JSON text (RFC 8259, UTF-8), or is nested deeper than
    `MAX_DEPTH`."""
    try:
        payload.decode()  # msgspec does not look at the bytes of strings
        try:
            _skip(payload)
        except RecursionError:
            if not _is_too_deep(payload):
                _skip_deep(payload)
        if _is_too_deep(payload):
            raise ValueError(_TOO_DEEP)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContent(f"Could not parse request body into json: {error}") from None


def is_json(payload: bytes) -> bool:
    """Whether `check` accepts it."""
    try:
        check(payload)
    except InvalidRequestContent:
        return False
    return True


def _skip(payload: bytes) -> None:
    """Raises `msgspec.DecodeError`, a `ValueError`, and `RecursionError`."""
    try:
        msgspec.json.decode(payload, type=msgspec.Raw)
    except msgspec.DecodeError:
        # msgspec refuses `\uD800` without its other half, which RFC 8259 allows. Other digits do not change the
        # verdict.
        without, found = _SURROGATE.subn(rb"\\u00", payload)
        if not found:
            raise
        msgspec.json.decode(without, type=msgspec.Raw)


def _skip_deep(payload: bytes) -> None:
    """Python 3.11 has one limit, 1,000 by default, for its own calls and those in C: some of it is in use already."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + MAX_DEPTH)
    try:
        _skip(payload)
    finally:
        sys.setrecursionlimit(limit)


def _is_too_deep(payload: bytes) -> bool:
    """Exact for JSON texts; for others an estimate."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return False
    if b"\\" in payload:
        payload = payload.replace(rb"\\", b"").replace(rb"\"", b"")
    # Adjacent quotes can go in pairs: what is left stays inside or outside of strings, as it was.
    marks = payload.translate(_TO_SQUARE, _NEITHER_BRACKETS_NOR_QUOTES).replace(b'""', b"")
    brackets = b"".join(marks.split(b'"')[::2])
    for _ in range(_INNERMOST):
        brackets = brackets.replace(b"[]", b"")
    depth = deepest = 0
    for down, up in _DOWN_AND_UP.findall(brackets):
        depth += len(down)
        deepest = max(deepest, depth)
        depth -= len(up)
    return deepest + _INNERMOST > MAX_DEPTH
