"""What JetStream's adapter does when the server dies, stalls, comes late, or somebody takes its streams away."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterator
from pathlib import Path

import pytest
from nats_server import NatsServer, Proxy
from queue_contract import LANE, LONG, Backend, Queues, a_record, an_event, ids_of, put_many, take_one, take_some
from waiting import eventually

from kappa_core.event import Status
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
    queues = [await own.open(queue_lease=1.0, queue_timeout=10.0) for _ in range(2)]
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
            await queue.put(event)
            put.add(event.id)
            await asyncio.sleep(0.002)

    async def ending(queue: Queue) -> None:
        while not all_put.is_set() or not put <= ended.keys():
            for lease in await queue.take(LANE, 8, 0.5):
                event = lease.event
                if lease.fresh and event.id in tried:
                    wrongly_fresh.append(event.id)
                if not lease.fresh:
                    record = await queue.record(LANE.namespace, LANE.function, event.id)
                    if record is not None and record.status.final:
                        await queue.done(lease)
                        continue
                tried.add(event.id)
                ended[event.id] += 1
                await queue.save(a_record(event.id, Status.SUCCEEDED))
                await queue.done(lease)

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
        assert time.monotonic() - began < 3.0
        assert not queue.available
        with pytest.raises(QueueUnavailable, match=rf"nats://127\.0\.0\.1:{server.port}.*KAPPA_GATEWAY_QUEUE_URL"):
            await queue.put(an_event())
        with pytest.raises(QueueUnavailable):
            await queue.take(LANE, 1, 0.1)
        server.start()
        await eventually(lambda: queue.available, "the server")
        assert await queue.put(an_event())
    finally:
        await queue.close()


async def test_a_call_waits_for_a_server_that_restarts(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open(queue_timeout=10.0)
    taking = asyncio.create_task(queue.take(LANE, 1, LONG))
    await asyncio.sleep(0.1)
    server.kill()
    putting = asyncio.create_task(queue.put(an_event("one")))
    await eventually(lambda: not queue.available, "that the server is gone")
    server.start()
    assert await putting
    assert ids_of(await taking) == ["one"]


@pytest.mark.parametrize("graceful", [True, False])
async def test_what_is_in_hand_stays_in_hand_over_a_restart(server: NatsServer, own: Queues, graceful: bool) -> None:
    server.start()
    queue = await own.open(queue_lease=2.0)
    await put_many(queue, 3)
    leases = await take_some(queue, 3)
    if graceful:
        server.stop()
    else:
        server.kill()
    server.start()
    await eventually(lambda: queue.available, "the server")
    # A killed server may have forgotten whose they are; this gateway has not.
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        await queue.extend(leases)
        assert await queue.take(LANE, 10, 0.3) == []
    for lease in leases:
        await queue.done(lease)
    deadline = time.monotonic() + LONG
    while await queue.events(LANE, limit=1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_what_a_killed_server_may_have_handed_out_is_not_fresh(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open(queue_lease=0.5)
    await put_many(queue, 2)
    await take_some(queue, 1)
    server.kill()
    server.start()
    await eventually(lambda: queue.available, "the server")
    known: set[str] = set()
    while len(known) < 2:
        for lease in await take_some(queue, 1):
            assert (lease.fresh, lease.counted) == (False, False)
            known.add(lease.event.id)
            await queue.done(lease)
    await put_many(queue, 1, prefix="later")
    later = await take_one(queue)
    assert (later.event.id, later.fresh, later.counted) == ("later-0000", True, True)


async def test_no_try_begins_on_a_lease_that_a_killed_server_may_have_forgotten(
    server: NatsServer, own: Queues
) -> None:
    server.start()
    queue = await own.open(queue_lease=2.0, queue_timeout=10.0)
    await put_many(queue, 2)
    begun, waiting = await take_some(queue, 2)
    assert queue.may_begin(begun)
    assert queue.may_begin(waiting)
    server.kill()
    await eventually(lambda: not queue.available, "that the queue is away")
    server.start()
    await eventually(lambda: queue.available, "that the queue is back")
    assert not queue.may_begin(waiting)
    again = await take_one(queue)
    assert again.event == waiting.event, "what was let go of comes again, and what is in hand does not"
    assert queue.may_begin(again)


async def test_a_key_is_known_after_a_restart(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open()
    event = an_event("keyed", keyed=True)
    assert await queue.put(event)
    lease = await take_one(queue)
    await queue.save(a_record("keyed", Status.SUCCEEDED, received_at=event.received_at))
    await queue.done(lease)
    server.kill()
    server.start()
    await eventually(lambda: queue.available, "the server")
    assert not await queue.put(event)
    assert await queue.take(LANE, 1, 0.1) == []


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
                assert await queue.put(an_event(event_id))
                put.append(event_id)

        tasks = [asyncio.create_task(putting(name)) for name in "abcd"]
        for cuts in range(10):
            await _more(put, 20)
            proxy.cut()
            await asyncio.sleep(0.01 * cuts)
        stop.set()
        await asyncio.gather(*tasks)
        taken = ids_of(await take_some(queue, len(put)))
        assert sorted(taken) == sorted(put)
        await queues.close_all()


async def test_a_stalled_connection_is_an_error_in_time_and_then_another(server: NatsServer) -> None:
    server.start()
    async with Proxy(server.port) as proxy:
        queues = Queues(Backend("jetstream", {"queue_url": proxy.url}, shared=True))
        queue = await queues.open(queue_timeout=1.0)
        await queue.put(an_event("before"))
        proxy.stall()
        began = time.monotonic()
        with pytest.raises(QueueUnavailable, match="no answer"):
            await queue.put(an_event("during"))
        with pytest.raises(QueueUnavailable):
            await queue.save(a_record("during"))
        with pytest.raises(QueueUnavailable):
            await queue.lanes()
        assert time.monotonic() - began < 6.0
        await eventually(lambda: not queue.available, "that the connection is of no use")
        proxy.flow()
        await eventually(lambda: queue.available, "the next connection")
        assert await queue.put(an_event("after"))
        taken: set[str] = set()  # "during" may be among them
        while not {"before", "after"} <= taken:
            taken |= set(ids_of(await take_some(queue, 1)))
        await queues.close_all()


async def test_closing_does_not_wait_for_a_stalled_server(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open()
    server.stall()
    began = time.monotonic()
    await own.close(queue)
    assert time.monotonic() - began < 4.0


# -- somebody else's hands


async def _api(queue: Queue, what: str) -> None:
    assert isinstance(queue, JetStreamQueue)
    link = queue._connection.link
    assert link is not None
    await link.ask(f"$JS.API.{what}", deadline=asyncio.get_running_loop().time() + 5)


STREAM = "kappa_invocation_default_resize"


async def test_a_consumer_that_somebody_deleted_is_made_again(server: NatsServer, own: Queues) -> None:
    server.start()
    queue, other = await own.open(), await own.open()
    await put_many(queue, 2)
    held = await take_one(queue)
    waiting = asyncio.create_task(other.take(LANE, 10, LONG))
    (second,) = await waiting
    waiting = asyncio.create_task(queue.take(LANE, 10, 3.0))
    await asyncio.sleep(0.1)
    await _api(queue, f"CONSUMER.DELETE.{STREAM}.dispatch")
    # It has forgotten what was handed out: what this gateway holds it keeps, the other's comes, and is not fresh.
    again = await waiting
    assert [(lease.event.id, lease.fresh) for lease in again] == [(second.event.id, False)]
    await queue.done(held)
    await queue.retry(second, 0.0)


async def test_a_stream_that_somebody_deleted_is_made_again(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open()
    await put_many(queue, 1)
    lease = await take_one(queue)
    waiting = asyncio.create_task(queue.take(LANE, 1, LONG))
    await asyncio.sleep(0.1)
    await _api(queue, f"STREAM.DELETE.{STREAM}")
    await queue.done(lease)
    assert await queue.put(an_event("after"))
    assert ids_of(await waiting) == ["after"]
    await _api(queue, "STREAM.DELETE.kappa_records")
    await queue.save(a_record("after", Status.SUCCEEDED))
    assert ids_of(await queue.records(LANE.namespace, LANE.function, limit=10)) == ["after"]


async def test_a_cancelled_take_gives_back_at_once(server: NatsServer, own: Queues) -> None:
    server.start()
    queue = await own.open()
    for number in range(20):
        waiting = asyncio.create_task(queue.take(LANE, 1, LONG))
        await asyncio.sleep(0.01)
        await asyncio.gather(queue.put(an_event(str(number))), _cancel(waiting))
        began = time.monotonic()
        if waiting.cancelled():
            assert (await take_one(queue)).event.id == str(number)
        assert time.monotonic() - began < 8.0


async def _cancel(task: "asyncio.Task[list[object]]") -> None:
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
