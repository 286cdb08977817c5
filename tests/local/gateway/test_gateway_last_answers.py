"""A connection that closes without an answer is a lost request. On uvloop, as gateways run."""

import asyncio
import contextlib
import functools
import http.client
import socket
import time

import pytest
import uvloop

HEAD = b"POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n"
INVOKE = HEAD + b"\r\n{}"


def on_uvloop(test):
    @functools.wraps(test)
    def run(*args, **kwargs):
        uvloop.run(asyncio.wait_for(test(*args, **kwargs), 60))

    return run


@contextlib.asynccontextmanager
async def serving(tools, **settings):
    backend = tools.backend()
    backend.functions = [tools.function(), tools.web_function()]
    async with tools.running(backend, **settings) as gateway:
        gateway.connections = gateway.gateway.public.server_state.connections
        yield gateway


class Blocking:
    """A client whose bytes leave at once, without a turn of the loop."""

    def __init__(self, gateway):
        self.socket = socket.create_connection(("127.0.0.1", gateway.port), timeout=10)
        self.send = self.socket.sendall

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    async def answer(self):
        """Of a short one, all."""
        return await asyncio.to_thread(self.socket.recv, 65536)

    async def rest(self):
        """All until the gateway closes."""
        received = []

        def read():
            while data := self.socket.recv(65536):
                received.append(data)

        await asyncio.to_thread(read)
        return b"".join(received)


def stand_still(seconds):
    """The loop cannot turn meanwhile."""
    time.sleep(seconds)


@on_uvloop
async def test_a_loop_that_stood_still_reads_before_it_finds_a_client_silent(tools):
    async with serving(tools, head_timeout=0.2) as gateway:
        await gateway.add_pod()
        for _ in range(3):
            with Blocking(gateway) as client:
                await tools.eventually(lambda: gateway.connections)
                client.send(INVOKE)
                stand_still(0.8)  # past the deadline, and past the next look at it
                assert b" 200 OK" in await client.answer()
            await tools.eventually(lambda: not gateway.connections)


@on_uvloop
async def test_a_loop_that_stood_still_reads_before_it_finds_a_connection_idle(tools):
    async with serving(tools, keep_alive_timeout=1) as gateway:
        await gateway.add_pod()
        with Blocking(gateway) as client:
            for _ in range(3):
                client.send(INVOKE)
                stand_still(1.2)
                assert b" 200 OK" in await client.answer()


@pytest.mark.parametrize("path", ["/2015-03-31/functions/hello/invocations", "/fn/default/web/"])
@on_uvloop
async def test_a_client_that_sends_all_before_it_reads_learns_that_it_is_too_much(tools, path):
    async with serving(tools, max_request_bytes=100_000) as gateway:
        await gateway.add_pod()

        def call():
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
            connection.request("POST", path, b"x" * 20_000_000)
            status = connection.getresponse().status
            connection.close()
            return status

        assert [await asyncio.to_thread(call) for _ in range(3)] == [413] * 3
        await tools.eventually(lambda: not gateway.connections)


@on_uvloop
async def test_a_client_that_sends_on_and_on_is_let_go(tools, monkeypatch):
    monkeypatch.setattr("kappa_gateway.edge.http_server.LINGER", 0.3)
    async with serving(tools, max_request_bytes=100_000) as gateway:
        client = await gateway.connect()
        await client.send(HEAD.replace(b"length: 2", b"length: 1000000000") + b"\r\n")
        assert (await client.answer()).status == 413

        async def send_on():
            while True:
                await client.send(b"x" * 1000)
                await asyncio.sleep(0.01)

        async with asyncio.timeout(5):
            with pytest.raises(ConnectionError):
                await send_on()
        assert not gateway.connections


@on_uvloop
async def test_what_is_no_http_takes_no_answer_away_from_the_requests_before_it(tools):
    go_on = asyncio.Event()

    async def answer(request):
        await go_on.wait()
        return tools.response(request.body)

    async with serving(tools) as gateway:
        pod = await gateway.add_pod(answer)
        with Blocking(gateway) as client:
            client.send(INVOKE + INVOKE)
            await tools.eventually(lambda: pod.requests)
            client.send(b"nonsense\r\n\r\n")
            await tools.eventually(lambda: all(connection._discarding for connection in gateway.connections))
            client.send(INVOKE)
            go_on.set()
            answers = await client.rest()
    assert answers.count(b" 200 OK") == 2
    assert answers.count(b"HTTP/1.1") == 2
    assert answers.rpartition(b"HTTP/1.1")[2].count(b"connection: close") == 1


@pytest.mark.parametrize("before", [b"", HEAD[:30]], ids=["unread", "half-read"])
@pytest.mark.parametrize("used", [False, True], ids=["fresh", "kept"])
@on_uvloop
async def test_a_stop_takes_no_request_away_that_lies_in_a_connection(tools, used, before):
    async with serving(tools) as gateway:
        await gateway.add_pod()
        with Blocking(gateway) as client:
            await tools.eventually(lambda: gateway.connections)
            if used:
                client.send(INVOKE)
                assert b" 200 OK" in await client.answer()
            if before:
                client.send(before)
                await tools.eventually(lambda: all(connection._head_bytes for connection in gateway.connections))
            stopped = asyncio.get_running_loop().time()
            gateway.stop.set()
            (connection,) = gateway.connections
            shutdown = connection.shutdown

            def send_just_before():
                if not before:
                    client.send(INVOKE)
                shutdown()

            connection.shutdown = send_just_before
            if before:
                await tools.eventually(lambda: connection._last)
                client.send(INVOKE.removeprefix(before))
            answer = await client.rest()
        assert b" 200 OK" in answer
        assert b"connection: close" in answer
        await gateway.task
        assert asyncio.get_running_loop().time() - stopped < 3


@on_uvloop
async def test_a_client_that_connects_just_before_a_stop_is_heard(tools):
    async with serving(tools) as gateway:
        await gateway.add_pod()
        with Blocking(gateway) as client, Blocking(gateway) as silent:
            await tools.eventually(lambda: len(gateway.connections) == 2)
            gateway.stop.set()
            await tools.eventually(lambda: all(connection._last for connection in gateway.connections))
            client.send(INVOKE)
            assert b" 200 OK" in await client.rest()
            assert await silent.rest() == b""
        await gateway.task


@pytest.mark.parametrize("status", ["600 Odd", "999 Odd"])
@pytest.mark.parametrize("function", ["hello", "web"])
@on_uvloop
async def test_a_status_that_is_none_is_told(tools, status, function):
    async def answer(request):
        return tools.response(b"1", status=status)

    async with serving(tools) as gateway:
        await gateway.add_pod(answer, function=function, protocol="http" if function == "web" else "lambda")
        if function == "web":
            got = await gateway.request("GET", "/fn/default/web/")
        else:
            got = await gateway.invoke()
        assert got.status == 502
        assert status[:3] in got.json()["Message"]


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n1234"


@pytest.mark.parametrize("function", ["hello", "web"])
@on_uvloop
async def test_a_pod_that_dies_at_any_byte_of_its_answer_leaves_no_silence(tools, function):
    async def answer(request):
        request.writer.write(ANSWER[:after])

    request = INVOKE if function == "hello" else b"GET /fn/default/web/ HTTP/1.1\r\nhost: x\r\n\r\n"
    async with serving(tools) as gateway:
        await gateway.add_pod(answer, function=function, protocol="http" if function == "web" else "lambda")
        for after in range(len(ANSWER)):
            with Blocking(gateway) as client:
                client.send(request.replace(b"host: x", b"host: x\r\nconnection: close"))
                got = await client.rest()
            # what has begun breaks off; what has not is told
            begun = after >= ANSWER.index(b"1234")
            assert got.startswith(b"HTTP/1.1 200 OK" if begun else b"HTTP/1.1 500"), (after, got)


@on_uvloop
async def test_a_request_that_is_not_done_when_the_gateway_must_end_is_told(tools):
    async def answer(request):
        await asyncio.Event().wait()

    async with serving(tools, drain_timeout=1) as gateway:
        pod = await gateway.add_pod(answer)
        with Blocking(gateway) as client, Blocking(gateway) as waiting:
            client.send(INVOKE)
            await tools.eventually(lambda: pod.requests)
            waiting.send(INVOKE)
            gateway.stop.set()
            assert (await client.rest()).startswith(b"HTTP/1.1 50")
            assert (await waiting.rest()).startswith(b"HTTP/1.1 50")
        await gateway.task
