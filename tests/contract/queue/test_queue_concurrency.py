"""Many at once: each event has one holder."""

import asyncio
from collections import Counter

from queue_contract import LANE, OTHER_LANE, Queues, an_event, receive_some

from kappa_core.event import Kind, Lane
from kappa_gateway.queue.protocol import Queue

EVENTS = 400
WORKERS = 40


async def _work(queue: Queue, lane: Lane, seen: Counter[str], count: int) -> None:
    """Receive and ack events until all receivers together have seen `count` events of the lane."""
    while len(seen) < count:
        for number, lease in enumerate(await queue.receive(lane, 5, 0.2)):
            seen[lease.event.id] += 1
            if number % 7 == 6:
                seen[lease.event.id] -= 1
                if not seen[lease.event.id]:
                    del seen[lease.event.id]
                await queue.nack(lease, 0.0)
            else:
                await queue.extend([lease])
                await queue.ack(lease)


async def test_each_event_is_worked_on_once(queue: Queue) -> None:
    seen: Counter[str] = Counter()
    ids = [f"event-{number}" for number in range(EVENTS)]
    putting = [queue.enqueue(an_event(event_id, payload=b"x" * 2000)) for event_id in ids]
    working = [_work(queue, LANE, seen, EVENTS) for _ in range(WORKERS)]
    async with asyncio.timeout(60.0):
        await asyncio.gather(*putting, *working)
    assert seen == Counter(ids)
    assert await queue.events(LANE, limit=10) == []


async def test_the_same_id_at_once_is_one_event(queue: Queue) -> None:
    async with asyncio.timeout(60.0):
        added = await asyncio.gather(*(queue.enqueue(an_event("same", keyed=True)) for _ in range(50)))
    assert sum(added) == 1
    assert len(await queue.events(LANE, limit=10)) == 1


async def test_many_lanes_at_once(queue: Queue) -> None:
    lanes = [Lane(Kind.INVOCATION, "default", f"function-{number}") for number in range(20)]
    seen = {lane: Counter[str]() for lane in lanes}
    puts = [queue.enqueue(an_event(f"{number}", lane)) for number in range(10) for lane in lanes]
    async with asyncio.timeout(60.0):
        await asyncio.gather(*puts, *(_work(queue, lane, seen[lane], 10) for lane in lanes))
    assert all(len(found) == 10 and found.total() == 10 for found in seen.values())


async def test_a_lane_with_much_work_does_not_hold_up_another(queues: Queues) -> None:
    queue = await queues.open()
    flood = [asyncio.create_task(queue.enqueue(an_event(payload=b"x" * 1000))) for _ in range(EVENTS)]
    await queue.enqueue(an_event("mail", OTHER_LANE))
    (lease,) = await receive_some(queue, 1, OTHER_LANE)
    assert lease.event.id == "mail"
    await asyncio.gather(*flood)
