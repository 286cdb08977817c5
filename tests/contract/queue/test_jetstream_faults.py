"""What JetStream's adapter does when the server crashes, stalls or comes late, or somebody deletes its streams."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest
from nats_server import NatsServer, Proxy
from queue_contract import (
    LANE,
    LONG,
    Backend,
    Queues,
    a_record,
    an_event,
    enqueue_many,
    ids_of,
    receive_one,
    receive_some,
)
from waiting import eventually

from kappa_core.event import Status
from kappa_gateway.queue.jetstream import connection
from kappa_gateway.queue.jetstream.link import Link
from kappa_gateway.queue.jetstream.queue import JetStreamQueue
from kappa_gateway.queue.protocol import Queue, QueueUnavailable


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    """A test's own, to be killed. Not started."""
    server = NatsServer(tmp_path / "own")
    yield server
    server.kill()


@pytest.fixture
async def own(server: NatsServer) -> AsyncIterator[Queues]:
    queues = Queues(Backend("jetstream", {"queue_url": server.url}, shared=True))
    yield queues
    await queues.close_all()


async def test_nothing_is_lost_and_nothing_ends_twice_while_the_server_is_killed(
    server: NatsServer, own: Queues
) -> None:
    server.start()
    queues = [await own.open(queue_lease=3.0, queue_timeout=10.0) for _ in range(2)]
    put: set[str] = set()
    ended: Counter[str] = Counter()
    wrongly_fresh: list[str] = []
    tried: set[str] = set()
    stop, all_put = asyncio.Event(), asyncio.Event()

    async def putting(queue: Queue, name: str) -> None:
        number = 0
        while not stop.is_set():
            event = an_event(f"{name}-{number}")
            number += 1
            await queue.enqueue(event)
            put.add(event.id)
            await asyncio.sleep(0.002)

    async def ending(queue: Queue) -> None:
        while not all_put.is_set() or not put <= ended.keys():
            leases = await queue.receive(LANE, 8, 0.5)
            wrongly_fresh.extend(lease.event.id for lease in leases if lease.fresh and lease.event.id in tried)
            for lease in leases:
                event = lease.event
                if not queue.may_attempt(lease):
                    continue
                if not lease.fresh:
                    record = await queue.record(LANE.namespace, LANE.function, event.id)
                    if record is not None and record.status.final:
                        await queue.ack(lease)
                        continue
                tried.add(event.id)
                ended[event.id] += 1
                await queue.save_record(a_record(event.id, Status.SUCCEEDED))
                await queue.ack(lease)

    putters = [asyncio.create_task(putting(queue, f"{at}-{who}")) for at, queue in enumerate(queues) for who in "ab"]
    enders = [asyncio.create_task(ending(queue)) for queue in queues for _ in range(2)]
    for kills in range(3):
        await _more(ended, 100)
        server.kill()
        await asyncio.sleep(0.05 * kills)
        server.start()
    stop.set()
    async with asyncio.timeout(60.0):
        await asyncio.gather(*putters)
        all_put.set()
        await asyncio.gather(*enders)
    assert put <= ended.keys()
    assert wrongly_fresh == []
    # Each of them had a gateway that could have known: its record was there, or somebody held it.
    assert [event_id for event_id, times in ended.items() if times > 2] == []
    assert sum(times - 1 for times in ended.values()) < len(ended) // 20


async def _more(events: Collection[str], count: int) -> None:
    least = len(events) + count
    await eventually(lambda: len(events) >= least, f"{count} more events", within=30.0)


async def test_a_server_that_comes_late_is_found(server: NatsServer, own: Queues) -> None:
    queue = own.make(queue_timeout=0.5)
    began = time.monotonic()
    await queue.open()
    try:
        assert time.monotonic() - began < LONG
        assert not queue.available
        with pytest.raises(QueueUnavailable, match=rf"nats://127\.0\.0\.1:{server.port}.*KAPPA_GATEWAY_QUEUE_URL"):
            await queue.enqueue(an_event())
        with pytest.raises(QueueUnavailable):
            await queue.receive(LANE, 1, 0.1)
        server.start()
        await eventually(lambda: queue.available, "the server")
        assert await queue.enqueue(an_event())
    finally:
        await queue.close()


async def test_a_call_waits_for_a_server_that_restarts(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open(queue_timeout=10.0)
    receiving = asyncio.create_task(queue.receive(LANE, 1, LONG))
    await asyncio.sleep(0.1)
    server.kill()
    putting = asyncio.create_task(queue.enqueue(an_event("one")))
    await eventually(lambda: not queue.available, "that the server is gone")
    server.start()
    assert await putting
    assert ids_of(await receiving) == ["one"]


@pytest.mark.parametrize("graceful", [True, False])
async def test_a_lease_outlives_a_restart_of_the_server(server: NatsServer, own: Queues, graceful: bool) -> None:
    server.start()
    queue = await own.open(queue_lease=5.0)
    await enqueue_many(queue, 3)
    leases = await receive_some(queue, 3)
    if graceful:
        server.stop()
    else:
        server.kill()
    server.start()
    await eventually(lambda: queue.available, "the server")
    # A killed server may have forgotten who holds them; this gateway has not.
    until = time.monotonic() + 6.0  # longer than a lease
    while time.monotonic() < until:
        await queue.extend(leases)
        assert await queue.receive(LANE, 10, 0.3) == []
    for lease in leases:
        await queue.ack(lease)
    deadline = time.monotonic() + LONG
    while await queue.events(LANE, limit=1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_what_a_killed_server_may_have_delivered_is_not_fresh(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open(queue_lease=2.0)
    await enqueue_many(queue, 2)
    await receive_some(queue, 1)
    server.kill()
    server.start()
    await eventually(lambda: queue.available, "the server")
    known: set[str] = set()
    while len(known) < 2:
        for lease in await receive_some(queue, 1):
            assert (lease.fresh, lease.counted) == (False, False)
            known.add(lease.event.id)
            await queue.ack(lease)
    await enqueue_many(queue, 1, prefix="later")
    later = await receive_one(queue)
    assert (later.event.id, later.fresh, later.counted) == ("later-0000", True, True)


async def test_no_attempt_starts_on_a_lease_that_a_killed_server_may_have_forgotten(
    server: NatsServer, own: Queues
) -> None:
    server.start()
    queue = await own.open(queue_lease=8.0, queue_timeout=20.0)
    await enqueue_many(queue, 2)
    begun, waiting = await receive_some(queue, 2)
    assert queue.may_attempt(begun)
    assert queue.may_attempt(waiting)
    server.kill()
    await eventually(lambda: not queue.available, "that the queue is away")
    server.start()
    await eventually(lambda: queue.available, "that the queue is back")
    assert not queue.may_attempt(waiting)
    again = await receive_one(queue)
    assert again.event == waiting.event, "the dropped one is delivered again, and the held one is not"
    assert queue.may_attempt(again)


async def test_a_key_is_known_after_a_restart(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open()
    event = an_event("keyed", keyed=True)
    assert await queue.enqueue(event)
    lease = await receive_one(queue)
    await queue.save_record(a_record("keyed", Status.SUCCEEDED, received_at=event.received_at))
    await queue.ack(lease)
    server.kill()
    server.start()
    await eventually(lambda: queue.available, "the server")
    assert not await queue.enqueue(event)
    assert await queue.receive(LANE, 1, 0.1) == []


async def test_a_cut_connection_is_made_again(server: NatsServer) -> None:
    server.start()
    async with Proxy(server.port) as proxy:
        queues = Queues(Backend("jetstream", {"queue_url": proxy.url}, shared=True))
        queue = await queues.open(queue_timeout=10.0)
        stop = asyncio.Event()
        put: list[str] = []

        async def putting(name: str) -> None:
            while not stop.is_set():
                event_id = f"{name}-{len(put)}"
                assert await queue.enqueue(an_event(event_id))
                put.append(event_id)

        tasks = [asyncio.create_task(putting(name)) for name in "abcd"]
        for cuts in range(10):
            await _more(put, 20)
            proxy.cut()
            await asyncio.sleep(0.01 * cuts)
        stop.set()
        await asyncio.gather(*tasks)
        received = ids_of(await receive_some(queue, len(put)))
        assert sorted(received) == sorted(put)
        await queues.close_all()


async def test_a_stalled_connection_is_an_error_in_time_and_then_another(server: NatsServer) -> None:
    server.start()
    async with Proxy(server.port) as proxy:
        queues = Queues(Backend("jetstream", {"queue_url": proxy.url}, shared=True))
        queue = await queues.open(queue_timeout=1.0)
        await queue.enqueue(an_event("before"))
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(QueueUnavailable, match="no answer"):
            await queue.enqueue(an_event("during"))
        with pytest.raises(QueueUnavailable):
            await queue.save_record(a_record("during"))
        with pytest.raises(QueueUnavailable):
            await queue.lanes()
        assert time.monotonic() - began < LONG
        await eventually(lambda: not queue.available, "that the connection is of no use")
        proxy.flow()
        await eventually(lambda: queue.available, "the next connection")
        assert await queue.enqueue(an_event("after"))
        received: set[str] = set()  # "during" may be among them
        while not {"before", "after"} <= received:
            received |= set(ids_of(await receive_some(queue, 1)))
        await queues.close_all()


async def test_closing_does_not_wait_for_a_stalled_server(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open(queue_timeout=10 * LONG)
    server.stall()
    began = time.monotonic()
    await own.close(queue)
    assert time.monotonic() - began < LONG


async def test_closing_goes_on_when_the_client_swallows_a_cancellation(
    server: NatsServer, own: Queues, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def watch(link: Link) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.Event().wait()

    monkeypatch.setattr(Link, "watch", watch)
    monkeypatch.setattr(connection, "CANCEL_AGAIN", 0.05)
    server.start()
    queue = await own.open()
    async with asyncio.timeout(LONG):
        await own.close(queue)


# -- streams and consumers that somebody deleted


async def _api(queue: Queue, what: str) -> None:
    assert isinstance(queue, JetStreamQueue)
    link = queue._connection.link
    assert link is not None
    await link.request(f"$JS.API.{what}", timeout=5.0)


STREAM = "kappa_invocation_default_resize"


async def test_a_consumer_that_somebody_deleted_is_made_again(server: NatsServer, own: Queues) -> None:
    server.start()
    queue, other = await own.open(), await own.open()
    await enqueue_many(queue, 2)
    held = await receive_one(queue)
    waiting = asyncio.create_task(other.receive(LANE, 10, LONG))
    (second,) = await waiting
    waiting = asyncio.create_task(queue.receive(LANE, 10, LONG))
    await asyncio.sleep(0.1)
    await _api(queue, f"CONSUMER.DELETE.{STREAM}.dispatch")
    # It has forgotten its deliveries: this gateway keeps what it holds; the other's event comes, and is not fresh.
    again = await waiting
    assert [(lease.event.id, lease.fresh) for lease in again] == [(second.event.id, False)]
    await queue.ack(held)
    await queue.nack(second, 0.0)


async def test_a_stream_that_somebody_deleted_is_created_again(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open()
    await enqueue_many(queue, 1)
    lease = await receive_one(queue)
    waiting = asyncio.create_task(queue.receive(LANE, 1, LONG))
    await asyncio.sleep(0.1)
    await _api(queue, f"STREAM.DELETE.{STREAM}")
    await queue.ack(lease)
    assert await queue.enqueue(an_event("after"))
    assert ids_of(await waiting) == ["after"]
    await _api(queue, "STREAM.DELETE.kappa_records")
    await queue.save_record(a_record("after", Status.SUCCEEDED))
    assert ids_of(await queue.records(LANE.namespace, LANE.function, limit=10)) == ["after"]


async def test_a_cancelled_receive_returns_its_events_at_once(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open(queue_lease=10 * LONG)
    for number in range(20):
        waiting = asyncio.create_task(queue.receive(LANE, 1, LONG))
        await asyncio.sleep(0.01)
        await asyncio.gather(queue.enqueue(an_event(str(number))), _cancel(waiting))
        began = time.monotonic()
        if waiting.cancelled():
            assert (await receive_one(queue)).event.id == str(number)
        assert time.monotonic() - began < LONG, "before its lease expired"


async def _cancel(task: "asyncio.Task[list[object]]") -> None:
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
