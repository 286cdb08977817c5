"""Is a body JSON? Said without stopping the event loop, however large the body is.

`json.loads` takes a quarter of a second for 6 MB of small objects, and holds Python's lock for all of it. Small bodies
go through it; larger ones through a tokenizer that gives way every hundred tokens.
"""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Final, NoReturn

from kappa_core.errors import InvalidRequestContent

AT_ONCE: Final = 64 * 1024
"""Bytes that are parsed in one go: 3 ms at worst."""
MAX_DEPTH: Final = 500
_TOKENS_AT_A_TIME: Final = 50

_WS: Final = r"[ \t\n\r]*+"
_STRING: Final = r'"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+"'
_SCALAR: Final = r"(?:-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+(?![\w.+-])|(?:true|false|null)(?!\w))"
_ATOM: Final = f"(?:{_STRING}|{_SCALAR})"


def _few(item: str) -> str:
    """A short list of these, separated by commas."""
    return f"{_WS}(?:{item}{_WS}(?:,{_WS}{item}{_WS}){{0,20}}+)?+"


def _or_containers(item: str) -> str:
    """One of these, or a small array or object of them."""
    return f"(?:{item}|\\[{_few(item)}\\]|\\{{{_few(f'{_STRING}{_WS}:{_WS}{item}')}\\}})"


# Small values of up to three levels are taken in one go: most of a large body is such leaves.
_SMALL: Final = _or_containers(_or_containers(_ATOM))
_TOKEN: Final = re.compile(f"{_WS}(?:(?P<value>{_SMALL})|(?P<mark>[{{}}\\[\\],:])|(?P<end>\\Z))")
_KEY_TOKEN: Final = re.compile(f"{_WS}(?P<value>{_STRING}){_WS}:")
_MORE: Final = {
    "[": re.compile(f"(?:{_WS},{_WS}{_SMALL}){{1,20}}+"),
    "{": re.compile(f"(?:{_WS},{_WS}{_STRING}{_WS}:{_WS}{_SMALL}){{1,20}}+"),
}
"""By the container that is open: further small values in it."""

# What may come next.
_VALUE, _VALUE_OR_CLOSE, _KEY, _KEY_OR_CLOSE, _AFTER = range(5)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


_decoder: Final = json.JSONDecoder(parse_constant=_no_constant)


async def check(payload: bytes) -> None:
    """Raises `InvalidRequestContent` if this is no JSON text (RFC 8259, UTF-8)."""
    try:
        text = payload.decode()
        if len(payload) <= AT_ONCE:
            _decoder.decode(text)
            return
        for _ in scan(text):
            await asyncio.sleep(0)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContent(f"Could not parse request body into json: {error}") from None


def scan(text: str) -> Iterator[int]:
    """Go through the tokens; yields the position every now and then. Raises `ValueError` where it is no JSON."""
    position, count = 0, 0
    stack: list[str] = []
    state = _VALUE
    while True:
        if state == _AFTER and stack and (more := _MORE[stack[-1]].match(text, position)):
            position = more.end()
        token = (_KEY_TOKEN.match(text, position) if state in (_KEY, _KEY_OR_CLOSE) else None) or _TOKEN.match(
            text, position
        )
        if token is None:
            raise _unexpected("character", text, position)
        count += 1
        if count % _TOKENS_AT_A_TIME == 0:
            yield position
        kind = token.lastgroup
        mark = token["mark"] if kind == "mark" else None
        if state in (_KEY, _KEY_OR_CLOSE) and token.re is _KEY_TOKEN:
            state = _VALUE
        elif state in (_VALUE, _VALUE_OR_CLOSE) and kind == "value":
            state = _AFTER
        elif state in (_VALUE, _VALUE_OR_CLOSE) and mark in ("{", "["):
            stack.append(mark)
            state = _KEY_OR_CLOSE if mark == "{" else _VALUE_OR_CLOSE
            if len(stack) > MAX_DEPTH:
                raise ValueError(f"Nested deeper than {MAX_DEPTH} levels")
        elif state == _AFTER and mark == "," and stack:
            state = _KEY if stack[-1] == "{" else _VALUE
        elif mark in ("}", "]") and stack and _closes(state, stack[-1], mark):
            stack.pop()
            state = _AFTER
        elif state == _AFTER and kind == "end" and not stack:
            return
        else:
            raise _unexpected("end" if kind == "end" else repr(mark or kind), text, position)
        position = token.end()


def _unexpected(what: str, text: str, position: int) -> ValueError:
    return ValueError(f"Unexpected {what}: line {text.count(chr(10), 0, position) + 1} (char {position})")


def _closes(state: int, opened: str, mark: str) -> bool:
    if opened == "{":
        return mark == "}" and state in (_AFTER, _KEY_OR_CLOSE)
    return mark == "]" and state in (_AFTER, _VALUE_OR_CLOSE)
