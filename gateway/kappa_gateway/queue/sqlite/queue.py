"""`Queue` in one SQLite file. Every change is in the log and synced (WAL, synchronous=FULL) before its caller hears of it."""

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
from kappa_gateway.queue.protocol import LaneState, Lease, QueueMisconfigured, QueueUnavailable
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

    def __init__(self, settings: Settings) -> None:
        self.lease = settings.queue_lease
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
            # The writer has said why; the housekeeper goes on trying.
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

    async def put(self, event: Event) -> bool:
        attributes = json.dumps(event.attributes, separators=(",", ":"))

        def job(connection: sqlite3.Connection) -> bool:
            return lane_events.put(connection, event, attributes, time.time(), self._window, self._max_bytes)

        return await self._write(job, committed=lambda added: self._waiters.wake(event.lane))

    async def take(self, lane: Lane, count: int, wait: float) -> list[Lease]:
        if count <= 0:
            return []
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        while True:
            # before looking: what comes while we look is not missed
            with self._waiters.waiter(lane) as news:
                taken: lane_events.Taken = await self._write(
                    partial(self._take, lane, count), unwanted=partial(self._give_back, lane)
                )
                left = deadline - loop.time()
                if taken.leases or left <= 0:
                    return taken.leases
                if taken.next_due is not None:
                    left = min(left, max(taken.next_due - time.time(), 0.001))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await news.wait()

    async def extend(self, leases: Sequence[Lease]) -> None:
        held = [lease.token for lease in leases]
        await self._write(lambda connection: lane_events.extend(connection, held, time.time() + self.lease))

    def may_begin(self, lease: Lease) -> bool:
        return True  # one process has the file

    async def done(self, lease: Lease) -> None:
        await self._write(lambda connection: lane_events.done(connection, lease.token, time.time(), self._window))

    async def retry(self, lease: Lease, delay: float) -> None:
        due_at = time.time() + delay
        await self._write(
            lambda connection: lane_events.retry(connection, lease.token, due_at),
            committed=lambda _: self._waiters.wake(lease.event.lane),
        )

    async def lanes(self) -> list[LaneState]:
        return await self._read(lambda connection: lane_events.lanes(connection, time.time()))

    async def find(self, lane: Lane, event_id: str) -> Event | None:
        return await self._read(lambda connection: lane_events.find(connection, lane, event_id))

    async def events(self, lane: Lane, *, limit: int, after: str | None = None) -> list[Event]:
        return await self._read(lambda connection: lane_events.events(connection, lane, limit, after))

    async def purge(self, lane: Lane) -> int:
        # up to what is there now: else a lane that fills meanwhile would never be empty
        up_to = await self._write(lambda connection: lane_events.last_seq(connection, lane))
        purged = 0
        while part := await self._write(
            lambda connection: lane_events.purge(connection, lane, up_to, time.time(), self._window)
        ):
            purged += part
        return purged

    async def drop_lane(self, lane: Lane) -> None:
        await self.purge(lane)
        while not await self._write(lambda connection: lane_events.forget(connection, lane)):
            pass

    # -- records

    async def save(self, record: Record) -> None:
        body = record.encode()
        await self._write(lambda connection: outcomes.save(connection, record, body, time.time()))

    async def record(self, namespace: str, function: str, event_id: str) -> Record | None:
        since = time.time() - self._result_retention
        return await self._read(lambda connection: outcomes.record(connection, namespace, function, event_id, since))

    async def records(self, namespace: str, function: str, *, limit: int) -> list[Record]:
        since = time.time() - self._result_retention
        return await self._read(lambda connection: outcomes.records(connection, namespace, function, limit, since))

    # -- the dead letter

    async def bury(self, dead: DeadEvent) -> None:
        attributes, error = (json.dumps(part, separators=(",", ":")) for part in (dead.event.attributes, dead.error))
        await self._write(lambda connection: outcomes.bury(connection, dead, attributes, error, time.time()))

    async def dead(self, namespace: str, function: str, event_id: str) -> DeadEvent | None:
        since = time.time() - self._dead_letter_retention
        return await self._read(lambda connection: outcomes.dead(connection, namespace, function, event_id, since))

    async def dead_events(
        self, namespace: str, function: str, *, limit: int, until: float | None = None
    ) -> list[DeadEvent]:
        since = time.time() - self._dead_letter_retention
        return await self._read(
            lambda connection: outcomes.dead_events(connection, namespace, function, limit, since, until)
        )

    async def unbury(self, namespace: str, function: str, event_id: str) -> bool:
        since = time.time() - self._dead_letter_retention
        return await self._write(lambda connection: outcomes.unbury(connection, namespace, function, event_id, since))

    # -- inside

    def _take(self, lane: Lane, count: int, connection: sqlite3.Connection) -> lane_events.Taken:
        return lane_events.take(connection, lane, count, time.time(), self.lease)

    def _give_back(self, lane: Lane, taken: lane_events.Taken) -> None:
        """What was handed out to a caller that is gone."""
        if not taken.leases:
            return
        held = [lease.token for lease in taken.leases]
        with contextlib.suppress(QueueUnavailable):  # then their leases run out
            self._writer.submit(
                lambda connection: lane_events.give_back(connection, held), committed=lambda _: self._waiters.wake(lane)
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
                    if await self._write(retentions.forget_some):
                        pause = housekeeping.PAUSE
                    else:
                        cleaned = time.monotonic()
            except QueueUnavailable:
                continue  # the writer has said why
            except Exception:
                logger.exception("housekeeping of the queue file failed; it is tried again")


def path_of(url: str) -> Path:
    """`sqlite:/path`, with or without more slashes; `%20` and the like stand for what a URL cannot hold."""
    return Path("/" + unquote(url.removeprefix("sqlite:")).lstrip("/"))
