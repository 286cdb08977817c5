"""For the queue's contract tests: queues to open, close and open again, and things to put into them."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane, Record, Status
from kappa_gateway.queue.factory import make_queue
from kappa_gateway.queue.protocol import EventLease, Queue
from kappa_gateway.settings import Settings

LANE = Lane(Kind.INVOCATION, "default", "resize")
OTHER_LANE = Lane(Kind.INVOCATION, "default", "mail")
LONG = 30.0
"""Seconds to wait for what must come: far more than it takes."""


class Clock:
    """The time of day, and the time that a test skipped. Leases that a test skips can be so long that no slow machine
    lets them expire."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def __call__(self) -> float:
        return time.time() + self.skipped


@dataclass(frozen=True)
class Backend:
    """Where a test's own, empty queue is. Adapters differ in this alone."""

    name: str
    options: dict[str, Any]
    """Settings by name that lead there."""
    shared: bool
    """Whether several gateways may use it together."""
    clock: Clock | None = None
    """None: the queue's server has its own clock."""


def make(options: dict[str, Any], settings: dict[str, Any], clock: Clock | None = None) -> Queue:
    """Not open yet. `settings` may be shorter times than users can set."""
    queue = make_queue(Settings(**options).model_copy(update=settings), clock or time.time)
    assert queue is not None
    return queue


@dataclass
class Queues:
    """Opens the test's queue, with the settings that the test wants; each `open` is another gateway."""

    backend: Backend
    _open: list[Queue] = field(default_factory=list)

    def make(self, **settings: Any) -> Queue:
        return make(self.backend.options, settings, self.backend.clock)

    async def open(self, **settings: Any) -> Queue:
        queue = self.make(**settings)
        await queue.open()
        self._open.append(queue)
        deadline = time.monotonic() + LONG
        while not queue.available:
            assert time.monotonic() < deadline, "the queue did not become available"
            await asyncio.sleep(0.005)
        return queue

    def seconds(self, server: float) -> float:
        """The length of a time that a test waits for: `server`, where the queue's server has its own clock."""
        return server if self.backend.clock is None else 600.0

    def now(self) -> float:
        """The queue's time, in seconds."""
        return (self.backend.clock or time.time)()

    def skip(self, seconds: float) -> None:
        """Let so much time pass. A server's clock cannot be moved: there, what follows must wait for its condition."""
        if self.backend.clock is not None:
            self.backend.clock.skipped += seconds

    async def not_before(self, seconds: float, early: Callable[[], Awaitable[object]]) -> None:
        """`skip`, with a look shortly before: `early` must be false then."""
        if self.backend.clock is not None:
            self.skip(seconds * 0.96)
            assert not await early()
            self.skip(seconds * 0.04)

    async def elapse(self, seconds: float) -> None:
        """Let so much time pass, before something that must not have happened by then."""
        if self.backend.clock is not None:
            self.skip(seconds)
        else:
            await asyncio.sleep(seconds)

    async def close(self, queue: Queue) -> None:
        self._open.remove(queue)
        await queue.close()

    async def reopen(self, queue: Queue, **settings: Any) -> Queue:
        """The next gateway after this one's end. Events that this one holds stay leased until their leases expire."""
        await self.close(queue)
        return await self.open(**settings)

    async def close_all(self) -> None:
        for queue in list(self._open):
            await self.close(queue)


@asynccontextmanager
async def opened(backend: Backend) -> AsyncIterator[Queues]:
    queues = Queues(backend)
    try:
        yield queues
    finally:
        await queues.close_all()


def an_event(event_id: str | None = None, lane: Lane = LANE, payload: bytes = b"{}", **fields: Any) -> Event:
    # milliseconds, for an adapter may keep no more
    received_at = fields.pop("received_at", round(time.time(), 3))
    return Event(event_id or str(uuid.uuid4()), lane, payload, received_at, **fields)


def a_record(event_id: str, status: Status = Status.RETRYING, lane: Lane = LANE, **fields: Any) -> Record:
    times = {"received_at": 1_700_000_000.25, "updated_at": 1_700_000_001.5, **fields}
    return Record(lane.namespace, lane.function, event_id, status, **times)


def a_dead_event(event: Event, **fields: Any) -> DeadEvent:
    given: dict[str, Any] = {
        "condition": Condition.RETRIES_EXHAUSTED,
        "attempts": 3,
        "error": {"errorType": "ValueError", "errorMessage": "no such picture"},
        "died_at": 1_700_000_002.75,
        **fields,
    }
    return DeadEvent(event, **given)


async def enqueue_many(queue: Queue, count: int, lane: Lane = LANE, prefix: str = "event") -> list[str]:
    """Their ids, in order."""
    ids = [f"{prefix}-{number:04}" for number in range(count)]
    for event_id in ids:
        assert await queue.enqueue(an_event(event_id, lane))
    return ids


async def receive_some(queue: Queue, count: int, lane: Lane = LANE, within: float = LONG) -> list[EventLease]:
    """Exactly so many, in as many calls as that needs."""
    leases: list[EventLease] = []
    deadline = time.monotonic() + within
    while len(leases) < count:
        left = deadline - time.monotonic()
        assert left > 0, f"{len(leases)} of {count} events came within {within:g} s"
        leases += await queue.receive(lane, count - len(leases), left)
    return leases


async def receive_one(queue: Queue, lane: Lane = LANE, within: float = LONG) -> EventLease:
    return (await receive_some(queue, 1, lane, within))[0]


async def nothing_to_receive(queue: Queue, lane: Lane = LANE) -> bool:
    return not await queue.receive(lane, 10, 0.2)


def ids_of(found: list[Any]) -> list[str]:
    """Of leases, events, records or dead events."""
    return [getattr(one, "event", one).id for one in found]
