"""Is a body JSON? Said without stopping the event loop, however large the body is.

`json.loads` takes a quarter of a second for 6 MB of small objects, and holds Python's lock for all of it. Small bodies
go through it; larger ones through a tokenizer that gives way every few thousand tokens.
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
_TOKENS_AT_A_TIME: Final = 4000

_TOKEN: Final = re.compile(
    r"""[ \t\n\r]*+(?:
      (?P<mark>[{}\[\],:])
    | (?P<string>"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")
    | (?P<scalar>-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?(?![\w.+-])|(?:true|false|null)(?!\w))
    | (?P<end>\Z)
    )""",
    re.VERBOSE,
)

# What may come next.
_VALUE, _VALUE_OR_CLOSE, _KEY, _KEY_OR_CLOSE, _COLON, _AFTER = range(6)


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
    match = _TOKEN.match
    while True:
        token = match(text, position)
        if token is None:
            raise ValueError(f"Unexpected character: line {text.count(chr(10), 0, position) + 1} (char {position})")
        position = token.end()
        count += 1
        if count % _TOKENS_AT_A_TIME == 0:
            yield position
        kind = token.lastgroup
        mark = token["mark"] if kind == "mark" else kind
        if state in (_VALUE, _VALUE_OR_CLOSE) and kind in ("string", "scalar"):
            state = _AFTER
        elif state in (_VALUE, _VALUE_OR_CLOSE) and mark in ("{", "["):
            stack.append(mark)
            state = _KEY_OR_CLOSE if mark == "{" else _VALUE_OR_CLOSE
            if len(stack) > MAX_DEPTH:
                raise ValueError(f"Nested deeper than {MAX_DEPTH} levels")
        elif state in (_KEY, _KEY_OR_CLOSE) and kind == "string":
            state = _COLON
        elif state == _COLON and mark == ":":
            state = _VALUE
        elif state == _AFTER and mark == "," and stack:
            state = _KEY if stack[-1] == "{" else _VALUE
        elif mark in ("}", "]") and stack and _closes(state, stack[-1], mark):
            stack.pop()
            state = _AFTER
        elif state == _AFTER and kind == "end" and not stack:
            return
        else:
            raise ValueError(f"Unexpected {mark}: line {text.count(chr(10), 0, position) + 1} (char {position})")


def _closes(state: int, opened: str, mark: str) -> bool:
    if opened == "{":
        return mark == "}" and state in (_AFTER, _KEY_OR_CLOSE)
    return mark == "]" and state in (_AFTER, _VALUE_OR_CLOSE)
