"""What the gateway needs of a queue; adapters keep it, `tests/contract/queue` holds each of them to it.

- *Durable*: what `put`, `save` and `bury` returned for survives the gateway's and the queue's own sudden death.
- *Leased*: an event that `take` handed out is this gateway's for `lease` seconds, longer with each `extend`; then
  anybody gets it. So nothing is lost, and what is in hand is not handed out twice while its holder lives.
- *Fair*: lanes do not wait for each other.
- *At least once*: after a death an event may come again. `Lease.fresh` says where that cannot be.

Every method raises `QueueUnavailable` when the queue cannot be reached in time; what was asked may have happened then,
and all of them may be repeated. Times are seconds since the epoch, durations seconds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kappa_core.errors import KappaError
from kappa_core.errors import QueueFull as QueueFull
from kappa_core.errors import QueueUnavailable as QueueUnavailable
from kappa_core.event import DeadEvent, Event, Lane, Record


class QueueMisconfigured(KappaError):
    """The queue answers, and will not do: rights, limits, an old server. Raised by `open`."""

    retryable = False


@dataclass(eq=False, slots=True)
class Lease:
    """An event in this gateway's hand."""

    event: Event
    hand_outs: int
    """How often the queue handed this event out, this time included."""
    fresh: bool
    """Certain that nobody has tried or finished this event before. False costs a look at its record, no more."""
    waiting: int
    """How many more of its lane could be taken when it was handed out."""
    counted: bool = True
    """False: the queue may have forgotten hand-outs, so that nothing follows from their number."""
    token: Any = field(default=None, repr=False)
    """The adapter's own (`Any`: nobody else looks into it)."""


@dataclass(frozen=True, slots=True)
class LaneState:
    lane: Lane
    waiting: int
    """Events that could be taken now."""
    held: int
    """Events that somebody has in hand, or that wait for their next try's time."""
    oldest_at: float | None
    """When the oldest of all of them was received."""


class Queue(Protocol):
    lease: float
    """Seconds."""

    @property
    def available(self) -> bool:
        """Whether the queue was reached when last tried: a hint for metrics and early refusals."""

    @property
    def max_event_bytes(self) -> int | None:
        """The largest payload that this queue takes; None: it has no limit of its own."""

    async def open(self) -> None:
        """Connect and make what is missing; goes on trying in the background while the queue cannot be reached, so this
        returns at once. Raises `QueueMisconfigured`."""

    async def close(self) -> None:
        """Leases that are in hand run out by themselves."""

    # -- events

    async def put(self, event: Event) -> bool:
        """Durable when it returns. False: an event of this id came within the deduplication window (which one setting
        gives), or is still in its lane; nothing was added. Raises `QueueFull`."""

    async def take(self, lane: Lane, count: int, wait: float) -> list[Lease]:
        """Up to `count` events in the order they came (those whose retry is due first); waits up to `wait` seconds for
        the first of them, and then for no more. Cancellable: what was handed out meanwhile goes back at once or by its lease."""

    async def extend(self, leases: Sequence[Lease]) -> None:
        """This gateway lives and works on them. Best effort, and cheap."""

    def may_begin(self, lease: Lease) -> bool:
        """Whether a try may begin on this lease. False: it ran out, or the queue may have forgotten it (its server died, or
        the connection broke), so that somebody else may have the event. Then the lease is let go of, without a word to
        the queue: the event comes again by itself."""

    async def done(self, lease: Lease) -> None:
        """The event is gone for good. Not an error if it was gone already (purged, or finished by another gateway)."""

    async def retry(self, lease: Lease, delay: float) -> None:
        """Back to its lane; it can be taken again in `delay` seconds, by any gateway."""

    async def lanes(self) -> list[LaneState]:
        """Every lane that holds an event (others may be among them)."""

    async def find(self, lane: Lane, event_id: str) -> Event | None:
        """An event that is in its lane, in somebody's hand or not."""

    async def events(self, lane: Lane, *, limit: int, after: str | None = None) -> list[Event]:
        """What is in the lane, oldest first, after the event of that id (from the start if it is gone)."""

    async def purge(self, lane: Lane) -> int:
        """Drop what is in the lane, what is in hand too; returns how many."""

    async def drop_lane(self, lane: Lane) -> None:
        """Its function is gone: forget the lane and all that is in it. Not an error if there is none."""

    # -- records: the newest of each event, kept for `result_retention` after a final one, else as long as it can be needed

    async def save(self, record: Record) -> None:
        """A final record stays: one that is not final and comes later is dropped, unless it is of a later submission of
        the same id (by `received_at`)."""

    async def record(self, namespace: str, function: str, event_id: str) -> Record | None: ...

    async def records(self, namespace: str, function: str, *, limit: int) -> list[Record]:
        """The newest of a function, newest first."""

    # -- the dead letter: kept for `dead_letter_retention`

    async def bury(self, dead: DeadEvent) -> None: ...

    async def dead(self, namespace: str, function: str, event_id: str) -> DeadEvent | None: ...

    async def dead_events(
        self, namespace: str, function: str, *, limit: int, until: float | None = None
    ) -> list[DeadEvent]:
        """Newest first; with `until` (seconds since the epoch) only those that died by then."""

    async def unbury(self, namespace: str, function: str, event_id: str) -> bool:
        """False: there was none. After a redrive, or to forget it."""


class Publisher(Protocol):
    """What a queue on NATS also can: publish for destinations."""

    async def publish(self, subject: str, payload: bytes, headers: dict[str, str]) -> None:
        """Confirmed by the stream that listens to the subject, where there is one; else handed to the server.
        `Nats-Msg-Id` among the headers lets that stream drop what comes twice. Raises `QueueUnavailable`."""
