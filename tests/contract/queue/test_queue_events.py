"""Putting, receiving, ending and looking at events."""

import asyncio
import time

import pytest
from queue_contract import (
    LANE,
    LONG,
    OTHER_LANE,
    Queues,
    an_event,
    enqueue_many,
    ids_of,
    nothing_to_receive,
    receive_one,
    receive_some,
)

from kappa_core.event import Kind, Lane
from kappa_gateway.queue.protocol import Queue, QueueFull


async def test_an_event_comes_out_as_it_went_in(queue: Queue) -> None:
    event = an_event(payload=b'{"\xc3\xa9": 1}\x00\xff', attributes={"Kappa-Trace-Id": "Root=1"}, keyed=True)
    assert await queue.enqueue(event)
    lease = await receive_one(queue)
    assert lease.event == event
    assert (lease.receive_count, lease.waiting) == (1, 0)


async def test_an_event_that_comes_for_the_first_time_is_fresh(queue: Queue) -> None:
    await enqueue_many(queue, 3)
    assert all(lease.fresh for lease in await receive_some(queue, 3))


@pytest.mark.parametrize(
    "value",
    [
        "",
        " padded ",
        "ünïcödé 漢字 🎈",
        "two\nlines\r\nand\ttabs",
        "a: b",
        "x" * 20_000,
        '{"json": "\\"quoted\\""}',
        "\x00",
    ],
)
async def test_attributes_hold_any_text(queue: Queue, value: str) -> None:
    event = an_event(attributes={"http.query": value, "other": "1"})
    await queue.enqueue(event)
    assert (await receive_one(queue)).event.attributes == event.attributes
    assert await queue.find(LANE, event.id) == event


@pytest.mark.parametrize("size", [0, 1, 1024 * 1024])
async def test_payloads_of_any_size(queue: Queue, size: int) -> None:
    event = an_event(payload=bytes(range(256)) * (size // 256) + b"x" * (size % 256))
    assert len(event.payload) == size
    await queue.enqueue(event)
    assert (await receive_one(queue)).event.payload == event.payload


async def test_events_come_in_the_order_they_were_put(queue: Queue) -> None:
    ids = await enqueue_many(queue, 30)
    assert ids_of(await receive_some(queue, 10)) == ids[:10]
    assert ids_of(await receive_some(queue, 20)) == ids[10:]


async def test_receive_returns_no_more_than_asked_for(queue: Queue) -> None:
    await enqueue_many(queue, 5)
    assert len(await queue.receive(LANE, 2, 1.0)) <= 2
    assert await queue.receive(LANE, 0, 0.0) == []


async def test_the_last_lease_says_how_many_more_wait(queue: Queue) -> None:
    await enqueue_many(queue, 7)
    assert (await receive_some(queue, 3))[-1].waiting == 4


async def test_receive_waits_for_the_first_event_only(queue: Queue) -> None:
    receiving = asyncio.create_task(queue.receive(LANE, 10, 10 * LONG))
    await asyncio.sleep(0)
    event = an_event()
    started = time.monotonic()
    await queue.enqueue(event)
    assert ids_of(await asyncio.wait_for(receiving, LONG)) == [event.id]
    assert time.monotonic() - started < LONG


async def test_receive_from_an_empty_lane_ends_after_its_wait(queue: Queue) -> None:
    started = time.monotonic()
    assert await queue.receive(LANE, 1, 0.3) == []
    assert 0.25 < time.monotonic() - started < LONG
    assert await queue.receive(Lane(Kind.INVOCATION, "nowhere", "nothing"), 1, 0.0) == []


async def test_several_who_wait_get_an_event_each(queue: Queue) -> None:
    takers = [asyncio.create_task(receive_one(queue)) for _ in range(5)]
    await asyncio.sleep(0.05)
    ids = await enqueue_many(queue, 5)
    assert sorted(lease.event.id for lease in await asyncio.gather(*takers)) == ids


async def test_an_acknowledged_event_is_gone_for_good(queues: Queues) -> None:
    lease = queues.seconds(1.0)
    queue = await queues.open(queue_lease=lease)
    await enqueue_many(queue, 2)
    first, second = await receive_some(queue, 2)
    await queue.ack(first)
    await queue.ack(first)
    queues.skip(lease)
    again = await receive_one(queue)
    assert again.event.id == second.event.id
    await queue.ack(again)
    await _empty(queue)
    assert await queue.find(LANE, first.event.id) is None


async def _empty(queue: Queue) -> None:
    """An adapter may report counts that are a moment old."""
    deadline = time.monotonic() + LONG
    while held := sum(state.waiting + state.held for state in await queue.lanes()):
        assert time.monotonic() < deadline, f"{held} events are still there"
        await asyncio.sleep(0.01)


# -- lanes


async def test_lanes_do_not_wait_for_each_other(queue: Queue) -> None:
    await enqueue_many(queue, 300)
    mail = an_event(lane=OTHER_LANE)
    await queue.enqueue(mail)
    assert (await receive_one(queue, OTHER_LANE)).event == mail
    assert await nothing_to_receive(queue, OTHER_LANE)


@pytest.mark.parametrize(
    "lane",
    [
        Lane(Kind.DELIVERY, LANE.namespace, LANE.function),
        Lane(LANE.kind, "other", LANE.function),
        Lane(LANE.kind, LANE.namespace, f"{LANE.function}-2"),
    ],
)
async def test_lanes_of_like_names_are_apart(queue: Queue, lane: Lane) -> None:
    one, other = an_event("same"), an_event("same", lane, b"other")
    assert await queue.enqueue(one)
    assert await queue.enqueue(other)
    assert (await receive_one(queue, lane)).event == other
    assert (await receive_one(queue)).event == one


async def test_lanes_report_what_they_hold(queue: Queue) -> None:
    assert [state for state in await queue.lanes() if state.waiting or state.held] == []
    oldest = an_event("first", received_at=1_700_000_000.0)
    await queue.enqueue(oldest)
    await enqueue_many(queue, 4)
    await queue.enqueue(an_event(lane=OTHER_LANE))
    held, *_ = await receive_some(queue, 2)
    states = {state.lane: state for state in await queue.lanes()}
    assert (states[LANE].waiting, states[LANE].held) == (3, 2)
    assert (states[OTHER_LANE].waiting, states[OTHER_LANE].held) == (1, 0)
    await queue.nack(held, 60.0)
    states = {state.lane: state for state in await queue.lanes()}
    assert (states[LANE].waiting, states[LANE].held) == (3, 2), "what waits for its next try is held"


# -- to look at


async def test_find_sees_an_event_until_it_is_acked(queue: Queue) -> None:
    event = an_event(payload=b"payload", attributes={"a": "ö"})
    assert await queue.find(LANE, event.id) is None
    await queue.enqueue(event)
    assert await queue.find(LANE, event.id) == event
    assert await queue.find(OTHER_LANE, event.id) is None
    lease = await receive_one(queue)
    assert await queue.find(LANE, event.id) == event
    await queue.nack(lease, 60.0)
    assert await queue.find(LANE, event.id) == event


async def test_events_lists_a_lane_in_pages(queue: Queue) -> None:
    assert await queue.events(LANE, limit=10) == []
    ids = await enqueue_many(queue, 7)
    await enqueue_many(queue, 3, OTHER_LANE, "mail")
    await receive_some(queue, 1)
    assert ids_of(await queue.events(LANE, limit=100)) == ids
    assert ids_of(await queue.events(LANE, limit=3)) == ids[:3]
    assert ids_of(await queue.events(LANE, limit=3, after=ids[2])) == ids[3:6]
    assert ids_of(await queue.events(LANE, limit=3, after=ids[6])) == []
    assert ids_of(await queue.events(LANE, limit=2, after="gone")) == ids[:2]


# -- deduplication


async def test_an_id_that_is_in_its_lane_is_not_added_again(queues: Queues) -> None:
    window = queues.seconds(1.0)
    queue = await queues.open(queue_deduplication_window=window, queue_lease=3 * window + 60.0)
    event = an_event(keyed=True)
    assert await queue.enqueue(event)
    assert not await queue.enqueue(event)
    lease = await receive_one(queue)
    await queues.elapse(window * 1.2)
    assert not await queue.enqueue(event)
    assert await nothing_to_receive(queue)
    await queue.nack(lease, 60.0)
    assert not await queue.enqueue(event)


async def test_an_id_is_the_same_event_within_the_window_after_its_ack(queues: Queues) -> None:
    window = queues.seconds(6.0)
    queue = await queues.open(queue_deduplication_window=window)
    event = an_event(keyed=True)
    came = queues.now()
    assert await queue.enqueue(event)
    await queue.ack(await receive_one(queue))
    assert not await queue.enqueue(event)
    assert await nothing_to_receive(queue)
    await queues.not_before(window, lambda: queue.enqueue(event))
    deadline = time.monotonic() + LONG
    while not await queue.enqueue(event):
        assert time.monotonic() < deadline, "the window does not end"
        await asyncio.sleep(0.05)
    assert queues.now() - came >= window * 0.95
    assert (await receive_one(queue)).event.id == event.id


async def test_the_window_goes_on_over_a_restart(queues: Queues) -> None:
    queue = await queues.open()
    event = an_event(keyed=True)
    await queue.enqueue(event)
    await queue.ack(await receive_one(queue))
    queue = await queues.reopen(queue)
    assert not await queue.enqueue(event)


# -- limits


async def test_a_full_lane_refuses_and_takes_again_when_there_is_room(queues: Queues) -> None:
    queue = await queues.open(queue_max_bytes=200_000)

    async def fill() -> None:
        for number in range(100):
            await queue.enqueue(an_event(str(number), payload=b"x" * 10_000))

    with pytest.raises(QueueFull, match="queue_max_bytes") as caught:
        await fill()
    assert (caught.value.status, caught.value.body()["Reason"]) == (429, "QueueFull")
    assert await queue.enqueue(an_event(lane=OTHER_LANE)), "one function's queue is full, not another's"
    await queue.ack(await receive_one(queue))
    assert await queue.enqueue(an_event(payload=b"x" * 5_000))


# -- purge


async def test_purge_removes_waiting_and_leased_events(queues: Queues) -> None:
    queue = await queues.open()
    ids = await enqueue_many(queue, 5)
    await enqueue_many(queue, 2, OTHER_LANE, "mail")
    held, retried, *_ = await receive_some(queue, 2)
    await queue.nack(retried, 0.0)
    assert await queue.purge(LANE) == 5
    await queue.extend([held])
    await queue.nack(held, 0.0)
    await queue.ack(retried)
    assert await queue.purge(LANE) == 0
    assert await nothing_to_receive(queue)
    assert await queue.find(LANE, ids[0]) is None
    assert len(await receive_some(queue, 2, OTHER_LANE)) == 2
    assert await queue.enqueue(an_event("new"))
    assert (await receive_one(queue)).event.id == "new"


async def test_a_lease_from_before_a_purge_ends_no_later_event(queue: Queue) -> None:
    await queue.enqueue(an_event("old"))
    old = await receive_one(queue)
    await queue.purge(LANE)
    await queue.enqueue(an_event("new"))
    await queue.ack(old)
    assert (await receive_one(queue)).event.id == "new"


async def test_purge_of_what_is_not_there(queue: Queue) -> None:
    assert await queue.purge(Lane(Kind.INVOCATION, "nowhere", "nothing")) == 0
    await queue.drop_lane(Lane(Kind.INVOCATION, "nowhere", "nothing"))


async def test_a_dropped_lane_is_forgotten_and_can_come_again(queue: Queue) -> None:
    ids = await enqueue_many(queue, 3)
    lease = await receive_one(queue)
    await queue.drop_lane(LANE)
    assert LANE not in [state.lane for state in await queue.lanes() if state.waiting or state.held]
    await queue.ack(lease)
    assert await queue.enqueue(an_event(ids[0])), "its function is another one now"
    found = await receive_one(queue)
    assert (found.event.id, found.receive_count) == (ids[0], 1)
