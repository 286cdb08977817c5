"""What the SQLite queue promises about leases beyond the protocol: it knows exactly who holds each event."""

import asyncio
import sqlite3
import threading
from typing import Any

import pytest
from queue_contract import LANE, Backend, Queues, a_record, an_event, enqueue_many, ids_of, receive_one, receive_some

from kappa_core.event import Status
from kappa_gateway.queue.protocol import Queue
from kappa_gateway.queue.sqlite import lane_events
from kappa_gateway.queue.sqlite.queue import SqliteQueue


@pytest.fixture
def backend(sqlite_backend: Backend) -> Backend:
    return sqlite_backend


@pytest.fixture
async def queue(queues: Queues) -> SqliteQueue:
    queue = await queues.open()
    assert isinstance(queue, SqliteQueue)
    return queue


async def waiting(queue: Queue, count: int) -> None:
    """Until so many can be received."""
    async with asyncio.timeout(10.0):
        while (await queue.lanes())[0].waiting != count:
            pass


async def test_retries_that_are_due_come_in_the_order_of_their_times(queue: SqliteQueue, queues: Queues) -> None:
    await enqueue_many(queue, 4)
    first, second, third = await receive_some(queue, 3)
    await queue.nack(first, 300.0)
    await queue.nack(second, 100.0)
    await queue.nack(third, 200.0)
    queues.skip(300.0)
    await waiting(queue, 4)
    expected = [second.event.id, third.event.id, first.event.id, "event-0003"]
    assert ids_of(await queue.receive(LANE, 10, 0.0)) == expected


async def test_an_event_that_ended_before_is_not_fresh_when_it_comes_first(queue: SqliteQueue) -> None:
    """A follow-up event is enqueued again if its gateway died, maybe long after the first copy was acked."""
    await queue.enqueue(an_event("follower"))
    await queue.save_record(a_record("follower", Status.SUCCEEDED))
    lease = await receive_one(queue)
    assert (lease.receive_count, lease.fresh) == (1, False)


async def test_an_expired_lease_changes_nothing(queues: Queues) -> None:
    queue = await queues.open(queue_lease=600.0)
    await enqueue_many(queue, 1)
    old = await receive_one(queue)
    queues.skip(600.0)
    new = await receive_one(queue)
    assert new.receive_count == 2
    await queue.nack(old, 0.0)
    assert await queue.receive(LANE, 1, 0.1) == [], "another has it"
    await queue.nack(new, 60.0)
    await queue.nack(new, 0.0)
    await queue.extend([new])
    assert await queue.receive(LANE, 1, 0.1) == [], "it was returned, with its time"


async def test_what_a_cancelled_receive_got_is_delivered_at_once_and_fresh(
    queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueue_many(queue, 3)
    received, cancelled = threading.Event(), threading.Event()
    receive = lane_events.receive

    def slow_receive(connection: sqlite3.Connection, *arguments: Any) -> lane_events.Received:
        found = receive(connection, *arguments)
        received.set()
        assert cancelled.wait(10.0)
        return found

    monkeypatch.setattr(lane_events, "receive", slow_receive)
    receiving = asyncio.create_task(queue.receive(LANE, 3, 1.0))
    await asyncio.to_thread(received.wait, 10.0)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert receiving.cancelled()
    cancelled.set()
    leases = await receive_some(queue, 3)
    assert [(lease.receive_count, lease.fresh) for lease in leases] == [(1, True)] * 3


async def test_what_came_in_the_moment_of_the_cancellation_is_delivered_at_once(
    queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    await enqueue_many(queue, 3)
    deliver = queue._writer._deliver

    def deliver_and_cancel(jobs: Any) -> None:
        deliver(jobs)
        receiving.cancel()

    monkeypatch.setattr(queue._writer, "_deliver", deliver_and_cancel)
    receiving = asyncio.create_task(queue.receive(LANE, 3, 1.0))
    await asyncio.gather(receiving, return_exceptions=True)
    assert receiving.cancelled()
    monkeypatch.undo()
    leases = await receive_some(queue, 3)
    assert [(lease.receive_count, lease.fresh) for lease in leases] == [(1, True)] * 3


async def test_a_retry_that_a_cancelled_receive_got_keeps_its_turn(queue: SqliteQueue) -> None:
    await enqueue_many(queue, 2)
    await queue.nack(await receive_one(queue), 0.0)
    await waiting(queue, 2)
    lost = await queue._write(lambda connection: queue._receive(LANE, 1, connection))
    queue._undo_receive(LANE, lost)
    first, second = await receive_some(queue, 2)
    assert [(lease.event.id, lease.receive_count) for lease in (first, second)] == [
        ("event-0000", 2),
        ("event-0001", 1),
    ]


async def test_purge_leaves_what_comes_after_it(queue: SqliteQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane_events, "PURGE_EVENTS", 2)
    await enqueue_many(queue, 5)
    purged, added = await asyncio.gather(queue.purge(LANE), queue.enqueue(an_event("later")))
    assert (purged, added) == (5, True)
    assert ids_of(await queue.events(LANE, limit=10)) == ["later"]
