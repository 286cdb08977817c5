"""Who has an event in hand, and how it comes back."""

import asyncio
import random
import time

from queue_contract import LANE, Queues, an_event, ids_of, nothing_to_take, put_many, take_one, take_some

from kappa_gateway.queue.protocol import Queue


async def test_what_is_in_hand_is_not_handed_out(queue: Queue) -> None:
    await put_many(queue, 3)
    await take_some(queue, 3)
    assert await nothing_to_take(queue)


async def test_a_lease_that_runs_out_brings_the_event_back(queues: Queues) -> None:
    queue = await queues.open(queue_lease=1.0)
    await put_many(queue, 2)
    started = time.monotonic()
    first = await take_some(queue, 2)
    again = await take_some(queue, 2)
    assert time.monotonic() - started > 0.9
    assert sorted(ids_of(again)) == sorted(ids_of(first))
    assert [(lease.hand_outs, lease.fresh) for lease in again] == [(2, False)] * 2


async def test_an_extended_lease_goes_on(queues: Queues) -> None:
    queue = await queues.open(queue_lease=1.5)
    await put_many(queue, 1)
    lease = await take_one(queue)
    until = time.monotonic() + 3.5
    while time.monotonic() < until:
        await queue.extend([lease])
        assert await queue.take(LANE, 1, 0.3) == []
    assert (await take_one(queue)).hand_outs == 2, "it comes once nobody extends"


async def test_extending_nothing_and_what_is_gone(queue: Queue) -> None:
    await queue.extend([])
    await put_many(queue, 2)
    leases = await take_some(queue, 2)
    await queue.done(leases[0])
    await queue.extend(leases)
    assert await nothing_to_take(queue)


async def test_a_retry_comes_when_its_delay_is_over(queue: Queue) -> None:
    await put_many(queue, 1)
    lease = await take_one(queue)
    started = time.monotonic()
    await queue.retry(lease, 0.7)
    again = await take_one(queue)
    assert 0.6 < time.monotonic() - started < 5.0
    assert (again.event, again.hand_outs, again.fresh) == (lease.event, 2, False)


async def test_a_retry_without_delay_wakes_who_waits(queue: Queue) -> None:
    await put_many(queue, 1)
    lease = await take_one(queue)
    taking = asyncio.create_task(queue.take(LANE, 1, 30.0))
    await asyncio.sleep(0.05)
    await queue.retry(lease, 0.0)
    assert ids_of(await asyncio.wait_for(taking, 10.0)) == [lease.event.id]


async def test_a_longer_delay_than_the_lease_is_kept(queues: Queues) -> None:
    queue = await queues.open(queue_lease=0.5)
    await put_many(queue, 1)
    lease = await take_one(queue)
    started = time.monotonic()
    await queue.retry(lease, 2.0)
    await take_one(queue)
    assert time.monotonic() - started > 1.9


async def test_retries_that_are_due_come_before_new_events(queue: Queue) -> None:
    await put_many(queue, 4)
    first, second = await take_some(queue, 2)
    await queue.retry(first, 60.0)
    await queue.retry(second, 0.0)
    assert ids_of([await take_one(queue)]) == [second.event.id]
    assert ids_of(await take_some(queue, 2)) == ["event-0002", "event-0003"]


async def test_retries_come_in_the_order_they_are_due(queue: Queue) -> None:
    await put_many(queue, 3)
    first, second, third = await take_some(queue, 3)
    await queue.retry(first, 1.2)
    await queue.retry(second, 0.4)
    await queue.retry(third, 0.8)
    assert ids_of(await take_some(queue, 3)) == [second.event.id, third.event.id, first.event.id]


async def test_a_retry_counts_each_hand_out(queue: Queue) -> None:
    await put_many(queue, 1)
    for hand_outs in range(1, 6):
        lease = await take_one(queue)
        assert (lease.hand_outs, lease.fresh) == (hand_outs, hand_outs == 1)
        await queue.retry(lease, 0.0)


async def test_done_of_an_old_lease_ends_the_event(queues: Queues) -> None:
    """Its function has run to its end, whoever has it by now."""
    queue = await queues.open(queue_lease=0.5)
    await put_many(queue, 1)
    old = await take_one(queue)
    await take_one(queue)
    await queue.done(old)
    await asyncio.sleep(0.6)  # the second lease
    assert await nothing_to_take(queue)
    assert await queue.find(LANE, old.event.id) is None


async def test_leases_outlive_the_gateway(queues: Queues) -> None:
    queue = await queues.open(queue_lease=3.0)
    await put_many(queue, 2)
    started = time.monotonic()
    lease = await take_one(queue)
    queue = await queues.reopen(queue, queue_lease=3.0)
    assert (await take_one(queue)).event.id != lease.event.id, "the other one is still in a hand"
    again = await take_one(queue)
    assert again.event == lease.event
    assert (again.hand_outs, again.fresh) == (2, False)
    assert time.monotonic() - started > 2.5


# -- takes that are cancelled


async def test_a_cancelled_wait_takes_nothing(queues: Queues) -> None:
    queue = await queues.open(queue_lease=1.0)
    taking = asyncio.create_task(queue.take(LANE, 1, 30.0))
    await asyncio.sleep(0.1)
    taking.cancel()
    await asyncio.gather(taking, return_exceptions=True)
    assert taking.cancelled()
    event = an_event()
    await queue.put(event)
    assert (await take_one(queue)).event == event


async def test_takes_that_are_cancelled_at_any_moment_lose_nothing(queues: Queues) -> None:
    queue = await queues.open(queue_lease=1.0)
    seed = random.Random(4)
    got: list[str] = []
    ids: list[str] = []
    for number in range(60):
        taking = asyncio.create_task(queue.take(LANE, 3, 5.0))
        putting = asyncio.create_task(queue.put(an_event(f"event-{number:04}")))
        ids.append(f"event-{number:04}")
        await asyncio.sleep(seed.random() * 0.004)
        taking.cancel()
        await putting
        results = await asyncio.gather(taking, return_exceptions=True)
        for lease in results[0] if isinstance(results[0], list) else []:
            got.append(lease.event.id)
            await queue.done(lease)
    while len(got) < len(ids):
        lease = await take_one(queue)
        got.append(lease.event.id)
        await queue.done(lease)
    assert sorted(got) == ids
