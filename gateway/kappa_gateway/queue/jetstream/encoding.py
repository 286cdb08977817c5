"""Events and dead events as NATS messages: the payload as it is, the rest as one JSON header in ASCII. Pure.

JSON keeps what NATS headers do not: text that is not ASCII, line breaks, and names that differ only by case.
"""

import json
from typing import Any, Final

from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane

EVENT_HEADER: Final = "Kappa-Event"
DEAD_HEADER: Final = "Kappa-Dead"
MESSAGE_ID: Final = "Nats-Msg-Id"
_HEAD: Final = len(b"NATS/1.0\r\n\r\n")
_ERROR_BYTES: Final = 16 * 1024
"""Of a dead event's error: more of it could make it larger than its event was allowed to be."""

_compact: Final = json.JSONEncoder(separators=(",", ":")).encode


def header_bytes(headers: dict[str, str]) -> int:
    """How many bytes they take on the wire; they count towards the server's `max_payload`."""
    return _HEAD + sum(len(name) + len(value.encode()) + 4 for name, value in headers.items())


def event_headers(event: Event, *, again: bool = False) -> dict[str, str]:
    """`again`: an earlier try to enqueue it may have succeeded, so a gateway may have run it already."""
    head: dict[str, Any] = {"at": event.received_at}
    if event.attributes:
        head["attributes"] = event.attributes
    if event.keyed:
        head["keyed"] = True
    if again:
        head["again"] = True
    return {MESSAGE_ID: event.id, EVENT_HEADER: _compact(head)}


def decode_event(lane: Lane, event_id: str, headers: dict[str, str] | None, payload: bytes) -> tuple[Event, bool]:
    """The event, and whether it was enqueued `again`. Raises `ValueError` for messages of others."""
    try:
        head = json.loads((headers or {})[EVENT_HEADER])
        return _event(lane, event_id, head, payload), bool(head.get("again"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"not an event: {error!r} in the message {event_id!r} of lane {lane}") from error


def _event(lane: Lane, event_id: str, head: dict[str, Any], payload: bytes) -> Event:
    return Event(
        id=event_id,
        lane=lane,
        payload=payload,
        received_at=float(head["at"]),
        attributes=dict(head.get("attributes", {})),
        keyed=bool(head.get("keyed", False)),
    )


def dead_headers(dead: DeadEvent) -> dict[str, str]:
    event, error = dead.event, _compact(dead.error)
    if len(error) > _ERROR_BYTES:
        error = _compact(
            {name: str(dead.error.get(name, ""))[:4096] for name in ("errorType", "errorMessage")} | {"truncated": True}
        )
    head = {
        "kind": event.lane.kind.value,
        "at": event.received_at,
        "attributes": event.attributes,
        "keyed": event.keyed,
        "condition": dead.condition.value,
        "attempts": dead.attempts,
        "died_at": dead.died_at,
    }
    return {DEAD_HEADER: f'{_compact(head)[:-1]},"error":{error}}}'}


def decode_dead(
    namespace: str, function: str, event_id: str, headers: dict[str, str] | None, payload: bytes
) -> DeadEvent:
    """Raises `ValueError` for messages of others."""
    try:
        head = json.loads((headers or {})[DEAD_HEADER])
        return DeadEvent(
            event=_event(Lane(Kind(head["kind"]), namespace, function), event_id, head, payload),
            condition=Condition(head["condition"]),
            attempts=int(head["attempts"]),
            error=dict(head["error"]),
            died_at=float(head["died_at"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"not a dead event: {error!r} in the message {event_id!r} of {namespace}/{function}"
        ) from error
