"""Destinations without I/O: the events that carry the invocation record of an event that ended to its destinations.

| destination | event |
| --- | --- |
| a Function | an invocation in its lane, with the record as payload; a web server gets a CloudEvent by `POST /` |
| a NATS subject, a web address | a delivery in the lane `DELIVERY` of the Function whose event ended |

Ids are derived from the first event's. So if a gateway dies while it does this, and another repeats it, nothing is
enqueued twice.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from kappa_core import wire
from kappa_core.event import (
    HTTP_HEADERS,
    HTTP_METHOD,
    HTTP_TARGET,
    Condition,
    DeadEvent,
    Event,
    Kind,
    Lane,
    derived_id,
)
from kappa_core.function import Destination, Function
from kappa_core.invocation_record import Ending as Ending
from kappa_core.invocation_record import record, timestamp

MAX_HOPS: Final = 16
"""The longest chain of Functions that are invoked as each other's destination. Lambda stops loops at about this number
too."""

MAX_RECORD_BYTES: Final = wire.MAX_REQUEST_BYTES
"""A Function takes no larger payload. Without a limit, a chain of functions that return their input would double the
record each time."""

# Attributes of the events that this module makes.
HOPS: Final = "hops"
"""On an invocation: the number of destinations that led to it. Absent if a caller invoked the function. Pods do not get
it."""
DESTINATION: Final = "destination"
"""On a delivery: the destination in the manifest, as JSON such as `{"http": {"url": "https://example.com/hook"}}`."""
PURPOSE: Final = "purpose"
"""On both: the field of `spec.async` that asked for it: `onSuccess`, `onFailure` or `deadLetter`."""
CONDITION: Final = "condition"
"""On a delivery, like the next two: the value in the record."""
REQUEST_ID: Final = "request-id"
TIMESTAMP: Final = "timestamp"
MESSAGE_ID: Final = "message-id"
"""The record's id for the destination. A redrive changes the delivery's own id, but not this one."""

TYPE_SUCCEEDED: Final = "run.kappa.event.succeeded"
TYPE_FAILED: Final = "run.kappa.event.failed"
"""The CloudEvents' `type`."""


class DestinationKind(StrEnum):
    """The label `destination`."""

    FUNCTION = "function"
    NATS = "nats"
    HTTP = "http"


@dataclass(frozen=True, slots=True)
class FollowUps:
    events: list[Event] = field(default_factory=list)
    """To enqueue, each in its lane."""
    cut: list[DeadEvent] = field(default_factory=list)
    """To dead-letter instead: their chain of destinations is longer than `MAX_HOPS`."""


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
    """The events to enqueue, and to dead-letter, because an event ended; none if it was a delivery.

    `arn` is the Function's, unqualified. `max_bytes` is the queue's limit for an event. `request_is_json` and
    `response_is_json` save parsing the payloads, which takes up to a quarter of a second; None: this function parses.
    """
    if event.lane.kind is Kind.DELIVERY:
        return FollowUps()
    wanted = list(_wanted(function, ending.condition))
    if not wanted:
        return FollowUps()
    limit = MAX_RECORD_BYTES if max_bytes is None else min(max_bytes, MAX_RECORD_BYTES)
    payload = record(
        event, ending, arn=arn, max_bytes=limit, request_is_json=request_is_json, response_is_json=response_is_json
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
    """(field name in the manifest, destination) of each destination that gets a record with this condition."""
    spec = function.spec.async_
    choices: list[tuple[str, Destination | None]] = (
        [("onSuccess", spec.on_success)]
        if condition is Condition.SUCCESS
        else [("onFailure", spec.on_failure), ("deadLetter", spec.dead_letter)]
    )
    return ((purpose, destination) for purpose, destination in choices if destination is not None)


def _follow_up(event: Event, ending: Ending, payload: bytes, purpose: str, destination: Destination) -> Event:
    # A redriven event keeps its id and gets a new time. What follows from its second end is not a repetition.
    follower_id = derived_id(event.id, f"{purpose} {round(event.received_at * 1000)}")
    attributes = {
        PURPOSE: purpose,
        CONDITION: ending.condition.value,
        REQUEST_ID: event.id,
        TIMESTAMP: timestamp(ending.ended_at),
        MESSAGE_ID: follower_id,
    }
    lane = Lane(Kind.DELIVERY, event.lane.namespace, event.lane.function)
    follower = Event(follower_id, lane, payload, ending.ended_at, attributes, keyed=True)
    if destination.function is None:
        attributes[DESTINATION] = _as_json(destination)
        return follower
    headers = [[name, value] for name, value in cloud_event_headers(follower).items()]
    asked = {HOPS: str(hops(event) + 1), PURPOSE: purpose, HTTP_METHOD: "POST", HTTP_TARGET: "/"}
    asked[HTTP_HEADERS] = json.dumps(headers, separators=(",", ":"))
    asked |= {name: value for name, value in event.attributes.items() if name.lower() == wire.TRACE_ID.lower()}
    return replace(follower, lane=Lane(Kind.INVOCATION, lane.namespace, destination.function.name), attributes=asked)


def message_id(delivery: Event) -> str:
    """The id by which destinations recognize repetitions."""
    return delivery.attributes.get(MESSAGE_ID, delivery.id)


def cloud_event_headers(delivery: Event) -> dict[str, str]:
    """The HTTP (or NATS) headers of the record as a CloudEvent 1.0 in binary mode: the payload is its data.

    https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md. Every value is ASCII
    without spaces, so nothing needs escaping.
    """
    given = delivery.attributes
    succeeded = given.get(CONDITION) == Condition.SUCCESS
    return {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": message_id(delivery),
        "ce-source": f"/v1/namespaces/{delivery.lane.namespace}/functions/{delivery.lane.function}",
        "ce-type": TYPE_SUCCEEDED if succeeded else TYPE_FAILED,
        "ce-subject": given.get(REQUEST_ID, ""),
        "ce-time": given.get(TIMESTAMP, ""),
    }


def for_redrive(event: Event, function: Function | None) -> Event:
    """A dead-lettered event as a redrive enqueues it.

    A delivery goes to the destination that its Function names *now*, since somebody may have corrected it. It keeps the
    old one if the Function is gone, no longer has that destination, or names a Function there. An invocation begins a
    new chain of destinations.
    """
    if event.lane.kind is Kind.INVOCATION:
        return replace(event, attributes={name: value for name, value in event.attributes.items() if name != HOPS})
    if function is None:
        return event
    spec = function.spec.async_
    now = {"onSuccess": spec.on_success, "onFailure": spec.on_failure, "deadLetter": spec.dead_letter}
    destination = now.get(event.attributes.get(PURPOSE, ""))
    if destination is None or destination.function is not None:
        return event
    return replace(event, attributes=event.attributes | {DESTINATION: _as_json(destination)})


def _as_json(destination: Destination) -> str:
    return json.dumps(destination.model_dump(mode="json", by_alias=True, exclude_none=True))


def _cut(follower: Event, now: float) -> DeadEvent:
    message = (
        f"{MAX_HOPS} Functions were invoked in a row as each other's destination, which is probably a loop."
        f" Look at spec.async of {follower.lane.namespace}/{follower.lane.function},"
        " and of the Functions whose destination it is"
    )
    error = {"errorType": "Kappa.RecursiveInvocation", "errorMessage": message}
    return DeadEvent(follower, Condition.RECURSIVE_INVOCATION, 0, error, now)


def hops(event: Event) -> int:
    """The number of destinations that led to this invocation. A value that cannot be read counts as the maximum."""
    text = event.attributes.get(HOPS, "0")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 6 else MAX_HOPS


def kind_of(event: Event) -> DestinationKind:
    """The kind of a follow-up's destination. Raises `ValueError` if a delivery's destination cannot be read."""
    if event.lane.kind is Kind.INVOCATION:
        return DestinationKind.FUNCTION
    destination = destination_of(event)
    return DestinationKind.NATS if destination.nats is not None else DestinationKind.HTTP


def destination_of(delivery: Event) -> Destination:
    """A delivery's destination. Raises pydantic's `ValidationError`, a `ValueError`, if it cannot be read."""
    return Destination.model_validate_json(delivery.attributes.get(DESTINATION, "null"), extra="ignore")
