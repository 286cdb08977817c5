"""What the gateway needs of a queue. `tests/contract/queue` holds each adapter to it.

- *Durable*: what `enqueue`, `save_record` and `dead_letter` returned for survives the sudden death of the gateway and
  of the queue's server.
- *Leased*: an event that `receive` returned belongs to this gateway for `lease_seconds`, longer with each `extend`.
  Then it is redelivered to any gateway. So nothing is lost, and no event is delivered twice while its holder lives.
- *Fair*: lanes do not wait for each other.
- *At least once*: after a crash an event may come again. `EventLease.fresh` says where that cannot be.

Every method raises `QueueUnavailable` when the queue cannot be reached in time. What was asked may have happened then,
and every method may be repeated. Times are seconds since the epoch, durations seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kappa_core.errors import KappaError
from kappa_core.errors import QueueFull as QueueFull
from kappa_core.errors import QueueUnavailable as QueueUnavailable
from kappa_core.event import DeadEvent, Event, Lane, Record


class QueueMisconfigured(KappaError):
    """The queue answers and refuses: missing rights, limits, an old server. Raised by `open`."""

    retryable = False


@dataclass(eq=False, slots=True)
class EventLease:
    """An event that this gateway holds."""

    event: Event
    receive_count: int
    """How often the queue delivered this event, this time included."""
    fresh: bool
    """True: it is certain that nobody has attempted or ended this event before. False costs a look at its record."""
    waiting: int
    """How many more events of its lane could be received at that time."""
    counted: bool = True
    """False: the queue may have forgotten deliveries, so `receive_count` may be too low."""
    token: Any = field(default=None, repr=False)
    """The adapter's own (`Any`: nobody else looks into it)."""


@dataclass(frozen=True, slots=True)
class LaneState:
    lane: Lane
    waiting: int
    """Events that could be received now."""
    held: int
    """Events that are leased, or wait until their next attempt is due."""
    oldest_at: float | None
    """When the oldest of all of them was received."""


class Queue(Protocol):
    lease_seconds: float

    @property
    def available(self) -> bool:
        """Whether the queue was reached when last tried: a hint for metrics and early refusals."""

    @property
    def max_event_bytes(self) -> int | None:
        """The largest payload that this queue takes; None: it has no limit of its own."""

    async def open(self) -> None:
        """Connect, and create what is missing. Returns at once: while the queue cannot be reached, it goes on trying in
        the background. Raises `QueueMisconfigured`."""

    async def close(self) -> None:
        """Leases that are still held expire by themselves."""

    # -- events

    async def enqueue(self, event: Event) -> bool:
        """The event is durable when this returns. False: nothing was added, because an event of this id came within the
        deduplication window (a setting), or is still in its lane. Raises `QueueFull`."""

    async def receive(self, lane: Lane, count: int, wait: float) -> list[EventLease]:
        """Up to `count` events in the order they came (those whose retry is due first). Waits up to `wait` seconds for
        the first of them, and for no other. Cancellable: what was delivered meanwhile is released at once or when its
        lease expires."""

    async def extend(self, leases: Sequence[EventLease]) -> None:
        """Start the leases' time again: this gateway lives and works on them. Best effort, and cheap."""

    def may_attempt(self, lease: EventLease) -> bool:
        """Whether an attempt may start on this lease. False: it expired, or the queue may have forgotten it (its server
        crashed, or the connection broke), so that another gateway may hold the event. The lease is dropped then,
        without a message to the queue: the event is redelivered."""

    async def ack(self, lease: EventLease) -> None:
        """Remove the event from the queue. Not an error if it was removed before (purged, or acknowledged by another
        gateway)."""

    async def nack(self, lease: EventLease, delay: float) -> None:
        """Return the event to its lane, where any gateway can receive it in `delay` seconds."""

    async def lanes(self) -> list[LaneState]:
        """Every lane that holds an event (empty ones may be among them)."""

    async def find(self, lane: Lane, event_id: str) -> Event | None:
        """An event that is in its lane, leased or not."""

    async def events(self, lane: Lane, *, limit: int, after: str | None = None) -> list[Event]:
        """The events of a lane, oldest first, after the event of that id (from the start if it is gone)."""

    async def purge(self, lane: Lane) -> int:
        """Remove all events of the lane, leased ones too; returns how many."""

    async def drop_lane(self, lane: Lane) -> None:
        """Its function was deleted: remove the lane and all its events. Not an error if there is none."""

    # -- records: the newest of each event, kept for `result_retention` after a final one, else as long as it can be
    # needed

    async def save_record(self, record: Record) -> None:
        """A final record stays: a later one that is not final is dropped, unless it is of a later submission of the
        same id (by `received_at`)."""

    async def record(self, namespace: str, function: str, event_id: str) -> Record | None: ...

    async def records(self, namespace: str, function: str, *, limit: int) -> list[Record]:
        """The newest of a function, newest first."""

    # -- the dead letter: kept for `dead_letter_retention`

    async def dead_letter(self, dead: DeadEvent) -> None:
        """Keep an event that ended without success. An earlier one of its id is replaced."""

    async def dead_event(self, namespace: str, function: str, event_id: str) -> DeadEvent | None: ...

    async def dead_events(
        self, namespace: str, function: str, *, limit: int, until: float | None = None
    ) -> list[DeadEvent]:
        """Newest first; with `until` (seconds since the epoch) only those that died by then."""

    async def delete_dead_event(self, namespace: str, function: str, event_id: str) -> bool:
        """After a redrive, or on request. False: there was none."""


class Publisher(Protocol):
    """What a queue on NATS can do besides: publish for destinations."""

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Confirmed by the stream that listens to the subject, where there is one; else only sent to the server.
        `Nats-Msg-Id` among the headers lets that stream drop duplicates. Raises `QueueUnavailable`."""
