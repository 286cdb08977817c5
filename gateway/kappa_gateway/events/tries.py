"""How a try of an event ended: what the attempt tells the ending."""

import json
from dataclasses import dataclass
from typing import Any, Final

from kappa_core.event import Trouble

MAX_ERROR_BYTES: Final = 64 * 1024
"""Of a function's error JSON; the text of a longer one is cut. It is kept with the event, which may be retried often."""


@dataclass(slots=True)
class Tried:
    """Success without `trouble`; else `error` says what was wrong, as `{"errorType", "errorMessage", …}`."""

    trouble: Trouble | None = None
    reason: str = ""
    """`Outcome`'s word for the trouble."""
    response: bytes | None = None
    """What the function answered, well or not; None: it did not."""
    response_size: int = 0
    """Bytes; more than `response` has where only the beginning was kept."""
    status_code: int = 200
    function_error: str | None = None
    error: dict[str, Any] | None = None
    retry_after: float = 0.0
    """Seconds that a web server asked for."""
    uncertain: bool = False
    """Whether the function may have run, or may run still: its pods are to be asked before it is run again."""


class Unreadable(Exception):
    """The event is not one that can be run: another version's, or broken. The message says what is wrong with it."""


def error_of(body: bytes, function_error: str) -> dict[str, Any]:
    """A function's error as it is kept: its JSON, or its text where that is no object."""
    if len(body) <= MAX_ERROR_BYTES:
        try:
            found = json.loads(body)
            if isinstance(found, dict):
                return found
        except (ValueError, RecursionError):
            pass
    return {"errorType": function_error, "errorMessage": body[:MAX_ERROR_BYTES].decode("utf-8", "replace")}
