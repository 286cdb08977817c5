"""Who holds an event, and how it is redelivered."""

import asyncio
import random
import time

from queue_contract import (
    LANE,
    LONG,
    Queues,
    an_event,
    enqueue_many,
    ids_of,
    nothing_to_receive,
    receive_one,
    receive_some,
)

from kappa_gateway.queue.protocol import Queue


async def test_a_leased_event_is_not_delivered_again(queue: Queue) -> None:
    await enqueue_many(queue, 3)
    await receive_some(queue, 3)
    assert await nothing_to_receive(queue)


async def test_a_lease_that_runs_out_brings_the_event_back(queues: Queues) -> None:
    lease = queues.seconds(3.0)
    queue = await queues.open(queue_lease=lease)
    await enqueue_many(queue, 2)
    started = queues.now()
    first = await receive_some(queue, 2)
    await queues.not_before(lease, lambda: queue.receive(LANE, 2, 0.0))
    again = await receive_some(queue, 2)
    assert queues.now() - started > lease * 0.9
    assert sorted(ids_of(again)) == sorted(ids_of(first))
    assert [(lease.receive_count, lease.fresh) for lease in again] == [(2, False)] * 2


async def test_an_extended_lease_goes_on(queues: Queues) -> None:
    seconds = queues.seconds(4.0)
    queue = await queues.open(queue_lease=seconds)
    await enqueue_many(queue, 1)
    lease = await receive_one(queue)
    for _ in range(12):  # a lease and a half
        await queue.extend([lease])
        await queues.elapse(seconds / 8)
        assert await queue.receive(LANE, 1, 0.0) == []
    queues.skip(seconds)
    assert (await receive_one(queue)).receive_count == 2, "it comes once nobody extends"


async def test_extending_nothing_and_what_is_gone(queue: Queue) -> None:
    await queue.extend([])
    await enqueue_many(queue, 2)
    leases = await receive_some(queue, 2)
    await queue.ack(leases[0])
    await queue.extend(leases)
    assert await nothing_to_receive(queue)


async def test_a_retry_comes_when_its_delay_is_over(queue: Queue) -> None:
    """Within one `receive`, which wakes up when the retry is due."""
    await enqueue_many(queue, 1)
    lease = await receive_one(queue)
    started = time.monotonic()
    await queue.nack(lease, 0.7)
    (again,) = await queue.receive(LANE, 1, LONG)
    assert 0.6 < time.monotonic() - started < LONG
    assert (again.event, again.receive_count, again.fresh) == (lease.event, 2, False)


async def test_a_retry_without_delay_wakes_who_waits(queue: Queue) -> None:
    await enqueue_many(queue, 1)
    lease = await receive_one(queue)
    receiving = asyncio.create_task(queue.receive(LANE, 1, 30.0))
    await asyncio.sleep(0.05)
    await queue.nack(lease, 0.0)
    assert ids_of(await asyncio.wait_for(receiving, 10.0)) == [lease.event.id]


async def test_a_longer_delay_than_the_lease_is_kept(queues: Queues) -> None:
    delay = queues.seconds(2.0)
    queue = await queues.open(queue_lease=delay / 4)
    await enqueue_many(queue, 1)
    lease = await receive_one(queue)
    started = queues.now()
    await queue.nack(lease, delay)
    await queues.not_before(delay, lambda: queue.receive(LANE, 1, 0.0))
    await receive_one(queue)
    assert queues.now() - started > delay * 0.95


async def test_retries_that_are_due_come_before_new_events(queue: Queue) -> None:
    await enqueue_many(queue, 4)
    first, second = await receive_some(queue, 2)
    await queue.nack(first, 60.0)
    await queue.nack(second, 0.0)
    assert ids_of([await receive_one(queue)]) == [second.event.id]
    assert ids_of(await receive_some(queue, 2)) == ["event-0002", "event-0003"]


async def test_retries_come_in_the_order_they_are_due(queues: Queues) -> None:
    queue = await queues.open()
    await enqueue_many(queue, 3)
    first, second, third = await receive_some(queue, 3)
    await queue.nack(first, 3.0)
    await queue.nack(second, 1.0)
    await queue.nack(third, 2.0)
    queues.skip(3.0)
    assert ids_of(await receive_some(queue, 3)) == [second.event.id, third.event.id, first.event.id]


async def test_the_receive_count_counts_each_delivery(queue: Queue) -> None:
    await enqueue_many(queue, 1)
    for receive_count in range(1, 6):
        lease = await receive_one(queue)
        assert (lease.receive_count, lease.fresh) == (receive_count, receive_count == 1)
        await queue.nack(lease, 0.0)


async def test_ack_of_an_old_lease_ends_the_event(queues: Queues) -> None:
    """Its function has run to its end, whoever has it by now."""
    lease = queues.seconds(1.0)
    queue = await queues.open(queue_lease=lease)
    await enqueue_many(queue, 1)
    old = await receive_one(queue)
    queues.skip(lease)
    await receive_one(queue)
    await queue.ack(old)
    await queues.elapse(lease * 1.2)  # the second lease
    assert await nothing_to_receive(queue)
    assert await queue.find(LANE, old.event.id) is None


async def test_leases_outlive_the_gateway(queues: Queues) -> None:
    seconds = queues.seconds(5.0)
    queue = await queues.open(queue_lease=seconds)
    await enqueue_many(queue, 2)
    started = queues.now()
    lease = await receive_one(queue)
    queue = await queues.reopen(queue, queue_lease=seconds)
    assert (await receive_one(queue)).event.id != lease.event.id, "the first one is still leased"
    queues.skip(seconds)
    again = await receive_one(queue)
    assert again.event == lease.event
    assert (again.receive_count, again.fresh) == (2, False)
    assert queues.now() - started > seconds * 0.9


# -- calls of receive that are cancelled


async def test_a_cancelled_wait_receives_nothing(queues: Queues) -> None:
    queue = await queues.open(queue_lease=1.0)
    receiving = asyncio.create_task(queue.receive(LANE, 1, 30.0))
    await asyncio.sleep(0.1)
    receiving.cancel()
    await asyncio.gather(receiving, return_exceptions=True)
    assert receiving.cancelled()
    event = an_event()
    await queue.enqueue(event)
    assert (await receive_one(queue)).event == event


async def test_receives_that_are_cancelled_at_any_moment_lose_nothing(queues: Queues) -> None:
    queue = await queues.open(queue_lease=1.0)
    seed = random.Random(4)
    got: list[str] = []
    ids: list[str] = []
    for number in range(60):
        receiving = asyncio.create_task(queue.receive(LANE, 3, 5.0))
        putting = asyncio.create_task(queue.enqueue(an_event(f"event-{number:04}")))
        ids.append(f"event-{number:04}")
        await asyncio.sleep(seed.random() * 0.004)
        receiving.cancel()
        await putting
        results = await asyncio.gather(receiving, return_exceptions=True)
        for lease in results[0] if isinstance(results[0], list) else []:
            got.append(lease.event.id)
            await queue.ack(lease)
    while len(got) < len(ids):
        lease = await receive_one(queue)
        got.append(lease.event.id)
        await queue.ack(lease)
    assert sorted(got) == ids
