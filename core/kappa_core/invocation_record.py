"""The invocation record: Lambda's JSON about how an event ended, for destinations.

https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html
"""

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NoReturn

from kappa_core.event import Condition, Event
from kappa_core.function_name import LATEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an event ended, for its invocation record."""

    condition: Condition
    attempts: int
    """How often the function ran."""
    ended_at: float
    """Seconds since the epoch."""
    response: bytes | None = None
    """The function's last answer, which may be its error JSON; None: it never answered."""
    response_size: int = 0
    """Bytes of the whole answer if `response` is only its beginning. The record leaves such an answer out."""
    function_error: str | None = None
    """`Unhandled` or `Handled` if the answer is an error."""
    status_code: int = 200
    """200 whenever a function answered, even with an error; for `protocol: http` the web server's own status."""


def record(
    event: Event,
    ending: Ending,
    *,
    arn: str,
    max_bytes: int | None = None,
    request_is_json: bool | None = None,
    response_is_json: bool | None = None,
) -> bytes:
    """Lambda's record as UTF-8 JSON.

    It has `responseContext` and `responsePayload` only if the function answered. A payload that is JSON is embedded
    byte for byte, so no number loses digits. Any other payload is embedded as a string, and an empty one as null. Two
    things that Lambda's record cannot express are in the field `kappa`, which is absent otherwise:

    - `kappa.base64`: the names of payloads that are not text and are therefore base64 strings;
    - `kappa.omitted`: name → size in bytes of payloads that were left out, because the record would exceed `max_bytes`
      (the larger payload goes first), or because the gateway has only the beginning of one.
    """
    parts = {
        "version": '"1.0"',
        "timestamp": json.dumps(timestamp(ending.ended_at)),
        "requestContext": json.dumps(
            {
                "requestId": event.id,
                "functionArn": f"{arn}:{LATEST}",
                "condition": ending.condition.value,
                "approximateInvokeCount": ending.attempts,
            }
        ),
    }
    encoded: list[str] = []
    omitted: dict[str, int] = {}
    sizes = {"requestPayload": len(event.payload)}
    parts["requestPayload"] = _embedded("requestPayload", event.payload, request_is_json, encoded)
    if ending.response is not None:
        context: dict[str, int | str] = {"statusCode": ending.status_code, "executedVersion": LATEST}
        if ending.function_error is not None:
            context["functionError"] = ending.function_error
        parts["responseContext"] = json.dumps(context)
        sizes["responsePayload"] = max(len(ending.response), ending.response_size)
        if ending.response_size > len(ending.response):
            omitted["responsePayload"] = ending.response_size
        else:
            parts["responsePayload"] = _embedded("responsePayload", ending.response, response_is_json, encoded)
    text = _joined(parts, encoded, omitted)
    for name in sorted(sizes.keys() - omitted.keys(), key=lambda name: -sizes[name]):
        if max_bytes is None or len(text) <= max_bytes:
            break
        omitted[name] = sizes[name]
        del parts[name]
        text = _joined(parts, [other for other in encoded if other not in omitted], omitted)
    return text


def _joined(parts: dict[str, str], encoded: list[str], omitted: dict[str, int]) -> bytes:
    extras = {name: value for name, value in (("base64", encoded), ("omitted", omitted)) if value}
    texts = parts | ({"kappa": json.dumps(extras)} if extras else {})
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}").encode()


def _embedded(name: str, payload: bytes, known: bool | None, encoded: list[str]) -> str:
    """A payload as JSON text. Adds its name to `encoded` if it is base64."""
    if not payload.strip(b" \t\r\n"):
        return "null"
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        encoded.append(name)
        return json.dumps(base64.b64encode(payload).decode())
    return (
        text.strip(" \t\r\n") if (is_json(text) if known is None else known) else json.dumps(text, ensure_ascii=False)
    )


def is_json(text: str) -> bool:
    """Whether this is one JSON value by RFC 8259. NaN and Infinity, which Python accepts, are not."""
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers stay text: nothing reads them, and Python refuses very long ones.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str)


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds, as in `2026-11-23T14:05:09.250Z`."""
    moment = datetime.fromtimestamp(round(seconds * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
