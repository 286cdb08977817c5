"""Destinations without I/O: Lambda's record of how an event ended, and the events that carry it where it is to go.

The record is Lambda's: https://docs.aws.amazon.com/lambda/latest/dg/invocation-async-retain-records.html

| it goes to | as |
| --- | --- |
| a Function | an invocation in that Function's lane, the record its event |
| a NATS subject, a web address | a delivery in the lane `DELIVERY` of the Function whose event ended |

Ids are derived, so that a gateway that does all of this a second time, because another one died over it, adds nothing.
"""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, NoReturn

from kappa_core import wire
from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane, derived_id
from kappa_core.function import Destination, Function
from kappa_core.function_name import LATEST

MAX_HOPS: Final = 16
"""So many Functions in a row may be invoked as each other's destination: Lambda cuts such loops at about this number too."""

# Attributes of the events that are made here.
HOPS: Final = "hops"
"""On an invocation: how many destinations led to it. Absent on one that a caller asked for. For Kappa, not for pods."""
DESTINATION: Final = "destination"
"""On a delivery: the manifest's destination, as JSON such as `{"http": {"url": "https://example.com/hook"}}`."""
PURPOSE: Final = "purpose"
"""On both: which field of `spec.async` asked for it: `onSuccess`, `onFailure` or `deadLetter`."""
CONDITION: Final = "condition"
"""On a delivery, as the next two: the record's."""
REQUEST_ID: Final = "request-id"
TIMESTAMP: Final = "timestamp"


class DestinationKind(StrEnum):
    """The label `destination`."""

    FUNCTION = "function"
    NATS = "nats"
    HTTP = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How an event ended, for its record."""

    condition: Condition
    attempts: int
    """How often the function ran."""
    ended_at: float
    """Seconds since the epoch."""
    response: bytes | None = None
    """What the function answered last, its error JSON if that is what it was; None: it never answered."""
    function_error: str | None = None
    """With an error as the answer: `Unhandled` or `Handled`."""
    status_code: int = 200
    """200 whenever a function answered, with an error too; a web server's own status for `protocol: http`."""


@dataclass(frozen=True, slots=True)
class FollowUps:
    events: list[Event] = field(default_factory=list)
    """To put, each into its lane."""
    cut: list[DeadEvent] = field(default_factory=list)
    """To bury instead: the chain of destinations that leads to them is longer than `MAX_HOPS`."""


def follow_ups(
    function: Function,
    event: Event,
    ending: Ending,
    *,
    arn: str,
    max_bytes: int | None = None,
    request_is_json: bool | None = None,
    response_is_json: bool | None = None,
) -> FollowUps:
    """What is to be put (and buried) because an event ended; nothing for a delivery's end.

    `arn` is the Function's, unqualified; `max_bytes` is the queue's limit on an event; whether the payloads are JSON is
    looked up where the caller does not know it yet (a quarter of a second for the largest: see `kappa_gateway.json_check`).
    """
    if event.lane.kind is Kind.DELIVERY:
        return FollowUps()
    wanted = list(_wanted(function, ending.condition))
    if not wanted:
        return FollowUps()
    payload = record(
        event, ending, arn=arn, max_bytes=max_bytes, request_is_json=request_is_json, response_is_json=response_is_json
    )
    found = FollowUps()
    for purpose, destination in wanted:
        follower = _follow_up(event, ending, payload, purpose, destination)
        if hops(follower) <= MAX_HOPS:
            found.events.append(follower)
        else:
            found.cut.append(_cut(follower, ending.ended_at))
    return found


def _wanted(function: Function, condition: Condition) -> Iterable[tuple[str, Destination]]:
    """(the field's name in the manifest, the destination), each that hears of such an end."""
    spec = function.spec.async_
    choices: list[tuple[str, Destination | None]] = (
        [("onSuccess", spec.on_success)]
        if condition is Condition.SUCCESS
        else [("onFailure", spec.on_failure), ("deadLetter", spec.dead_letter)]
    )
    return ((purpose, destination) for purpose, destination in choices if destination is not None)


def _follow_up(event: Event, ending: Ending, payload: bytes, purpose: str, destination: Destination) -> Event:
    # An event that is redriven keeps its id and gets another time: what follows from its second end is no repetition.
    follower_id = derived_id(event.id, f"{purpose} {round(event.received_at * 1000)}")
    if destination.function is not None:
        attributes = {HOPS: str(hops(event) + 1), PURPOSE: purpose}
        attributes |= {name: value for name, value in event.attributes.items() if name.lower() == wire.TRACE_ID.lower()}
        lane = Lane(Kind.INVOCATION, event.lane.namespace, destination.function.name)
    else:
        attributes = {
            DESTINATION: json.dumps(destination.model_dump(mode="json", by_alias=True, exclude_none=True)),
            PURPOSE: purpose,
            CONDITION: ending.condition.value,
            REQUEST_ID: event.id,
            TIMESTAMP: timestamp(ending.ended_at),
        }
        lane = Lane(Kind.DELIVERY, event.lane.namespace, event.lane.function)
    return Event(follower_id, lane, payload, ending.ended_at, attributes, keyed=True)


def _cut(follower: Event, now: float) -> DeadEvent:
    message = (
        f"{MAX_HOPS} Functions in a row were invoked as each other's destination, and this would be one more: a loop. "
        f"Look at spec.async of {follower.lane.namespace}/{follower.lane.function} and of the Functions whose destination it is"
    )
    error = {"errorType": "Kappa.RecursiveInvocation", "errorMessage": message}
    return DeadEvent(follower, Condition.RECURSIVE_INVOCATION, 0, error, now)


def hops(event: Event) -> int:
    """How many destinations led to this invocation; what cannot be read counts as a chain's end."""
    text = event.attributes.get(HOPS, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else MAX_HOPS


def kind_of(event: Event) -> DestinationKind:
    """Of a follow-up. Raises `ValueError` for a delivery whose destination cannot be read."""
    if event.lane.kind is Kind.INVOCATION:
        return DestinationKind.FUNCTION
    destination = destination_of(event)
    return DestinationKind.NATS if destination.nats is not None else DestinationKind.HTTP


def destination_of(delivery: Event) -> Destination:
    """Where a delivery goes. Raises `ValueError` (pydantic's) if that cannot be read."""
    return Destination.model_validate_json(delivery.attributes.get(DESTINATION, "null"), extra="ignore")


# -- the record


def record(
    event: Event,
    ending: Ending,
    *,
    arn: str,
    max_bytes: int | None = None,
    request_is_json: bool | None = None,
    response_is_json: bool | None = None,
) -> bytes:
    """Lambda's record as UTF-8 JSON, one line.

    `responseContext` and `responsePayload` are there only if the function answered. Payloads go in byte for byte where
    they are JSON, so no number loses digits; where they are not, as a string, and an empty one as null. What Lambda's
    record has no word for is under `kappa`, a field that is there only then:

    - `kappa.base64`: names of payloads that are no text either, and so are base64 in the string;
    - `kappa.omitted`: sizes in bytes of payloads that were left out, because with them the record would be over `max_bytes`.
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
    parts["requestPayload"] = _embedded("requestPayload", event.payload, request_is_json, encoded)
    if ending.response is not None:
        context: dict[str, int | str] = {"statusCode": ending.status_code, "executedVersion": LATEST}
        if ending.function_error is not None:
            context["functionError"] = ending.function_error
        parts["responseContext"] = json.dumps(context)
        parts["responsePayload"] = _embedded("responsePayload", ending.response, response_is_json, encoded)
    return _fitting(parts, encoded, max_bytes)


def _fitting(parts: dict[str, str], encoded: list[str], max_bytes: int | None) -> bytes:
    """The record, without the larger payload, or without both, if it does not fit otherwise."""
    text = _joined(parts, encoded, {})
    payloads = sorted((name for name in parts if name.endswith("Payload")), key=lambda name: -len(parts[name]))
    omitted: dict[str, int] = {}
    for name in payloads:
        if max_bytes is None or len(text) <= max_bytes:
            break
        omitted[name] = len(parts.pop(name).encode())
        text = _joined(parts, [other for other in encoded if other not in omitted], omitted)
    return text


def _joined(parts: dict[str, str], encoded: list[str], omitted: dict[str, int]) -> bytes:
    extras = {name: value for name, value in (("base64", encoded), ("omitted", omitted)) if value}
    texts = parts | ({"kappa": json.dumps(extras)} if extras else {})
    return ("{" + ", ".join(f'"{name}": {text}' for name, text in texts.items()) + "}").encode()


def _embedded(name: str, payload: bytes, known: bool | None, encoded: list[str]) -> str:
    """A payload as JSON text; adds its name to `encoded` if that is base64."""
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
    """Whether this is one JSON value, by RFC 8259: Python alone takes NaN and Infinity too."""
    try:
        _DECODER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# Numbers stay text: nobody looks at them, and Python would refuse very long ones.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant, parse_int=str, parse_float=str)


def timestamp(seconds: float) -> str:
    """ISO 8601 in UTC with milliseconds, as in `2026-11-23T14:05:09.250Z`."""
    moment = datetime.fromtimestamp(round(seconds * 1000) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
