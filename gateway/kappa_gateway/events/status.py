"""What became of events, as far as the queue knows: for the status API, whichever gateway is asked.

An event that is in its lane has not ended. Otherwise its final record says how it ended, for `result_retention`; the
dead letter keeps one that failed for longer. That a function *runs* an event is known from the record that is saved of
runs that take longer than a second. If its gateway crashes, that record remains until another gateway has received the
event.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane, Record, Status, derived_id
from kappa_core.invocation_record import is_json, timestamp
from kappa_gateway.queue.protocol import Queue

REDRIVE_OF: Final = "redrive-of"
"""The attribute of a redriven event that names the one it was."""
MEMORY: Final = 32 * 1024 * 1024
"""Bytes of events and results that a listing may read at a time, about."""
PAGE: Final = 16
"""Events that are read at a time: of 1 MiB each they are 16 MiB."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What the API reports of one event. Times are seconds since the epoch."""

    id: str
    status: Status
    received_at: float
    updated_at: float
    attempts: int = 0
    next_attempt: float | None = None
    result: str | None = None
    result_truncated: bool = False
    error: dict[str, Any] | None = None
    dead_letter: bool = False
    delivery: bool = False
    """It is a record on its way to a destination, not an invocation."""
    redrive_of: str | None = None
    redriven_as: str | None = None

    def encode(self, *, with_result: bool) -> bytes:
        """JSON in the API's names. The result goes in as it is where it is JSON, else as a string."""
        fields: dict[str, Any] = {
            "requestId": self.id,
            "status": self.status.value,
            "attempts": self.attempts,
            "nextAttempt": _time(self.next_attempt),
            "receivedAt": _time(self.received_at),
            "updatedAt": _time(self.updated_at),
            "error": self.error,
            "deadLetter": self.dead_letter,
        }
        if self.delivery:
            fields["delivery"] = True
        if self.redrive_of is not None:
            fields["redriveOf"] = self.redrive_of
        if self.redriven_as is not None:
            fields["redrivenAs"] = self.redriven_as
        if not with_result:
            return json.dumps(fields).encode()
        fields["resultTruncated"] = self.result_truncated
        result = self.result
        if result is None:
            text = "null"
        elif self.result_truncated or not is_json(result):
            text = json.dumps(result)
        else:
            text = result
        return f'{json.dumps(fields)[:-1]}, "result": {text}}}'.encode()


async def find(queue: Queue, namespace: str, function: str, request_id: str) -> Entry | None:
    """None: nothing is known of it, or no longer. Raises `QueueUnavailable`."""
    lane = Lane(Kind.INVOCATION, namespace, function)
    # in this order: an event that leaves its lane has its final record already
    event = await queue.find(lane, request_id)
    record = await queue.record(namespace, function, request_id)
    if event is not None and not _is_of(record, event, final=True):
        return _waiting(event, record)
    if record is not None and record.status is Status.SUCCEEDED:
        return _ended(record)
    dead = await queue.dead_event(namespace, function, request_id)
    if record is not None and record.status.final:
        successor = None if dead is not None else await _successor(queue, lane, request_id)
        return _ended(record, dead=dead is not None, redriven_as=successor)
    return _dead(dead) if dead is not None else None


async def newest(queue: Queue, namespace: str, function: str, *, status: Status | None, limit: int) -> list[Entry]:
    """Those that wait or run (the oldest of them, if they are many), and those that ended, newest first."""
    lane = Lane(Kind.INVOCATION, namespace, function)
    # in the order of an event's life: what moves on meanwhile is seen at its next station
    waiting = [] if status is not None and status.final else await _in_lane(queue, lane)
    records = await affordable(lambda count: queue.records(namespace, function, limit=count), MOST, _size_of)
    dead_events: list[DeadEvent] = []
    if status is None or status.final:
        # they are kept for longer than their records
        dead_events = await affordable(
            lambda count: queue.dead_events(namespace, function, limit=count),
            limit if status is None else MOST,
            _size_of_dead,
        )
    found = {dead.event.id: _dead(dead) for dead in dead_events}
    found |= {record.id: _ended(record, dead=record.id in found) for record in records if record.status.final}
    by_id = {record.id: record for record in records}
    found |= {
        event.id: _waiting(event, by_id.get(event.id))
        for event in waiting
        if not _is_of(by_id.get(event.id), event, final=True)
    }
    wanted = [entry for entry in found.values() if status in (None, entry.status)]
    return sorted(wanted, key=lambda entry: (-entry.received_at, entry.id))[:limit]


async def _in_lane(queue: Queue, lane: Lane) -> list[Event]:
    """Without their payloads; the oldest `MOST` of them, or fewer if they are large."""
    found: list[Event] = []
    size, page_size = 0, PAGE
    while len(found) < MOST and size < MEMORY:
        page = await queue.events(lane, limit=page_size, after=found[-1].id if found else None)
        size += sum(len(event.payload) for event in page)
        found += [replace(event, payload=b"") for event in page]
        if len(page) < page_size:
            break
        page_size = max(PAGE, min(MOST - len(found), MEMORY * len(found) // (8 * (size + 1))))
    return found


MOST: Final = 1000
"""Records and waiting events that are looked through."""
FIRST: Final = 32


async def affordable(fetch: Callable[[int], Awaitable[list[T]]], limit: int, size: Callable[[T], int]) -> list[T]:
    """Up to `limit` of what `fetch(count)` gives; fewer if the first ones are so large that all would not fit."""
    found = await fetch(min(limit, FIRST))
    if limit <= FIRST or len(found) < FIRST:
        return found
    typical = max(sum(map(size, found)) // len(found), 1)
    more = min(limit, MEMORY // typical)
    return found if more <= FIRST else await fetch(more)


async def _successor(queue: Queue, lane: Lane, request_id: str) -> str | None:
    """The id of its redrive, where that is known."""
    successor = redriven_id(request_id)
    found = await asyncio.gather(queue.find(lane, successor), queue.record(lane.namespace, lane.function, successor))
    return successor if any(found) else None


def redriven_id(request_id: str) -> str:
    """An event dies at most once under its id, so its redrive has one id too, however often it is asked for."""
    return derived_id(request_id, "redrive")


def _is_of(record: Record | None, event: Event, *, final: bool) -> bool:
    """Whether the record is this event's: a key that is used again much later gives the same id to another one."""
    return record is not None and record.status.final is final and record.received_at > event.received_at - 0.001


def _waiting(event: Event, record: Record | None) -> Entry:
    """An event that is in its lane."""
    entry = Entry(
        id=event.id,
        status=Status.QUEUED,
        received_at=event.received_at,
        updated_at=event.received_at,
        redrive_of=event.attributes.get(REDRIVE_OF),
    )
    if record is None or not _is_of(record, event, final=False):
        return entry
    return replace(
        entry,
        status=record.status,
        updated_at=record.updated_at,
        attempts=record.attempts,
        next_attempt=record.next_attempt,
        error=record.error,
    )


def _ended(record: Record, *, dead: bool = False, redriven_as: str | None = None) -> Entry:
    return Entry(
        id=record.id,
        status=record.status,
        received_at=record.received_at,
        updated_at=record.updated_at,
        attempts=record.attempts,
        result=record.result,
        result_truncated=record.result_truncated,
        error=record.error,
        dead_letter=dead,
        redriven_as=redriven_as,
    )


def _dead(dead: DeadEvent) -> Entry:
    return Entry(
        id=dead.event.id,
        status=_status_of(dead),
        received_at=dead.event.received_at,
        updated_at=dead.died_at,
        attempts=dead.attempts,
        error=dead.error,
        dead_letter=True,
        delivery=dead.event.lane.kind is Kind.DELIVERY,
        redrive_of=dead.event.attributes.get(REDRIVE_OF),
    )


def _status_of(dead: DeadEvent) -> Status:
    return Status.EXPIRED if dead.condition is Condition.EVENT_AGE_EXCEEDED else Status.FAILED


def _size_of(record: Record) -> int:
    return len(record.result or "") + 1024


def _size_of_dead(dead: DeadEvent) -> int:
    return len(dead.event.payload) + 1024


def _time(seconds: float | None) -> str | None:
    return timestamp(seconds) if seconds is not None else None
