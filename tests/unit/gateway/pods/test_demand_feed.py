"""The demand feed: who is reported, with which figures, when, and to how many readers."""

import asyncio
import itertools

import pytest
from gateway_fakes import GATEWAY, manifest
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.demand import Claim
from kappa_gateway.pods.demand import BACKLOG, MAX_READERS, STARTS, DemandFeed, Overrun
from kappa_gateway.pods.platform import Pod
from kappa_gateway.pods.state import FunctionState, PodState, Ticket

CLAIM = Claim("default", "hello", "pool-1", "uid-1", "hash")


class World:
    def __init__(self, *names, claims=()):
        self.now = 100.0
        self.backlog = {}
        self.functions = [FunctionState("default", name) for name in names or ("hello",)]
        for function in self.functions:
            function.apply(manifest(function.name, pool=True))
        self.feed = DemandFeed(
            GATEWAY,
            self.functions,
            backlog=lambda function: self.backlog.get(function.name, 0),
            claims=lambda: tuple(claims),
            clock=lambda: self.now,
        )

    @property
    def function(self):
        return self.functions[0]

    def full(self):
        return self.feed.full_report(take_peak)


def take_peak(function):
    function.peak_in_flight = function.in_flight


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_a_function_is_reported_while_there_is_anything_to_report(in_flight, more, waiting, backlog):
    world = World()
    function = world.function
    function.in_flight, function.peak_in_flight = in_flight, in_flight + more
    for _ in range(waiting):
        function.waiters[Ticket(function)] = None
    world.backlog["hello"] = backlog
    first, second = world.full(), world.full()
    found = {one.name: (one.in_flight, one.waiting, one.backlog) for one in first.functions}
    assert found == ({"hello": (in_flight + more, waiting, backlog)} if in_flight + more + waiting + backlog else {})
    found = {one.name: (one.in_flight, one.waiting, one.backlog) for one in second.functions}
    assert found == ({"hello": (in_flight, waiting, backlog)} if in_flight + waiting + backlog else {})


def test_a_full_report_names_the_gateway_and_every_pending_claim():
    report = World(claims=[CLAIM]).full()
    assert (report.gateway, report.full, report.claims) == (GATEWAY, True, (CLAIM,))


def test_the_pods_with_requests_are_named():
    world = World()
    for name, outstanding in (("a", 2), ("b", 0)):
        pod = PodState(Pod("default", name, "hello", None, 8080, 3, "lambda"), world.function, 0.0)
        pod.outstanding = outstanding
        world.function.pods[name] = pod
    world.function.in_flight = world.function.peak_in_flight = 2
    assert world.full().functions[0].pods == {"a": 2}


@pytest.mark.parametrize(
    ("mean", "in_flight", "eligible", "elapsed", "expected"),
    [
        (2.0, 1, True, 9.0, 2.0),
        (0.0, 1, True, 9.0, 9.0 - STARTS),
        (0.0, 1, True, 0.0, 0.001),
        (0.0, 1, False, 9.0, 0.0),
        (0.0, 0, True, 9.0, 0.0),
    ],
)
def test_while_none_has_ended_its_duration_is_how_long_the_first_has_run(mean, in_flight, eligible, elapsed, expected):
    world = World()
    function = world.function
    function.mean_duration, function.in_flight, function.busy_since = mean, in_flight, world.now
    function.is_pool_eligible = eligible
    world.backlog["hello"] = 1
    world.now += elapsed
    assert world.full().functions[0].mean_duration == pytest.approx(expected)


# -- readers


async def first_of(reports):
    return await asyncio.wait_for(anext(reports), 1.0)


async def test_a_readers_first_report_comes_at_once_and_takes_no_peak():
    world = World("hello", "other", claims=[CLAIM])
    world.function.peak_in_flight = 3
    reports = world.feed.subscribe()
    report = await first_of(reports)
    assert (report.full, [one.name for one in report.functions], report.claims) == (True, ["hello"], (CLAIM,))
    assert world.full().functions[0].in_flight == 3
    await reports.aclose()


async def test_what_cannot_wait_is_reported_at_once_and_alone():
    world = World("hello", "other")
    world.functions[1].peak_in_flight = 1
    reports = world.feed.subscribe()
    await first_of(reports)
    world.feed.waits(world.function)
    world.feed.claimed(world.function, CLAIM)
    waits, claimed = await first_of(reports), await first_of(reports)
    assert (waits.full, [one.name for one in waits.functions], waits.claims) == (False, ["hello"], ())
    assert (claimed.full, [one.name for one in claimed.functions], claimed.claims) == (False, ["hello"], (CLAIM,))
    await reports.aclose()


async def test_a_full_report_comes_each_second():
    world = World()
    running = asyncio.create_task(world.feed.run(take_peak))
    reports = world.feed.subscribe()
    await first_of(reports)
    loop = asyncio.get_running_loop()
    times = []
    for _ in range(3):
        assert (await anext(reports)).full
        times.append(loop.time())
    assert [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)] == [1.0, 1.0]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await reports.aclose()


async def test_a_reader_that_does_not_keep_up_gets_what_it_missed_least_and_is_dropped():
    world = World()
    slow, quick = world.feed.subscribe(), world.feed.subscribe()
    await first_of(slow)
    await first_of(quick)
    for _ in range(BACKLOG + 1):
        world.feed.waits(world.function)
        await first_of(quick)
    for _ in range(BACKLOG):
        await first_of(slow)
    with pytest.raises(Overrun, match="behind"):
        await first_of(slow)
    world.feed.waits(world.function)
    await first_of(quick)
    await quick.aclose()


async def test_there_is_a_limit_of_readers_and_each_that_leaves_makes_room():
    world = World()
    readers = [world.feed.subscribe() for _ in range(MAX_READERS)]
    for reader in readers:
        await first_of(reader)
    with pytest.raises(Overrun):
        await first_of(world.feed.subscribe())
    await readers.pop().aclose()
    another = world.feed.subscribe()
    assert (await first_of(another)).full
    for reader in (*readers, another):
        await reader.aclose()


async def test_readers_are_let_go_when_it_closes():
    world = World()
    reports = world.feed.subscribe()
    await first_of(reports)
    world.feed.close()
    with pytest.raises(StopAsyncIteration):
        await first_of(reports)
