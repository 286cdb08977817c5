"""An address and its connections: which one is taken, which are closed, and the sweep over all of them."""

import asyncio

import pytest
from gateway_fakes import FakePod, VirtualLoop, VirtualTime, until, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from kappa_core.errors import GatewayTimeout
from kappa_gateway.transport.endpoint import Upstream

HOST = "10.0.0.1"


class Line:
    def __init__(self, **how):
        self.loop = asyncio.get_running_loop()
        self.server = self.loop.network[HOST, 8080] = FakePod()
        self.upstream = Upstream(self.loop, **how)
        self.lost = []
        self.endpoint = self.upstream.endpoint(HOST, 8080, "pod p", lambda: self.lost.append(1))

    async def idle(self):
        """A connection that has carried a request."""
        connection = await self.begin()
        await connection.head()
        assert await whole(connection) == b"hi"
        connection.finish()
        return connection

    async def begin(self, timeout=10.0):
        connection = await self.endpoint.connect(1.0)
        connection.begin(VirtualTime.now + timeout)
        connection.write(b"POST /a HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi")
        return connection


async def test_the_connection_that_was_used_last_is_taken():
    line = Line()
    first = await line.begin()
    second = await line.idle()
    await first.head()
    first.finish()
    assert [line.endpoint.take(), line.endpoint.take(), line.endpoint.take()] == [first, second, None]


async def test_one_that_the_server_has_closed_is_not():
    line = Line()
    connection = await line.idle()
    connection.transport.is_closed = True
    assert line.endpoint.take() is None


@pytest.mark.parametrize(("idle", "is_taken"), [(0.4, True), (0.6, False)])
async def test_one_that_has_idled_for_too_long_stays_for_others(idle, is_taken):
    line = Line()
    line.upstream.sweep()
    connection = await line.idle()
    await asyncio.sleep(idle)
    assert (line.endpoint.take(0.5) is connection) is is_taken
    assert (line.endpoint.take() is connection) is not is_taken


async def test_idle_connections_are_closed_in_time():
    line = Line(idle_timeout=30.0)
    await line.idle()
    for seconds, left in ((29.0, 1), (2.0, 0)):
        await asyncio.sleep(seconds)
        line.upstream.sweep()
        assert len(line.endpoint.idle) == left
    await until(lambda: line.lost == [1])
    assert line.server.open == []


async def test_a_request_past_its_deadline_is_ended_by_the_sweep():
    line = Line()
    never = asyncio.Event()
    line.server.answer = lambda _: never.wait()
    soon, later = await line.begin(5.0), await line.begin(50.0)
    await asyncio.sleep(4.9)
    line.upstream.sweep()
    assert soon.error is None
    await asyncio.sleep(0.2)
    line.upstream.sweep()
    with pytest.raises(GatewayTimeout, match="pod p"):
        await soon.head()
    assert later.error is None
    soon.finish()
    assert line.upstream.active == {later}
    line.upstream.close()


async def test_a_retired_endpoint_finishes_what_it_carries():
    line = Line()
    busy = await line.begin()
    await line.idle()
    line.endpoint.retire()
    assert line.endpoint.take() is None
    await busy.head()
    assert await whole(busy) == b"hi"
    busy.finish()
    await until(lambda: not line.server.open)


async def test_close_ends_what_it_carries():
    line = Line()
    line.server.answer = lambda _: None
    busy = await line.begin()
    line.upstream.close()
    assert busy.transport.is_closed


@pytest.mark.parametrize(("accepts", "hangs", "error"), [(False, False, OSError), (True, True, TimeoutError)])
async def test_a_connection_that_cannot_be_made(accepts, hangs, error):
    line = Line()
    line.server.accepts, line.server.hangs = accepts, hangs
    before = VirtualTime.now
    with pytest.raises(error):
        await line.endpoint.connect(0.25)
    assert VirtualTime.now - before <= 0.26
    assert line.server.transports == []


async def test_whoever_asked_for_the_endpoint_hears_that_a_connection_was_lost():
    line = Line()
    await line.idle()
    line.server.break_off()
    await until(lambda: line.lost)
    assert line.endpoint.idle == []


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["begin", "finish", "break", "take", "age"]), max_size=30))
def test_no_connection_is_held_twice_or_leaks(steps):
    async def scenario():
        line = Line(idle_timeout=30.0)
        busy = []
        for step in steps:
            if step == "begin":
                connection = line.endpoint.take()
                if connection is None:
                    busy.append(await line.begin())
                else:
                    connection.begin(VirtualTime.now + 1000.0)
                    connection.write(b"POST /a HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi")
                    busy.append(connection)
            elif step == "finish" and busy:
                await busy[0].head()
                busy.pop(0).finish()
            elif step == "break":
                for connection in line.endpoint.idle[:1]:
                    connection.transport.break_off()
                    await asyncio.sleep(0.01)
            elif step == "take":
                connection = line.endpoint.take()
                if connection is not None:
                    line.endpoint.keep(connection)
            elif step == "age":
                await asyncio.sleep(16.0)
                for connection in busy:
                    connection.deadline = VirtualTime.now + 1000.0
                line.upstream.sweep()
            held = [*line.endpoint.idle, *busy]
            assert len(held) == len(set(held))
            assert line.upstream.active == set(busy)
        for connection in busy:
            await connection.head()
            connection.finish()
        line.endpoint.retire()
        await asyncio.sleep(0.01)
        assert line.server.open == []

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(scenario())
