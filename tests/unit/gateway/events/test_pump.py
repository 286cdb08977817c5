"""A lane's pump: what it receives and when, and the life of what it holds."""

import asyncio
import logging

import pytest
from event_fakes import LANE, Clock, FakeQueue, make_event, make_functions, make_lease, make_manifest
from waiting import eventually

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Kind, Lane
from kappa_gateway.events import pump as pumps
from kappa_gateway.events.availability import QueueAvailability
from kappa_gateway.events.backlog import Backlog
from kappa_gateway.events.capacity import Budget
from kappa_gateway.events.holding import History
from kappa_gateway.events.pump import DELIVERIES_AT_ONCE, Pump, PumpRules
from kappa_gateway.pods.platform import Peer


class ScriptedRun:
    """Lasts until the test ends it, with an error if it is given one."""

    def __init__(self, holding, lease):
        self.holding, self.lease, self.history = holding, lease, History()
        self.begun = False
        self.withdrawn = False
        self.end = asyncio.get_running_loop().create_future()

    async def run(self):
        self.begun = True
        await self.end

    def withdraw(self):
        self.withdrawn = True


class Bench:
    """A pump, and everything around it."""

    def __init__(self, *manifests, lane=LANE, events=100):
        self.queue, self.clock, self.backlog = FakeQueue(), Clock(0.0), Backlog()
        self.functions = make_functions(*manifests)
        self.budget = Budget(events, 1_000_000)
        self.runs = []
        self.peer = None
        self.put_aside = []
        rules = PumpRules(
            self.queue,
            QueueAvailability(self.clock),
            self.functions,
            self.backlog,
            self.budget,
            make_run=self._make_run,
            put_aside=self._put_aside,
            left_to=lambda function: self.peer,
            clock=self.clock,
            first_brake=1.0,
            typical_bytes=100,
        )
        self.pump = Pump(rules, lane)

    def _make_run(self, holding, lease):
        self.runs.append(ScriptedRun(holding, lease))
        return self.runs[-1]

    async def _put_aside(self, run, error):
        self.put_aside.append((run, error))
        return 60.0

    @property
    def received(self):
        return [count for name, count in self.queue.log if name == "receive"]

    async def start(self):
        self.task = asyncio.create_task(self.pump.run())
        for _ in range(5):
            await asyncio.sleep(0)
        return self

    async def settle(self):
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self):
        self.pump.stop()
        for run in self.runs:
            if not run.end.done():
                run.end.set_result(None)
        await self.task
        await asyncio.gather(*self.pump.held.values())
        await self.settle()


@pytest.fixture
def bench():
    return Bench()


def leases(*ids, **more):
    return [make_lease(make_event(event_id), **more) for event_id in ids]


async def test_it_ends_when_the_lane_is_empty(bench):
    await bench.start()
    await bench.task
    assert (bench.received, bench.pump.ended) == ([1], True)


async def test_one_event_waits_for_the_first_pod(bench):
    bench.queue.waiting = leases("a", "b", "c", waiting=2)
    await bench.start()
    assert bench.received == [1]
    assert bench.backlog(bench.functions.get("default", "hello")) == 2
    await bench.close()


async def test_the_next_is_received_when_the_first_has_its_slot(bench):
    bench.queue.waiting = leases("a", "b")
    await bench.start()
    bench.runs[0].holding.placed(True)
    await bench.settle()
    assert [run.lease.event.id for run in bench.runs] == ["a", "b"]
    bench.runs[0].holding.placed(False)
    bench.runs[1].holding.placed(True)
    await bench.settle()
    assert len(bench.received) == 2, "one waits again"
    await bench.close()


async def test_its_bytes_and_its_place_are_free_when_it_has_ended(bench):
    bench.queue.waiting = leases("a")
    await bench.start()
    assert (bench.budget.free_events, bench.budget.free_bytes) == (99, 1_000_000 - 2)
    bench.runs[0].holding.hold(1000)
    assert bench.budget.free_bytes == 1_000_000 - 1002
    bench.runs[0].end.set_result(None)
    await bench.task
    assert (bench.budget.free_events, bench.budget.free_bytes) == (100, 1_000_000)


async def test_events_that_are_left_to_another_gateway_are_not_received(bench):
    bench.peer = Peer("other", "10.0.0.2")
    bench.queue.waiting = leases("a")
    await bench.start()
    await bench.task
    assert bench.received == []


async def test_events_of_a_function_that_does_not_exist_are_received_only_once_they_are_old():
    bench = Bench(make_manifest("other"))
    await (await bench.start()).task
    assert bench.received == []
    bench = Bench(make_manifest("other"))
    bench.pump.notify(abandoned=True)
    await (await bench.start()).task
    assert bench.received == [64]


async def test_deliveries_are_few_at_a_time():
    bench = Bench(make_manifest("other"), lane=Lane(Kind.DELIVERY, "default", "hello"))
    bench.queue.waiting = leases("a", "b", "c", "d", "e")
    await bench.start()
    assert bench.received == [DELIVERIES_AT_ONCE]
    await bench.close()


async def test_the_brake_lets_one_event_through_after_its_pause(bench):
    bench.queue.waiting = leases("a", "b", "c")
    await bench.start()
    bench.runs[0].holding.attempted(available=False)
    bench.runs[0].holding.placed(True)
    bench.runs[0].end.set_result(None)
    await bench.settle()
    bench.pump.notify()
    await bench.settle()
    assert len(bench.runs) == 1
    bench.clock.now = 1.1
    bench.pump.notify()
    await bench.settle()
    assert len(bench.runs) == 2
    bench.runs[1].holding.attempted(available=True)
    bench.runs[1].holding.placed(True)
    await bench.settle()
    assert len(bench.runs) == 3
    await bench.close()


async def test_a_changed_function_releases_the_brake(bench):
    bench.queue.waiting = leases("a", "b")
    await bench.start()
    bench.runs[0].holding.attempted(available=False)
    bench.runs[0].end.set_result(None)
    await bench.settle()
    bench.pump.function_changed(bench.functions.get("default", "hello"))
    await bench.settle()
    assert len(bench.runs) == 2
    await bench.close()


async def test_a_retry_is_looked_for_when_it_is_due(bench):
    bench.queue.waiting = leases("a")
    await bench.start()
    bench.runs[0].holding.due_in(0.01)
    bench.runs[0].end.set_result(None)
    await bench.settle()
    before = len(bench.received)
    bench.clock.now = 5.0
    await eventually(lambda: len(bench.received) > before, "the lane is asked for the retry")
    await bench.task


async def test_a_second_lease_of_an_event_waits_for_the_run_of_the_first(bench):
    bench.queue.waiting = leases("a", "a")
    await bench.start()
    bench.runs[0].holding.placed(True)
    await bench.settle()
    assert [run.begun for run in bench.runs] == [True, False]
    bench.runs[0].end.set_result(None)
    await bench.settle()
    assert bench.runs[1].begun
    await bench.close()


async def test_a_bug_puts_the_event_aside(bench, caplog):
    bench.queue.waiting = leases("a")
    await bench.start()
    error = RuntimeError("bug")
    with caplog.at_level(logging.CRITICAL):
        bench.runs[0].end.set_exception(error)
        await bench.settle()
    assert bench.put_aside == [(bench.runs[0], error)]
    assert not bench.pump.held
    await bench.close()


async def test_stopping_withdraws_what_is_held_and_receives_no_more(bench):
    bench.queue.waiting = leases("a", "b")
    await bench.start()
    bench.pump.stop()
    bench.runs[0].holding.placed(True)
    await bench.settle()
    assert bench.runs[0].withdrawn
    assert len(bench.runs) == 1
    await bench.close()


async def test_a_queue_that_is_away_is_asked_again(bench, monkeypatch):
    monkeypatch.setattr(pumps, "QUEUE_PAUSE", 0.0)
    bench.queue.fail = {"receive": [QueueUnavailable("away")]}
    bench.queue.waiting = leases("a")
    await bench.start()
    await eventually(lambda: bench.runs, "the event")
    assert bench.budget.free_events == 99
    await bench.close()


async def test_lanes_that_find_no_room_are_served_in_turn():
    bench = Bench(events=1)
    bench.budget.take(1, 0)
    bench.queue.waiting = leases("a")
    await bench.start()
    assert not bench.runs
    bench.budget.give(1, 0)
    bench.budget.wake_next()
    await bench.settle()
    assert len(bench.runs) == 1
    await bench.close()
