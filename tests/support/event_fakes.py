"""Stand-ins for what the gateway's events work with: a queue in memory, a clock, and runs that a test scripts."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane, Record, Status
from kappa_core.function import Function
from kappa_gateway.pods.functions import Functions
from kappa_gateway.queue.protocol import EventLease, LaneState

LANE = Lane(Kind.INVOCATION, "default", "hello")
NOW = 1_000_000.0
"""Seconds since the epoch, when a test begins."""


class Clock:
    """Of a test: `clock()` gives the time, and `sleep` takes none."""

    def __init__(self, now: float = NOW) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@dataclass
class FakeQueue:
    """Notes what is done to it in `log`. `fail[name]` holds the errors that the next calls of a method raise."""

    max_event_bytes: int | None = None
    lease_seconds: float = 30.0
    available: bool = True
    log: list[tuple[Any, ...]] = field(default_factory=list)
    known: dict[str, Record] = field(default_factory=dict)
    """Records, by the event's id."""
    dead: dict[str, DeadEvent] = field(default_factory=dict)
    waiting: list[EventLease] = field(default_factory=list)
    """What `receive` gives."""
    states: list[LaneState] = field(default_factory=list)
    duplicates: set[str] = field(default_factory=set)
    lost_leases: set[str] = field(default_factory=set)
    fail: dict[str, list[Exception]] = field(default_factory=dict)
    before_save: Callable[[Record], Awaitable[None]] | None = None

    def _note(self, name: str, *what: Any) -> None:
        if self.fail.get(name):
            raise self.fail[name].pop(0)
        self.log.append((name, *what))

    async def enqueue(self, event: Event) -> bool:
        self._note("enqueue", event.id)
        return event.id not in self.duplicates

    async def receive(self, lane: Lane, count: int, wait: float) -> list[EventLease]:
        self._note("receive", count)
        given, self.waiting = self.waiting[:count], self.waiting[count:]
        return given

    async def extend(self, leases: Any) -> None:
        self._note("extend", [lease.event.id for lease in leases])

    def may_attempt(self, lease: EventLease) -> bool:
        return lease.event.id not in self.lost_leases

    async def ack(self, lease: EventLease) -> None:
        self._note("ack")

    async def nack(self, lease: EventLease, delay: float) -> None:
        self._note("nack", delay)

    async def lanes(self) -> list[LaneState]:
        self._note("lanes")
        return self.states

    async def drop_lane(self, lane: Lane) -> None:
        self._note("drop_lane", lane)

    async def save_record(self, record: Record) -> None:
        if self.before_save is not None:
            await self.before_save(record)
        self._note("save_record", record.status)
        self.known[record.id] = record

    async def record(self, namespace: str, function: str, event_id: str) -> Record | None:
        self._note("record")
        return self.known.get(event_id)

    async def dead_letter(self, dead: DeadEvent) -> None:
        self._note("dead_letter", dead.condition)
        self.dead[dead.event.id] = dead

    async def dead_event(self, namespace: str, function: str, event_id: str) -> DeadEvent | None:
        return self.dead.get(event_id)

    async def dead_events(
        self, namespace: str, function: str, *, limit: int, until: float | None = None
    ) -> list[DeadEvent]:
        return [dead for dead in self.dead.values() if until is None or dead.died_at <= until][:limit]

    async def delete_dead_event(self, namespace: str, function: str, event_id: str) -> bool:
        self._note("delete_dead_event", event_id)
        return self.dead.pop(event_id, None) is not None

    async def purge(self, lane: Lane) -> int:
        self._note("purge", lane)
        return 3


class FakeHolding:
    """The account of one event that a run sees: notes what it is given."""

    def __init__(self) -> None:
        self.log: list[tuple[Any, ...]] = []

    def placed(self, placed: bool) -> None:
        self.log.append(("placed", placed))

    def hold(self, size: int) -> None:
        self.log.append(("hold", size))

    def attempted(self, *, available: bool) -> None:
        self.log.append(("attempted", available))

    def due_in(self, delay: float) -> None:
        self.log.append(("due_in", delay))


def make_manifest(name: str = "hello", namespace: str = "default", **spec: Any) -> Function:
    base: dict[str, Any] = {
        "runtime": "python3.13",
        "handler": "main.handler",
        "code": {"inline": "def handler(event, context):\n    return event\n"},
    }
    if "image" in spec.get("code", {}):
        base = {}
    return Function.model_validate(
        {"metadata": {"name": name, "namespace": namespace, "generation": 1}, "spec": {**base, **spec}}
    )


def make_functions(*manifests: Function) -> Functions:
    functions = Functions()
    for manifest in manifests or (make_manifest(),):
        functions.put(manifest)
    functions.synced.set()
    return functions


def make_event(event_id: str = "one", payload: bytes = b"{}", *, lane: Lane = LANE, age: float = 0.0) -> Event:
    return Event(event_id, lane, payload, NOW - age)


def make_lease(event: Event | None = None, *, receive_count: int = 1, **more: Any) -> EventLease:
    fields = {"fresh": receive_count == 1, "waiting": 0, **more}
    return EventLease(event or make_event(), receive_count, **fields)


def make_record(event_id: str = "one", status: Status = Status.RETRYING, **more: Any) -> Record:
    fields = {"received_at": NOW, "updated_at": NOW, **more}
    return Record(LANE.namespace, LANE.function, event_id, status, **fields)


def make_dead(event: Event | None = None, condition: Condition = Condition.RETRIES_EXHAUSTED) -> DeadEvent:
    return DeadEvent(event or make_event(), condition, 3, {"errorType": "E", "errorMessage": "m"}, NOW)
