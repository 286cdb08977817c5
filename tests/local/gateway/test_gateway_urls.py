"""Function URLs end to end: events for Lambda functions, the request itself for web servers."""

import asyncio
import base64
import hashlib
import json


async def test_a_lambda_function_gets_an_event_and_answers_with_a_response(gateway, tools):
    async def answer(request):
        event = json.loads(request.body)
        return tools.response(
            json.dumps(
                {
                    "statusCode": 201,
                    "headers": {"Content-Type": "text/plain", "X-Path": event["rawPath"]},
                    "cookies": ["a=1", "b=2"],
                    "body": f"{event['requestContext']['http']['method']} {event['body']} "
                    f"{event['queryStringParameters']['q']}",
                }
            ).encode()
        )

    pod = await gateway.add_pod(answer)
    got = await gateway.request(
        "POST", "/fn/default/hello/some/pa%20th?q=1&q=2", b"hi", {"content-type": "text/plain", "cookie": "x=y; z=w"}
    )
    assert (got.status, got.body) == (201, b"POST hi 1,2")
    assert got.header("x-path") == "/some/pa%20th"
    assert [value for name, value in got.headers if name == "set-cookie"] == ["a=1", "b=2"]
    event = json.loads(pod.requests[0].body)
    assert event["cookies"] == ["x=y", "z=w"]
    assert event["requestContext"]["requestId"] == got.header("x-amzn-requestid")
    assert event["requestContext"]["http"]["sourceIp"] == "127.0.0.1"
    assert event["requestContext"]["domainName"] == "gateway.test"


async def test_anything_else_is_a_json_body(gateway, tools):
    await gateway.add_pod(lambda request: _value(tools.response(b'{"hello":"world"}')))
    got = await gateway.request("GET", "/fn/default/hello")
    assert (got.status, got.header("content-type"), got.json()) == (200, "application/json", {"hello": "world"})


async def test_head_and_204_have_no_body(gateway, tools):
    await gateway.add_pod(lambda request: _value(tools.response(b'{"statusCode":204,"body":"ignored"}')))
    client = await gateway.connect()
    for method in ("GET", "HEAD", "GET"):
        assert (await client.request(method, "/fn/default/hello/")).status == 204

    async def web(request):
        return tools.response(
            b"" if request.method == "HEAD" else b"12345", headers={}, length=request.method != "HEAD"
        )

    async def web_head(request):
        if request.method == "HEAD":
            return b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"
        return tools.response(b"12345")

    await gateway.add_pod(web_head, function="web", protocol="http")
    got = await client.request("HEAD", "/fn/default/web/")
    assert (got.status, got.header("content-length")) == (200, "5")
    assert (await client.request("GET", "/fn/default/web/")).body == b"12345"


async def test_a_web_server_gets_the_request_as_it_is(gateway, tools):
    pod = await gateway.add_pod(function="web", protocol="http")
    got = await gateway.request(
        "PUT",
        "/fn/default/web/a/b%2Fc?x=1&y",
        b"\x00\xff",
        {
            "x-forwarded-for": "203.0.113.9",
            "x-forwarded-proto": "https",
            "connection": "x-private, keep-alive",
            "x-private": "1",
            "te": "trailers",
            "x-own": "kept",
            "authorization": "Bearer t",
        },
    )
    assert got.body == b"\x00\xff"
    sent = pod.requests[0]
    assert (sent.method, sent.target) == ("PUT", "/a/b%2Fc?x=1&y")
    assert sent.headers["x-forwarded-for"] == "203.0.113.9, 127.0.0.1"
    assert sent.headers["x-forwarded-proto"] == "http"
    assert sent.headers["x-forwarded-host"] == sent.headers["host"] == "gateway.test"
    assert sent.headers["x-forwarded-prefix"] == "/fn/default/web"
    assert sent.headers["x-own"] == "kept"
    assert sent.headers["authorization"] == "Bearer t"
    assert not {"x-private", "te", "connection"} & set(sent.headers)


async def test_a_web_servers_answer_streams_as_it_comes(gateway, tools):
    go_on = asyncio.Event()

    async def events(request):
        request.writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        await go_on.wait()
        for number in range(3):
            request.writer.write(b"8\r\ndata: %d\n\r\n" % number)
            await request.writer.drain()
        return b"0\r\n\r\n"

    await gateway.add_pod(events, function="web", protocol="http")
    client = await gateway.connect()
    await client.send(b"GET /fn/default/web/ HTTP/1.1\r\nhost: x\r\n\r\n")
    assert (await client.head()).header("content-type") == "text/event-stream"
    go_on.set()
    text = b""
    while not text.endswith(b"0\r\n\r\n"):
        text += await client.reader.read(1000)
    assert text.count(b"data: ") == 3


async def test_an_answer_that_ends_with_the_connection(gateway, tools):
    async def until_close(request):
        request.writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n\r\nabc")
        await request.writer.drain()
        return

    await gateway.add_pod(until_close, function="web", protocol="http")
    assert (await gateway.request("GET", "/fn/default/web/")).body == b"abc"


async def test_interim_answers_are_passed_over(gateway, tools):
    async def hints(request):
        return b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + tools.response(b"done")

    await gateway.add_pod(hints, function="web", protocol="http")
    got = await gateway.request("GET", "/fn/default/web/")
    assert (got.status, got.body, got.header("link")) == (200, b"done", None)


async def test_a_304_with_a_length_is_passed_on(gateway, tools):
    async def unchanged(request):
        return b"HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 500\r\n\r\n"

    await gateway.add_pod(unchanged, function="web", protocol="http")
    client = await gateway.connect()
    for _ in range(2):
        got = await client.request("GET", "/fn/default/web/")
        assert (got.status, got.header("etag")) == (304, "x")


async def test_a_slow_client_slows_the_pod(gateway, tools):
    written = 0

    async def flood(request):
        nonlocal written
        request.writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n")
        for _ in range(500):
            request.writer.write(b"x" * 100_000)
            await request.writer.drain()
            written += 100_000
        return b""

    await gateway.add_pod(flood, function="web", protocol="http")
    client = await gateway.connect()
    client.writer.transport.pause_reading()
    await client.send(b"GET /fn/default/web/ HTTP/1.1\r\nhost: x\r\n\r\n")
    before = -1
    await tools.eventually(lambda: written > 0)
    while before != written:
        before = written
        await asyncio.sleep(0.2)
    assert written < 30_000_000
    client.writer.transport.resume_reading()
    got = await client.answer()
    assert len(got.body) == 50_000_000


async def test_a_slow_pod_slows_the_client(tools):
    backend = tools.backend()
    backend.functions = [tools.web_function()]
    async with tools.running(backend, max_request_bytes=100_000_000) as gateway:
        go_on = asyncio.Event()
        digest = hashlib.sha256()

        async def slow(request):
            request.writer.transport.pause_reading()
            await go_on.wait()
            request.writer.transport.resume_reading()
            left = int(request.headers["content-length"])
            while left:
                data = await request.reader.read(min(left, 1 << 20))
                digest.update(data)
                left -= len(data)
            return tools.response(b'"ok"')

        await gateway.add_pod(slow, function="web", protocol="http", raw=True)
        client = await gateway.connect()
        sent = 0
        body = bytes(range(256)) * 4096

        async def upload():
            nonlocal sent
            await client.send(
                b"POST /fn/default/web/ HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (len(body) * 40)
            )
            for _ in range(40):
                await client.send(body)
                sent += len(body)

        task = asyncio.create_task(upload())
        before = -1
        await tools.eventually(lambda: sent > 0)
        while before != sent:
            before = sent
            await asyncio.sleep(0.2)
        assert sent < 30_000_000
        go_on.set()
        assert (await client.answer()).status == 200
        await task
        assert digest.digest() == hashlib.sha256(body * 40).digest()


async def test_a_chunked_upload_streams_and_the_answer_may_come_first(gateway, tools):
    async def early(request):
        return tools.response(b"no thanks", "401 Unauthorized")

    await gateway.add_pod(early, function="web", protocol="http", raw=True)
    client = await gateway.connect()
    await client.send(b"POST /fn/default/web/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    got = await client.answer()
    assert (got.status, got.body) == (401, b"no thanks")


async def test_a_chunked_upload_arrives(gateway, tools):
    async def gather(request):
        data = await request.reader.readuntil(b"0\r\n\r\n")
        return tools.response(base64.b64encode(data))

    pod = await gateway.add_pod(gather, function="web", protocol="http", raw=True)
    client = await gateway.connect()
    await client.send(b"POST /fn/default/web/ HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")
    await tools.eventually(lambda: pod.requests)
    await client.send(b"6\r\n world\r\n0\r\n\r\n")
    got = await client.answer()
    assert base64.b64decode(got.body) == b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    assert pod.requests[0].headers["transfer-encoding"] == "chunked"


async def test_a_websocket_is_passed_on_both_ways(gateway, tools):
    async def chat(request):
        assert request.headers["upgrade"] == "websocket"
        assert request.headers["x-forwarded-prefix"] == "/fn/default/web"
        request.writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-accept: abc\r\n\r\n"
        )
        while data := await request.reader.read(1000):
            request.writer.write(data.upper())
        return

    pod = await gateway.add_pod(chat, function="web", protocol="http")
    function = gateway.gateway.functions.get("default", "web")
    client = await gateway.connect()
    await client.send(
        b"GET /fn/default/web/chat?room=1 HTTP/1.1\r\nhost: x\r\n"
        b"connection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-key: k\r\nsec-websocket-version: 13\r\n\r\n"
    )
    head = await client.head()
    assert (head.status, head.header("sec-websocket-accept")) == (101, "abc")
    assert pod.requests[0].target == "/chat?room=1"
    for text in (b"one", b"two"):
        await client.send(text)
        assert await client.reader.read(100) == text.upper()
    assert function.in_flight == 1
    await client.close()
    await tools.eventually(lambda: function.in_flight == 0)


async def test_a_websocket_to_what_has_none_is_refused(gateway):
    upgrade = b" HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    for path, status in ((b"/fn/default/hello/", 400), (b"/fn/default/nope/", 404), (b"/other", 400)):
        client = await gateway.connect()
        await client.send(b"GET " + path + upgrade)
        assert (await client.answer()).status == status
        assert await client.at_eof()


async def test_an_upgrade_that_is_not_offered_is_ignored(gateway, tools):
    await gateway.add_pod(function="web", protocol="http")
    got = await gateway.request(
        "GET", "/fn/default/web/", None, {"connection": "upgrade, http2-settings", "upgrade": "h2c"}
    )
    assert got.status == 200


async def _value(value):
    return value
