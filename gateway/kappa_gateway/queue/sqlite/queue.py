"""`Queue` in one SQLite file. Each change is in the log and synced (WAL, synchronous=FULL) before it is confirmed."""

import asyncio
import contextlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote

from kappa_core.event import DeadEvent, Event, Lane, Record
from kappa_gateway.queue.protocol import EventLease, LaneState, QueueMisconfigured, QueueUnavailable
from kappa_gateway.queue.sqlite import housekeeping, lane_events, outcomes
from kappa_gateway.queue.sqlite.database import Database
from kappa_gateway.queue.sqlite.waiters import Waiters
from kappa_gateway.queue.sqlite.worker import Worker
from kappa_gateway.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")
CLOSE_TIMEOUT: Final = 10.0


class SqliteQueue:
    """Keeps `kappa_gateway.queue.protocol.Queue`."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        """`clock`: seconds since the epoch; it may jump. Due times, leases and retentions are all read from it."""
        self.lease_seconds = settings.queue_lease
        self._clock = clock
        self._timeout = settings.queue_timeout
        self._window = settings.queue_deduplication_window
        self._max_bytes = settings.queue_max_bytes
        self._result_retention = settings.result_retention
        self._dead_letter_retention = settings.dead_letter_retention
        self._database = Database(path_of(settings.queue_url), timeout=settings.queue_timeout / 2)
        self._writer = Worker(self._database, writes=True)
        self._reader = Worker(self._database, writes=False)
        self._waiters = Waiters()
        self._housekeeper: asyncio.Task[None] | None = None
        self._opened = False

    @property
    def available(self) -> bool:
        return self._opened and self._writer.failure is None

    @property
    def max_event_bytes(self) -> int | None:
        return None

    async def open(self) -> None:
        self._writer.start()
        self._reader.start()
        try:
            await self._write(housekeeping.probe)
        except QueueUnavailable:
            if isinstance(self._writer.failure, QueueMisconfigured):
                failure = self._writer.failure
                await self.close()
                raise failure from None
            # The writer has logged why; the housekeeper goes on trying.
        self._opened = True
        self._housekeeper = asyncio.create_task(self._keep_house(), name="queue-housekeeping")

    async def close(self) -> None:
        self._opened = False
        if self._housekeeper is not None:
            self._housekeeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._housekeeper
        # the reader first: the last connection that closes copies the log into the file
        await self._reader.stop(CLOSE_TIMEOUT)
        await self._writer.stop(CLOSE_TIMEOUT)
        self._waiters.wake_all()

    # -- events

    async def enqueue(self, event: Event) -> bool:
        attributes = json.dumps(event.attributes, separators=(",", ":"))

        def job(connection: sqlite3.Connection) -> bool:
            return lane_events.enqueue(connection, event, attributes, self._clock(), self._window, self._max_bytes)

        return await self._write(job, committed=lambda added: self._waiters.wake(event.lane))

    async def receive(self, lane: Lane, count: int, wait: float) -> list[EventLease]:
        if count <= 0:
            return []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            # Before the look into the file, so that an event that comes meanwhile is not missed.
            with self._waiters.waiter(lane) as news:
                received: lane_events.Received = await self._write(
                    partial(self._receive, lane, count), unwanted=partial(self._undo_receive, lane)
                )
                left = deadline - loop.time()
                if received.leases or left <= 0:
                    return received.leases
                if received.next_due is not None:
                    left = min(left, max(received.next_due - self._clock(), 0.001))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await news.wait()

    async def extend(self, leases: Sequence[EventLease]) -> None:
        held = [lease.token for lease in leases]
        await self._write(lambda connection: lane_events.extend(connection, held, self._clock() + self.lease_seconds))

    def may_attempt(self, lease: EventLease) -> bool:
        return True  # one process has the file

    async def ack(self, lease: EventLease) -> None:
        await self._write(lambda connection: lane_events.ack(connection, lease.token, self._clock(), self._window))

    async def nack(self, lease: EventLease, delay: float) -> None:
        due_at = self._clock() + delay
        await self._write(
            lambda connection: lane_events.nack(connection, lease.token, due_at),
            committed=lambda _: self._waiters.wake(lease.event.lane),
        )

    async def lanes(self) -> list[LaneState]:
        return await self._read(lambda connection: lane_events.lanes(connection, self._clock()))

    async def find(self, lane: Lane, event_id: str) -> Event | None:
        return await self._read(lambda connection: lane_events.find(connection, lane, event_id))

    async def events(self, lane: Lane, *, limit: int, after: str | None = None) -> list[Event]:
        return await self._read(lambda connection: lane_events.events(connection, lane, limit, after))

    async def purge(self, lane: Lane) -> int:
        # Up to the newest event of now: a lane that fills meanwhile would never be empty.
        up_to = await self._write(lambda connection: lane_events.last_seq(connection, lane))
        purged = 0
        while part := await self._write(
            lambda connection: lane_events.purge(connection, lane, up_to, self._clock(), self._window)
        ):
            purged += part
        return purged

    async def drop_lane(self, lane: Lane) -> None:
        await self.purge(lane)
        while not await self._write(lambda connection: lane_events.forget(connection, lane)):
            pass

    # -- records

    async def save_record(self, record: Record) -> None:
        body = record.encode()
        await self._write(lambda connection: outcomes.save_record(connection, record, body, self._clock()))

    async def record(self, namespace: str, function: str, event_id: str) -> Record | None:
        since = self._clock() - self._result_retention
        return await self._read(lambda connection: outcomes.record(connection, namespace, function, event_id, since))

    async def records(self, namespace: str, function: str, *, limit: int) -> list[Record]:
        since = self._clock() - self._result_retention
        return await self._read(lambda connection: outcomes.records(connection, namespace, function, limit, since))

    # -- the dead letter

    async def dead_letter(self, dead: DeadEvent) -> None:
        attributes, error = (json.dumps(part, separators=(",", ":")) for part in (dead.event.attributes, dead.error))
        await self._write(lambda connection: outcomes.dead_letter(connection, dead, attributes, error, self._clock()))

    async def dead_event(self, namespace: str, function: str, event_id: str) -> DeadEvent | None:
        since = self._clock() - self._dead_letter_retention
        return await self._read(
            lambda connection: outcomes.dead_event(connection, namespace, function, event_id, since)
        )

    async def dead_events(
        self, namespace: str, function: str, *, limit: int, until: float | None = None
    ) -> list[DeadEvent]:
        since = self._clock() - self._dead_letter_retention
        return await self._read(
            lambda connection: outcomes.dead_events(connection, namespace, function, limit, since, until)
        )

    async def delete_dead_event(self, namespace: str, function: str, event_id: str) -> bool:
        since = self._clock() - self._dead_letter_retention
        return await self._write(
            lambda connection: outcomes.delete_dead_event(connection, namespace, function, event_id, since)
        )

    # -- inside

    def _receive(self, lane: Lane, count: int, connection: sqlite3.Connection) -> lane_events.Received:
        return lane_events.receive(connection, lane, count, self._clock(), self.lease_seconds)

    def _undo_receive(self, lane: Lane, received: lane_events.Received) -> None:
        """The caller was cancelled, so nobody has seen these events."""
        if not received.leases:
            return
        held = [lease.token for lease in received.leases]
        with contextlib.suppress(QueueUnavailable):  # then their leases expire
            self._writer.submit(
                lambda connection: lane_events.undo_receive(connection, held),
                committed=lambda _: self._waiters.wake(lane),
            )

    async def _write(
        self,
        job: Callable[[sqlite3.Connection], T],
        committed: Callable[[T], None] | None = None,
        unwanted: Callable[[T], None] | None = None,
    ) -> T:
        return await self._writer.run(job, timeout=self._timeout, committed=committed, unwanted=unwanted)

    async def _read(self, job: Callable[[sqlite3.Connection], T]) -> T:
        return await self._reader.run(job, timeout=self._timeout)

    async def _keep_house(self) -> None:
        retentions = housekeeping.Retentions(self._window, self._result_retention, self._dead_letter_retention)
        cleaned = time.monotonic()
        pause = tick = min(housekeeping.PROBE_INTERVAL, retentions.interval)
        while True:
            await asyncio.sleep(pause)
            pause = tick
            try:
                if not self.available:
                    await self._write(housekeeping.probe)
                elif time.monotonic() > cleaned + retentions.interval:
                    if await self._write(lambda connection: retentions.forget_some(connection, self._clock())):
                        pause = housekeeping.PAUSE
                    else:
                        cleaned = time.monotonic()
            except QueueUnavailable:
                continue  # the writer has logged why
            except Exception:
                logger.exception("housekeeping of the queue file failed and will be tried again")


def path_of(url: str) -> Path:
    """`sqlite:/path`, with or without more slashes; characters that a URL cannot hold are percent-encoded."""
    return Path("/" + unquote(url.removeprefix("sqlite:")).lstrip("/"))
