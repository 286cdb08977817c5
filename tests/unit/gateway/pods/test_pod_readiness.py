"""A pod's readiness: what an answer says, and how often it is asked for."""

import pytest
from gateway_fakes import VirtualTime
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.errors import KappaError
from kappa_gateway.pods.readiness import ask_ready, connect_timeout, pause, read_ready


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"state": "ready", "function": "a/b"}', ("ready", "a/b")),
        (b'{"state": "pool"}', ("pool", "")),
        (b"{}", ("", "")),
        (b"[]", ("", "")),
        (b"404 page not found", ("", "")),
        (b"\xff", ("", "")),
    ],
)
def test_what_an_answer_says(body, said):
    assert read_ready(body) == said


@given(st.floats(0, 1000), st.floats(0, 1000), st.integers(0, 100_000), st.integers(0, 100_000))
def test_pods_that_take_longer_or_are_more_are_asked_less_often(elapsed, longer, dialling, more):
    assert pause(elapsed, dialling) <= pause(elapsed + longer, dialling + more)
    assert dialling / pause(elapsed, dialling) <= 4001
    assert connect_timeout(elapsed) <= connect_timeout(elapsed + longer)


async def test_a_question_leaves_the_connection_for_the_first_request(cluster):
    world = cluster()
    server, state = await world.add()
    connection = state.endpoint.take()
    assert await ask_ready(connection, "10.0.0.1", 0, 5.0) == (200, b'{"state": "ready"}')
    assert world.upstream.active == set()
    state.endpoint.keep(connection)
    assert len(server.open) == 1


async def test_an_answer_that_does_not_come(cluster):
    world = cluster()
    _server, state = await world.add()
    connection = state.endpoint.take()
    connection.transport.break_off()
    with pytest.raises(KappaError):
        await ask_ready(connection, "10.0.0.1", 0, VirtualTime.now)
    assert world.upstream.active == set()
