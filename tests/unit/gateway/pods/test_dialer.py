"""Pods are dialled until they answer: what each answer makes of a pod, and how often it is asked."""

import asyncio
import logging

import pytest
from gateway_fakes import FakePod, VirtualTime, readiness, response, until

from kappa_core import wire
from kappa_gateway.pods.state import PodStatus

INITIALIZING = readiness(wire.INITIALIZING, "503 Unavailable")
INIT_FAILED = readiness(wire.INIT_FAILED, "503 Unavailable")


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (readiness(wire.READY), PodStatus.READY),
        (readiness(wire.READY, function="default/hello"), PodStatus.READY),
        (response(b"404 page not found", "404 Not Found"), PodStatus.READY),
        (response(b"[]"), PodStatus.READY),
        (INIT_FAILED, PodStatus.INIT_FAILED),
        (readiness(wire.DRAINING, "503 Unavailable"), PodStatus.DRAINING),
        (readiness(wire.POOL), PodStatus.DRAINING),
        (readiness(wire.READY, function="default/other"), PodStatus.DRAINING),
    ],
)
async def test_what_an_answer_makes_of_a_pod(cluster, answer, status):
    world = cluster()
    _, state = await world.add(FakePod(ready=answer))
    assert state.status is status


@pytest.mark.parametrize("answer", [INITIALIZING, None, b"nonsense", response(b"x", "503 Unavailable")])
async def test_answers_after_which_it_is_asked_again(cluster, answer):
    world = cluster()
    server = FakePod(ready=answer)
    state = world.put(server)
    await until(lambda: server.asked >= 3)
    assert state.status is PodStatus.STARTING
    server.ready = readiness(wire.READY)
    await until(lambda: state.status is PodStatus.READY)


async def test_the_connection_that_it_was_asked_over_serves_the_first_request(cluster):
    world = cluster()
    server, state = await world.add()
    assert len(server.transports) == 1
    assert state.endpoint.take() is not None


async def test_a_web_server_that_takes_connections_is_ready(cluster):
    world = cluster()
    server, state = await world.add(FakePod(ready=None), protocol="http")
    assert (state.status, server.asked) == (PodStatus.READY, 0)
    assert state.endpoint.take() is not None


@pytest.mark.parametrize(("seconds", "attempts"), [(0.5, 100), (3.0, 400), (50.0, 1050), (300.0, 1390)])
async def test_a_pod_that_takes_long_is_dialled_less_often(cluster, seconds, attempts):
    world = cluster()
    dialled = []

    class Refusing(FakePod):
        @property
        def accepts(self):
            dialled.append(VirtualTime.now)
            return False

        @accepts.setter
        def accepts(self, value):
            pass

    world.put(Refusing())
    await asyncio.sleep(seconds)
    assert len(dialled) == pytest.approx(attempts, rel=0.1)


async def test_a_connection_that_is_neither_made_nor_refused_is_tried_again(cluster):
    world = cluster()
    server = FakePod(hangs=True)
    state = world.put(server)
    await asyncio.sleep(0.5)
    server.hangs = False
    before = VirtualTime.now
    await until(lambda: state.status is PodStatus.READY)
    assert VirtualTime.now - before < 0.2


async def test_the_moments_of_its_start_are_noted(cluster):
    world = cluster()
    server = FakePod(accepts=False)
    state = world.put(server)
    begun = state.start.seen
    await asyncio.sleep(1.0)
    server.accepts, server.ready = True, INITIALIZING
    await asyncio.sleep(1.0)
    server.ready = readiness(wire.READY)
    await until(lambda: state.status is PodStatus.READY)
    assert [round(moment - begun, 1) for moment in (state.start.accepted, state.start.ready)] == [1.0, 2.0]


async def test_a_pod_whose_init_failed_is_looked_at_again(cluster):
    world = cluster()
    server, state = await world.add(FakePod(ready=INIT_FAILED))
    asked = server.asked
    await asyncio.sleep(10.0)
    assert server.asked - asked == pytest.approx(10, abs=1)
    server.ready = readiness(wire.READY)
    await until(lambda: state.status is PodStatus.READY)


async def test_it_is_dialled_by_one_task_however_often_that_is_asked_for(cluster):
    world = cluster()
    server = FakePod(ready=INITIALIZING)
    state = world.put(server)
    for _ in range(5):
        world.dialer.dial(state)
        await asyncio.sleep(0.05)
    assert len(server.open) == 1


@pytest.mark.parametrize("status", [PodStatus.DRAINING, PodStatus.GONE])
async def test_a_pod_that_is_of_no_more_use_is_not_dialled(cluster, status):
    world = cluster()
    server, state = await world.add()
    world.dispatcher.set_status(state, status)
    asked = server.asked
    world.dialer.dial(state)
    await asyncio.sleep(1.0)
    assert server.asked == asked


async def test_dialling_ends_when_it_is_stopped(cluster):
    world = cluster()
    server = FakePod(ready=INITIALIZING)
    state = world.put(server)
    await until(lambda: server.asked)
    world.dialer.stop(state)
    asked = server.asked
    await asyncio.sleep(5.0)
    assert server.asked == asked


async def test_a_bug_is_logged_and_ends_the_dialling_of_this_pod_alone(cluster, caplog):
    world = cluster()
    state = world.put(FakePod(accepts=False))

    async def bug(timeout):
        raise RuntimeError("a bug")

    broken = type("Broken", (), {"connect": staticmethod(bug), "host": "h", "retire": lambda self: None})()
    world.dialer.stop(state)
    await asyncio.sleep(0.01)
    state.endpoint = broken
    with caplog.at_level(logging.ERROR):
        world.dialer.dial(state)
        await asyncio.sleep(0.01)
    assert "dialling a pod failed" in caplog.text
    _, other = await world.add()
    assert other.status is PodStatus.READY
