"""Where events come in: limits, counts, and who is woken."""

import asyncio

import pytest
from event_fakes import LANE, Clock, FakeQueue, make_event, make_functions, make_manifest

from kappa_core.errors import QueueUnavailable, RequestTooLarge
from kappa_core.event import Kind, Lane
from kappa_gateway.events import intake as intakes
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.intake import Intake
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.pods.platform import Peer

OTHER = Peer("other", "10.0.0.2")


class Door:
    def __init__(self, left_to=None):
        self.queue, self.functions, self.backlog, self.counts = FakeQueue(), make_functions(), Backlog(), EventCounts()
        self.function = self.functions.get("default", "hello")
        self.woken, self.peers = [], []
        self.intake = Intake(
            self.queue,
            self.functions,
            self.backlog,
            self.counts,
            notify=self.woken.append,
            left_to=lambda function: left_to,
            notify_peer=lambda peer, function: self.peers.append((peer, function)),
            clock=Clock(),
        )

    async def enqueue(self, request_id="one", payload=b"{}"):
        return await self.intake.enqueue(self.function, request_id, payload, {}, keyed=False)


async def test_a_new_event_wakes_its_lane_and_is_demand():
    door = Door()
    assert await door.enqueue()
    assert (door.woken, door.peers) == ([LANE], [])
    assert door.backlog(door.function) == 1
    assert door.counts.of(LANE).received == 1


async def test_an_event_that_another_gateway_receives_wakes_that_one_and_is_its_demand():
    door = Door(left_to=OTHER)
    assert await door.enqueue()
    assert (door.woken, door.peers) == ([], [(OTHER, door.function)])
    assert door.backlog(door.function) == 0


async def test_a_duplicate_wakes_nobody():
    door = Door()
    door.queue.duplicates.add("one")
    assert not await door.enqueue()
    assert (door.woken, door.backlog(door.function)) == ([], 0)
    assert (door.counts.of(LANE).received, door.counts.of(LANE).deduplicated) == (0, 1)


async def test_an_event_that_the_queue_cannot_hold_is_too_large():
    door = Door()
    door.queue.max_event_bytes = 10
    assert await door.enqueue(payload=b"x" * 10)
    with pytest.raises(RequestTooLarge):
        await door.enqueue(payload=b"x" * 11)


async def test_a_slow_queue_costs_a_bounded_number_of_events(monkeypatch):
    monkeypatch.setattr(intakes, "MAX_STORING", 2)
    door = Door()
    stored = asyncio.Event()

    async def slow(event):
        await stored.wait()
        return True

    door.queue.enqueue = slow
    waiting = [asyncio.create_task(door.enqueue(str(number))) for number in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(QueueUnavailable):
        await door.enqueue("three")
    stored.set()
    assert await asyncio.gather(*waiting) == [True, True]
    assert await door.enqueue("three")


async def test_a_delivery_wakes_its_lane_whatever_becomes_of_its_function():
    door, lane = Door(left_to=OTHER), Lane(Kind.DELIVERY, "default", "gone")
    assert await door.intake.accept(make_event(lane=lane))
    assert (door.woken, door.peers) == ([lane], [])
    assert door.counts.functions == {}


async def test_an_event_for_a_function_that_does_not_exist_waits_in_the_queue():
    door = Door()
    assert await door.intake.accept(make_event(lane=Lane(Kind.INVOCATION, "default", "gone")))
    assert door.woken == []
    door.functions.put(make_manifest("gone"))
    assert door.backlog(door.functions.get("default", "gone")) == 0
