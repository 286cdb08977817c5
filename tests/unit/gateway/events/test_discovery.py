"""What follows from what the queue holds."""

import pytest
from event_fakes import LANE, NOW, Clock, FakeQueue, make_functions, make_manifest

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.discovery import IDLE_LANE_KEPT, Discovery
from kappa_gateway.events.metrics import EventCounts
from kappa_gateway.events.policies import ABANDONED_AFTER
from kappa_gateway.queue.protocol import LaneState

GONE = Lane(Kind.INVOCATION, "default", "gone")


class Lanes:
    def __init__(self):
        self.notified, self.in_hand = [], {}

    def serves(self, lane):
        return lane.namespace != "other"

    def held(self, lane):
        return self.in_hand.get(lane, 0)

    def notify(self, lane, *, abandoned=False):
        self.notified.append((lane, abandoned))


class Look:
    def __init__(self):
        self.queue, self.lanes, self.backlog, self.counts = FakeQueue(), Lanes(), Backlog(), EventCounts()
        self.functions, self.clock, self.monotonic = make_functions(make_manifest()), Clock(), Clock(0.0)
        self.function = self.functions.get("default", "hello")
        self.discovery = Discovery(
            self.queue,
            QueueAvailability(self.monotonic),
            self.functions,
            self.lanes,
            self.backlog,
            self.counts,
            clock=self.clock,
            monotonic=self.monotonic,
        )

    async def at(self, *states):
        self.queue.states, self.lanes.notified = list(states), []
        await self.discovery.look()
        return self.lanes.notified


@pytest.fixture
def look():
    return Look()


async def test_a_lane_with_work_is_woken_counted_and_reported_as_demand(look):
    assert await look.at(LaneState(LANE, 7, 2, NOW - 5)) == [(LANE, False)]
    assert look.backlog(look.function) == 7
    counted = look.counts.of(LANE)
    assert (counted.waiting, counted.held, counted.oldest_at) == (7, 2, NOW - 5)
    assert await look.at() == []
    assert look.backlog(look.function) == 0
    assert (counted.waiting, counted.held, counted.oldest_at) == (0, 0, None)


async def test_a_lane_of_which_all_is_held_here_has_no_work(look):
    look.lanes.in_hand[LANE] = 2
    assert await look.at(LaneState(LANE, 0, 2, NOW)) == []
    assert await look.at(LaneState(LANE, 0, 3, NOW)) == [(LANE, False)]


async def test_events_of_a_deleted_function_stay_until_they_are_too_old(look):
    assert await look.at(LaneState(GONE, 1, 0, NOW - ABANDONED_AFTER)) == []
    assert await look.at(LaneState(GONE, 1, 0, NOW - ABANDONED_AFTER - 1)) == [(GONE, True)]
    assert look.backlog(look.functions.state("default", "gone")) == 0


async def test_deliveries_go_on_without_their_function(look):
    lane = Lane(Kind.DELIVERY, "default", "gone")
    assert await look.at(LaneState(lane, 1, 0, NOW)) == [(lane, False)]


async def test_other_namespaces_are_not_served(look):
    assert await look.at(LaneState(Lane(Kind.INVOCATION, "other", "hello"), 1, 0, NOW)) == []
    assert look.counts.functions == {}


async def test_an_empty_lane_without_a_function_is_dropped_after_an_hour(look):
    empty = LaneState(GONE, 0, 0, None)
    await look.at(empty, LaneState(LANE, 0, 0, None))
    look.monotonic.now = IDLE_LANE_KEPT
    await look.at(empty)
    assert ("drop_lane", GONE) not in look.queue.log
    look.monotonic.now += 1
    await look.at(empty)
    assert look.queue.log.count(("drop_lane", GONE)) == 1


async def test_a_lane_that_was_used_meanwhile_is_not_dropped(look):
    empty = LaneState(GONE, 0, 0, None)
    await look.at(empty)
    look.monotonic.now = IDLE_LANE_KEPT + 1
    await look.at(LaneState(GONE, 1, 0, NOW))
    await look.at(empty)
    assert ("drop_lane", GONE) not in look.queue.log


async def test_nothing_is_known_while_the_queue_is_away(look):
    await look.at(LaneState(LANE, 7, 2, NOW))
    look.queue.fail = {"lanes": [QueueUnavailable("away")]}
    assert await look.at() == []
    assert (look.backlog(look.function), look.counts.of(LANE).waiting) == (0, 0)


async def test_counts_of_a_function_that_is_gone_with_its_lane_are_discarded(look):
    look.counts.of(GONE).received = 1
    await look.at(LaneState(GONE, 0, 0, None))
    assert ("default", "gone") in look.counts.functions
    await look.at()
    assert ("default", "gone") not in look.counts.functions
