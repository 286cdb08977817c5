"""The parts of the asynchronous side together: an event's life in a gateway that has no pod yet, and its stop."""

import asyncio

import pytest
from event_fakes import LANE, FakeQueue, make_event, make_functions, make_lease, make_manifest
from waiting import eventually

from kappa_core.metrics import EVENTS_RECEIVED
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.service import Events
from kappa_gateway.invoke.invoker import Invoker
from kappa_gateway.pods.dispatcher import Dispatcher
from kappa_gateway.pods.offer import NoWarmPods
from kappa_gateway.pods.platform import Peer
from kappa_gateway.queue.protocol import LaneState
from kappa_gateway.settings import Settings


class Side:
    def __init__(self, **settings):
        self.queue, self.functions, self.backlog = FakeQueue(lease_seconds=0.03), make_functions(), Backlog()
        self.function = self.functions.get("default", "hello")
        self.claimant, self.peers = None, []
        loop = asyncio.get_running_loop()
        dispatcher = Dispatcher(
            loop.time,
            NoWarmPods(),
            call_at=lambda when, call: loop.call_at(when, call),
            on_demand=lambda function: None,
        )
        invoker = Invoker(
            dispatcher,
            dialer=None,
            claims=None,
            specializer=None,
            does_not_fit=lambda function, why: None,
            peers=None,
            connect_timeout=1.0,
            answer_margin=1.0,
            max_wait=60.0,
        )
        self.events = Events(
            self.queue,
            self,
            self.functions,
            invoker,
            self.backlog,
            Settings(**settings),
            claimant=lambda function: self.claimant,
            notify_claimant=lambda peer, function: self.peers.append(peer),
            clock=lambda: make_event().received_at,
        )

    async def deliver(self, event):
        raise AssertionError("no delivery was asked for")

    async def enqueue(self):
        self.queue.waiting = [make_lease()]
        return await self.events.intake.enqueue(self.function, "one", b"{}", {}, keyed=False)


@pytest.fixture
async def side():
    side = Side()
    task = asyncio.create_task(side.events.run())
    yield side
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_an_accepted_event_waits_for_a_pod_with_its_lease_extended_and_is_nacked_at_the_stop(side):
    assert await side.enqueue()
    await eventually(lambda: side.function.waiters, "the event waits for a pod")
    await eventually(lambda: ("extend", ["one"]) in side.queue.log, "its lease is extended")
    assert not side.events.is_running("one")
    await side.events.drain(5.0)
    assert ("nack", 0.0) in side.queue.log
    assert not side.function.waiters
    assert not side.events.lanes.tasks()


async def test_what_is_accepted_after_the_stop_stays_in_the_queue(side):
    side.events.stop()
    assert await side.enqueue()
    assert not side.events.lanes.tasks()


async def test_the_claimant_of_a_function_without_pods_is_woken_and_receives_its_events(side):
    side.claimant = Peer("other", "10.0.0.2")
    assert await side.enqueue()
    side.queue.states = [LaneState(LANE, 1, 0, None)]
    await eventually(lambda: side.queue.log.count(("lanes",)) > 0, "a look at the queue")
    assert side.peers == [side.claimant]
    assert not any(entry[0] == "receive" for entry in side.queue.log)
    side.claimant = None
    side.events.notify(LANE)
    await eventually(lambda: side.function.waiters, "the event is received here now")


async def test_a_deleted_function_leaves_no_counts(side):
    await side.enqueue()
    await eventually(lambda: side.function.waiters, "the event waits for a pod")
    side.events.stop()
    assert ("default", "hello") in side.events.counts.functions
    side.functions.remove("default", "hello")
    side.functions.discard_if_unused(side.function)
    assert ("default", "hello") not in side.events.counts.functions


async def test_its_metrics_are_read_at_a_scrape(side):
    await side.enqueue()
    families = {family.name: family for family in side.events.collector().collect()}
    (sample,) = families[EVENTS_RECEIVED.name.removesuffix("_total")].samples
    assert (sample.labels, sample.value) == ({"namespace": "default", "function": "hello"}, 1.0)


async def test_namespaces_that_are_not_served_are_left_to_other_gateways():
    side = Side(namespaces=["team-a"])
    side.functions.put(make_manifest(namespace="team-a"))
    assert not side.events.lanes.serves(LANE)
    await side.enqueue()
    assert len(side.events.lanes) == 0
