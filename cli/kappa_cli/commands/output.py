"""What commands print: messages, tables, ages and errors, as a person reads them."""

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

import typer

_UNITS = (("d", 86400, "h", 3600), ("h", 3600, "m", 60), ("m", 60, "s", 1))


def fail(message: str, code: int, *, prefix: str = "kappa: ") -> NoReturn:
    """Print the message on stderr and end the command with this exit status."""
    print(f"{prefix}{message}", file=sys.stderr)
    raise typer.Exit(code)


def print_json(value: Any) -> None:  # Any: JSON
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def block(label: str, text: str) -> list[tuple[str, str]]:
    """Table rows for text of several lines; the label stands in the first."""
    lines = text.split("\n")
    return [(label if number == 0 else "", line) for number, line in enumerate(lines)]


def error_text(error: Mapping[str, Any]) -> str:  # Any: JSON
    """`ValueError: no such order`; the JSON itself where it is not Lambda's."""
    kind, message = error.get("errorType"), error.get("errorMessage")
    return f"{kind or 'Error'}: {message}" if message is not None else json.dumps(error, ensure_ascii=False)


def age(stamp: str, now: float) -> str:
    """How long ago an ISO 8601 time is; `now` is seconds since the epoch."""
    return short(max(now - datetime.fromisoformat(stamp).timestamp(), 0.0))


def due(stamp: str, now: float) -> str:
    left = datetime.fromisoformat(stamp).timestamp() - now
    return f"again in {short(left)}" if left > 0 else "again now"


def short(seconds: float) -> str:
    """A duration in at most two units, as kubectl prints ages: `45s`, `3m20s`, `26h`."""
    whole = int(seconds)
    for unit, size, lower, lower_size in _UNITS:
        if whole >= 2 * size:
            count, rest = divmod(whole, size)
            second = f"{rest // lower_size}{lower}" if count < 10 and rest >= lower_size else ""
            return f"{count}{unit}{second}"
    return f"{whole}s"
