"""One HTTP/1.1 connection: answers however their bytes are cut, back-pressure, and every way in which it can end."""

import asyncio
import itertools

import pytest
from gateway_fakes import FakeTransport, VirtualTime, whole
from hypothesis import given
from hypothesis import strategies as st

from kappa_core.errors import BadAnswer, GatewayTimeout, KappaError, PodLost
from kappa_gateway.transport.connection import HIGH_WATER, MAX_HEAD_BYTES, Connection


class NotingOwner:
    """What a connection belongs to: notes what it hears."""

    name = "pod p"

    def __init__(self):
        self.heard = []

    def began(self, connection):
        self.heard.append("began")

    def ended(self, connection):
        self.heard.append("ended")

    def keep(self, connection):
        self.heard.append("keep")

    def lost(self, connection):
        self.heard.append("lost")


class Line:
    def __init__(self, *, begun=True, **how):
        self.owner = NotingOwner()
        self.connection = Connection(asyncio.get_running_loop(), self.owner)
        self.transport = FakeTransport(asyncio.get_running_loop(), self.connection)
        self.connection.connection_made(self.transport)
        if begun:
            self.begin(**how)

    def begin(self, **how):
        self.connection.begin(VirtualTime.now + 10.0, subject="default/hello", timeout=8.0, **how)

    async def receive(self, *pieces):
        for piece in pieces:
            self.transport.deliver(piece)
            await asyncio.sleep(0)


async def answer_of(connection):
    await connection.head()
    return await whole(connection)


def run(scenario):
    """For property tests, which make their own loop for each example."""
    return asyncio.run(scenario)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: 1\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 201 Made\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
INTERIM = b"HTTP/1.1 102 Processing\r\nX-Not: 1\r\n\r\n" + OK
NO_CONTENT = b"HTTP/1.1 204 No Content\r\n\r\n"


@given(st.sampled_from([OK, CHUNKED, INTERIM, NO_CONTENT]), st.lists(st.integers(0, 200), max_size=6))
def test_an_answer_is_the_same_however_its_bytes_are_cut(answer, cuts):
    async def scenario():
        line = Line()
        places = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
        await line.receive(*(answer[begin:end] for begin, end in itertools.pairwise(places)))
        await line.connection.head()
        status, headers = line.connection.status, line.connection.headers
        body = await whole(line.connection)
        line.connection.finish()
        assert line.owner.heard == ["began", "ended", "keep"]
        return status, headers, body

    expected = {
        OK: (200, [(b"content-length", b"5"), (b"x-a", b"1")], b"hello"),
        CHUNKED: (201, [(b"transfer-encoding", b"chunked")], b"abcde"),
        NO_CONTENT: (204, [], b""),
    }
    assert run(scenario()) == expected[OK if answer is INTERIM else answer]


async def test_one_connection_carries_request_after_request():
    line = Line(begun=False)
    for number in range(3):
        line.begin()
        await line.receive(OK)
        await line.connection.head()
        assert line.connection.used is (number > 0)
        assert await whole(line.connection) == b"hello"
        line.connection.finish()
    assert line.owner.heard == ["began", "ended", "keep"] * 3


async def test_bytes_come_as_they_come():
    line = Line()
    await line.receive(OK[:-3])
    await line.connection.head()
    assert await line.connection.chunk() == b"he"
    reading = asyncio.ensure_future(line.connection.chunk())
    await asyncio.sleep(0)
    assert not reading.done()
    await line.receive(b"llo")
    assert await reading == b"llo"
    assert await line.connection.chunk() is None


async def test_an_answer_without_a_length_ends_with_the_connection():
    line = Line()
    await line.receive(b"HTTP/1.1 200 OK\r\n\r\n", b"all of", b" it")
    line.transport.break_off()
    await line.connection.head()
    assert await whole(line.connection) == b"all of it"


async def test_it_is_broken_where_the_connection_ends_with_an_error():
    line = Line()
    await line.receive(b"HTTP/1.1 200 OK\r\n\r\n", b"some")
    line.transport.break_off(ConnectionResetError())
    await line.connection.head()
    assert await line.connection.chunk() == b"some"
    with pytest.raises(PodLost):
        await line.connection.chunk()


@pytest.mark.parametrize("answer", [OK, CHUNKED])
def test_an_answer_that_breaks_off_anywhere_is_lost_and_names_the_function_and_the_pod(answer):
    async def scenario(cut):
        line = Line()
        await line.receive(answer[:cut])
        line.transport.break_off()
        with pytest.raises(PodLost, match=r"default/hello: .*pod p.*may have run"):
            await answer_of(line.connection)
        assert line.connection.received is (cut > 0)
        line.connection.finish()
        assert "keep" not in line.owner.heard

    for cut in range(len(answer)):
        run(scenario(cut))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", "not HTTP"),
        (b"HTTP/1.1 99 Low\r\n\r\n", "not HTTP|broke"),
        (b"HTTP/1.1 700 High\r\nContent-Length: 0\r\n\r\n", "700"),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "protocol unasked"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * (MAX_HEAD_BYTES + 1), f"larger than {MAX_HEAD_BYTES}"),
    ],
)
async def test_what_is_no_answer_is_a_bad_one(answer, why):
    line = Line()
    await line.receive(answer)
    line.transport.break_off()
    with pytest.raises(KappaError, match=why) as raised:
        await line.connection.head()
    assert isinstance(raised.value, BadAnswer | PodLost)
    assert line.transport.is_closed


async def test_a_head_request_has_no_body_and_its_connection_no_next_one():
    line = Line(is_head=True)
    await line.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n")
    await line.connection.head()
    assert await line.connection.chunk() is None
    line.connection.finish()
    assert line.transport.is_closed


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
async def test_a_server_that_will_close_is_not_asked_again(answer):
    line = Line()
    await line.receive(answer)
    await line.connection.head()
    assert await whole(line.connection) == b"ok"
    line.connection.finish()
    assert line.owner.heard == ["began", "ended"]
    assert line.transport.is_closed


@pytest.mark.parametrize("more", [b"HTTP/1.1 200 OK\r\n", OK, b"x"])
async def test_a_second_answer_ends_the_connection_and_leaves_the_first_one_whole(more):
    line = Line()
    await line.receive(OK + more)
    await line.connection.head()
    assert await whole(line.connection) == b"hello"
    line.connection.finish()
    assert "keep" not in line.owner.heard
    assert line.transport.is_closed


async def test_bytes_on_an_idle_connection_end_it():
    line = Line()
    await line.receive(OK)
    await line.connection.head()
    line.connection.finish()
    await line.receive(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert line.owner.heard[-1] == "lost"
    assert line.transport.is_closed


async def test_a_slow_reader_stops_the_pod_and_reading_lets_it_go_on():
    line = Line()
    piece = b"x" * 1024
    await line.receive(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (4 * HIGH_WATER))
    sent = 0
    while not line.transport.is_paused:
        await line.receive(piece)
        sent += len(piece)
        assert sent <= HIGH_WATER + len(piece)
    assert len(await line.connection.chunk()) == sent
    assert not line.transport.is_paused


async def test_a_paused_connection_that_is_kept_is_read_again():
    line = Line()
    await line.receive(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (HIGH_WATER + 2) + b"x" * (HIGH_WATER + 1))
    assert line.transport.is_paused
    line.connection.data_received(b"x")
    line.connection.finish()
    assert line.owner.heard[-1] == "keep"
    assert not line.transport.is_paused


async def test_a_writer_waits_until_the_pod_has_taken_most_of_it():
    line = Line()
    await line.connection.drain()
    line.connection.pause_writing()
    draining = asyncio.ensure_future(line.connection.drain())
    await asyncio.sleep(0)
    assert not draining.done()
    line.connection.resume_writing()
    await draining


async def test_it_does_not_wait_for_a_connection_that_is_lost():
    line = Line()
    line.connection.pause_writing()
    draining = asyncio.ensure_future(line.connection.drain())
    await asyncio.sleep(0)
    line.transport.break_off()
    await draining


async def test_a_request_that_was_not_taken_whole_leaves_no_connection_to_use():
    line = Line()
    line.connection.pause_writing()
    await line.receive(OK)
    await line.connection.head()
    line.connection.finish()
    assert line.transport.is_closed


async def test_an_aborted_request_raises_what_it_was_given():
    line = Line()
    waiting = asyncio.ensure_future(line.connection.head())
    await asyncio.sleep(0)
    line.connection.abort(KappaError("enough"))
    line.connection.abort(KappaError("too late"))
    with pytest.raises(KappaError, match="enough"):
        await waiting
    assert line.transport.was_aborted


async def test_time_is_up():
    line = Line()
    line.connection.time_out()
    with pytest.raises(GatewayTimeout, match=r"default/hello: pod p gave no answer in time \(timeout 8 s\)"):
        await line.connection.head()


async def test_an_answer_that_is_complete_is_not_taken_back():
    line = Line()
    await line.receive(OK)
    line.connection.abort(KappaError("too late"))
    await line.connection.head()
    assert await whole(line.connection) == b"hello"


@pytest.mark.parametrize("end", ["close", "abort", "next"])
async def test_a_last_request_is_sent_only_where_the_connection_is_closed_in_good_order(end):
    line = Line()
    await line.receive(OK)
    await line.connection.head()
    line.connection.closing_request = b"DELETE /kept HTTP/1.1\r\n\r\n"
    line.connection.finish()
    if end == "next":
        line.begin()
        line.connection.finish()
    elif end == "abort":
        line.connection.abort(KappaError("no"))
    line.connection.close()
    line.connection.close()
    assert line.transport.written == (b"DELETE /kept HTTP/1.1\r\n\r\n" if end == "close" else b"")
