"""What a server that faces the world must get right: framing, slow and vanishing clients, limits."""

import asyncio

import pytest

INVOKE = b"POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "head",
    [
        b"POST /x HTTP/1.1\nhost: x\ncontent-length: 0\n\n",
        INVOKE + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n{}",
        INVOKE + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        INVOKE + b"x-folded: a\r\n b\r\n\r\n",
        INVOKE + b"content-length : 2\r\n\r\n{}",
        INVOKE + b"transfer-encoding: gzip\r\n\r\n{}",
        INVOKE + b"content-length: -1\r\n\r\n",
        INVOKE + b"content-length: 1e3\r\n\r\n",
        b"GET /fn/default/web/ HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
    ids=[
        "bare-lf",
        "cl-te",
        "two-cl",
        "obs-fold",
        "space-colon",
        "te-gzip",
        "negative",
        "float",
        "no-colon",
        "junk",
        "tls",
    ],
)
async def test_what_is_no_http_gets_400_and_the_connection_ends(gateway, head):
    pod = await gateway.add_pod()
    client = await gateway.connect()
    await client.send(head)
    answer = await client.answer()
    assert answer.status == 400
    assert "HTTP" in answer.json()["Message"]
    assert await client.at_eof()
    assert pod.requests == []


async def test_a_broken_pipelined_request_does_not_spoil_the_answer_before_it(gateway, tools):
    release = asyncio.Event()

    async def answer(request):
        await release.wait()
        return tools.response(request.body)

    await gateway.add_pod(answer)
    client = await gateway.connect()
    await client.send(INVOKE + b"content-length: 2\r\n\r\n{}")
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").in_flight)
    await client.send(b"nonsense\r\n\r\n")
    release.set()
    assert b" 400 " not in await client.reader.read()


async def test_a_connection_that_sends_half_a_head_is_told_so(tools):
    async with tools.running(head_timeout=0.3) as gateway:
        client = await gateway.connect()
        await client.send(b"GET / HTTP/1.1\r\nhos")
        assert (await client.answer()).status == 408
        assert await client.at_eof()
        silent = await gateway.connect()
        assert await silent.at_eof()


async def test_a_head_without_end_is_refused(gateway):
    client = await gateway.connect()
    await client.send(b"GET / HTTP/1.1\r\nhost: x\r\n")
    answer = asyncio.create_task(client.answer())
    while not answer.done():
        try:
            await client.send(b"x-filler: " + b"y" * 8000 + b"\r\n")
        except ConnectionError:
            break
        await asyncio.sleep(0)
    assert (await answer).status == 431


async def test_a_body_over_the_limit_gets_413(tools):
    backend = tools.backend()
    backend.functions = [tools.function(), tools.web_function()]
    async with tools.running(backend, max_request_bytes=100_000) as gateway:
        pod = await gateway.add_pod()
        web = await gateway.add_pod(function="web", protocol="http")
        answer = await gateway.invoke(body=b" " * 100_001)
        assert (answer.status, answer.header("x-amzn-errortype")) == (413, "RequestTooLargeException")
        assert "100000" in answer.json()["Message"]
        assert (await gateway.invoke(body=b'"' + b"x" * 99_998 + b'"')).status == 200
        client = await gateway.connect()
        await client.send(INVOKE + b"transfer-encoding: chunked\r\n\r\n")
        await client.send(b"10000\r\n" + b" " * 65536 + b"\r\n" + b"10000\r\n" + b" " * 65536 + b"\r\n0\r\n\r\n")
        assert (await client.answer()).status == 413
        assert (await gateway.request("POST", "/fn/default/web/", b"x" * 100_001)).status == 413
        assert len(pod.requests) == 1
        assert web.requests == []


async def test_a_body_that_does_not_come_gets_408(tools):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend, body_timeout=0.2) as gateway:
        await gateway.add_pod()
        client = await gateway.connect()
        await client.send(INVOKE + b"content-length: 10\r\n\r\n{")
        assert (await client.answer()).status == 408


async def test_chunked_and_split_bodies_arrive_whole(gateway):
    await gateway.add_pod()
    client = await gateway.connect()
    await client.send(INVOKE + b"transfer-encoding: chunked\r\n\r\n")
    for piece in (b"2\r\n[1", b"\r\n", b"3\r\n,2]\r\n0\r\n\r\n"):
        await client.send(piece)
        await asyncio.sleep(0.01)
    assert (await client.answer()).json() == [1, 2]
    request = INVOKE + b"content-length: 5\r\n\r\n[1,2]"
    for byte in request:
        await client.send(bytes([byte]))
    assert (await client.answer()).json() == [1, 2]


async def test_100_continue(gateway):
    await gateway.add_pod()
    client = await gateway.connect()
    await client.send(INVOKE + b"content-length: 2\r\nexpect: 100-continue\r\n\r\n")
    assert (await client.head()).status == 100
    await client.send(b"42")
    assert (await client.answer()).json() == 42


async def test_pipelined_requests_are_answered_in_order(gateway):
    await gateway.add_pod()
    client = await gateway.connect()
    await client.send(b"".join(INVOKE + b"content-length: 1\r\n\r\n%d" % number for number in range(5)))
    assert [(await client.answer()).json() for _ in range(5)] == list(range(5))


async def test_a_client_that_leaves_while_it_waits_is_forgotten(gateway, tools):
    client = await gateway.connect()
    await client.send(INVOKE + b"content-length: 2\r\n\r\n{}")
    function = gateway.gateway.functions.get("default", "hello")
    await tools.eventually(lambda: function.waiters)
    await client.close()
    await tools.eventually(lambda: not function.waiters)
    pod = await gateway.add_pod()
    assert (await gateway.invoke(body=b"7")).json() == 7
    assert len(pod.requests) == 1


async def test_a_client_that_leaves_frees_the_slot_and_the_pod_sees_it(gateway, tools):
    seen_end = asyncio.Event()

    async def answer(request):
        if request.body == b'"hang"':
            await request.reader.read()
            seen_end.set()
            return None
        return tools.response(request.body)

    await gateway.add_pod(answer)
    client = await gateway.connect()
    await client.send(INVOKE + b'content-length: 6\r\n\r\n"hang"')
    function = gateway.gateway.functions.get("default", "hello")
    await tools.eventually(lambda: gateway.pods[0].requests)
    await client.close()
    async with asyncio.timeout(5):
        await seen_end.wait()
    assert function.in_flight == 0
    assert (await gateway.invoke(body=b"8")).json() == 8
    assert function.counts.invocations["RequestResponse", "cancelled"] == 1


async def test_connections_above_the_limit_are_closed(tools):
    async with tools.running(max_connections=3) as gateway:
        kept = [await gateway.connect() for _ in range(3)]
        await tools.eventually(lambda: True)
        for client in kept:
            assert (await client.request("GET", "/healthz")).status == 200
        extra = await gateway.connect()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await extra.request("GET", "/healthz")


async def test_memory_for_bodies_is_shared_and_given_back(tools):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend, body_memory_bytes=1024 * 1024) as gateway:
        memory = gateway.gateway.bodies
        body = b'"' + b"x" * 600_000 + b'"'
        waiting = [asyncio.create_task(gateway.invoke(body=body)) for _ in range(4)]
        function = gateway.gateway.functions.get("default", "hello")
        await tools.eventually(lambda: function.waiters)
        assert len(function.waiters) == 1  # the others' bodies are not read
        await gateway.add_pod()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200] * 4
        assert memory.free == 1024 * 1024
