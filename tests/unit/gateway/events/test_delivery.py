"""Deliveries: what a destination's answer leads to."""

import pytest
from event_fakes import NOW, Clock, FakeHolding, FakeQueue, make_lease

from kappa_core.event import Condition, Event, Kind, Lane, Policy
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.delivery import DeliveryRunner
from kappa_gateway.events.destinations.failure import DeliveryFailed
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.settlement import Settlement

LANE = Lane(Kind.DELIVERY, "default", "hello")
HOOK = '{"http": {"url": "https://example.com/hook"}}'


class Delivery:
    def __init__(self, answer=None):
        self.queue, self.clock, self.counts, self.holding = FakeQueue(), Clock(), EventCounts(), FakeHolding()
        self.answer, self.tried = answer, 0
        settlement = Settlement(
            self.queue,
            QueueAvailability(self.clock),
            self.counts,
            accept=self.queue.enqueue,
            result_max_bytes=4,
            clock=self.clock,
        )
        policy = Policy(max_age=1000.0, first_backoff=1.0, longest_backoff=300.0)
        self.runner = DeliveryRunner(self, settlement, self.counts, policy, self.clock)

    async def deliver(self, event):
        self.tried += 1
        if self.answer is not None:
            raise self.answer

    async def run(self, receive_count=1, *, age=0.0, destination=HOOK):
        event = Event("one", LANE, b"{}", NOW - age, {"destination": destination})
        await self.runner.make(self.holding, make_lease(event, receive_count=receive_count)).run()


async def test_what_is_taken_is_acked():
    delivery = Delivery()
    await delivery.run()
    assert delivery.queue.log == [("ack",)]
    assert delivery.holding.log == [("attempted", True)]
    assert delivery.counts.of(LANE).deliveries == {("http", "success"): 1}


@pytest.mark.parametrize(("receive_count", "delay"), [(1, 1.0), (4, 8.0), (30, 300.0)])
async def test_what_is_not_taken_is_delivered_again_ever_later(receive_count, delay):
    delivery = Delivery(DeliveryFailed("busy"))
    await delivery.run(receive_count)
    assert delivery.queue.log == [("nack", delay)]
    assert delivery.holding.log == [("attempted", False), ("due_in", delay)]


async def test_a_receiver_may_ask_for_patience():
    delivery = Delivery(DeliveryFailed("busy", retry_after=40.0))
    await delivery.run()
    assert delivery.queue.log == [("nack", 40.0)]


async def test_what_is_refused_for_good_is_dead_lettered():
    delivery = Delivery(DeliveryFailed("gone", retryable=False))
    await delivery.run(3)
    assert delivery.queue.log == [("dead_letter", Condition.RETRIES_EXHAUSTED), ("ack",)]
    assert delivery.queue.dead["one"].attempts == 3
    assert delivery.holding.log == []


async def test_the_last_try_before_it_is_too_old_ends_it():
    delivery = Delivery(DeliveryFailed("busy"))
    await delivery.run(age=999.5)
    assert delivery.queue.log == [("dead_letter", Condition.EVENT_AGE_EXCEEDED), ("ack",)]


async def test_what_is_too_old_is_not_tried():
    delivery = Delivery()
    await delivery.run(age=1001)
    assert delivery.tried == 0
    assert delivery.queue.log == [("dead_letter", Condition.EVENT_AGE_EXCEEDED), ("ack",)]
    assert delivery.queue.dead["one"].attempts == 0


async def test_a_delivery_without_a_destination_is_dead_lettered():
    delivery = Delivery()
    await delivery.run(destination="{}")
    assert delivery.tried == 0
    assert delivery.queue.dead["one"].error["errorType"] == "Kappa.UnreadableEvent"
