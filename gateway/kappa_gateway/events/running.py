"""Which events run at a pod now, and the record that says so of those that run for long."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from kappa_core.errors import KappaError, QueueUnavailable
from kappa_core.event import Record, Status
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.holding import History
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.queue.protocol import EventLease, Queue

logger = logging.getLogger(__name__)

RECORDED_AFTER: Final = 1.0
"""Seconds after which an event that runs is recorded as running: short runs need no write."""


class RunningEvents:
    """`clock` gives seconds since the epoch."""

    def __init__(
        self, queue: Queue, availability: QueueAvailability, counts: EventCounts, clock: Callable[[], float]
    ) -> None:
        self.queue = queue
        self.availability = availability
        self.counts = counts
        self.clock = clock
        self.ids: set[str] = set()

    def __contains__(self, event_id: str) -> bool:
        """Whether this gateway has it at a pod now."""
        return event_id in self.ids


class RunningMark:
    """Of one run of an event: `begins` and `stops` as it gets and loses its slot, then `close`, always."""

    def __init__(self, running: RunningEvents, lease: EventLease) -> None:
        self._running = running
        self._lease = lease
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    def begins(self, history: History) -> None:
        """It is at a pod."""
        running, event = self._running, self._lease.event
        running.ids.add(event.id)
        if self._timer is not None:
            return
        if not history.attempts and not history.postponements:
            running.counts.of(event.lane).age.observe(max(running.clock() - event.received_at, 0.0))
        self._timer = asyncio.get_running_loop().call_later(RECORDED_AFTER, self._record, history)

    def stops(self) -> None:
        """It is at no pod."""
        self._running.ids.discard(self._lease.event.id)

    async def recorded(self) -> None:
        """From now on no record is written: that it runs must not be recorded after how it ended."""
        if self._timer is not None:
            self._timer.cancel()
        task, self._task = self._task, None
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
        self.stops()

    # -- inside

    def _record(self, history: History) -> None:
        self._task = asyncio.get_running_loop().create_task(self._save(history), name="event runs")

    async def _save(self, history: History) -> None:
        """Only the status API reads it, so a failure is not retried."""
        running, event = self._running, self._lease.event
        record = Record(
            event.lane.namespace,
            event.lane.function,
            event.id,
            Status.RUNNING,
            received_at=event.received_at,
            updated_at=running.clock(),
            attempts=history.attempts,
            postponements=history.postponements,
            receive_count=self._lease.receive_count,
            error=history.error,
        )
        try:
            await running.queue.save_record(record)
        except QueueUnavailable as error:
            running.availability.failed(error)
        except KappaError as error:
            logger.warning("it could not be recorded that an event runs: %s", error.message)
