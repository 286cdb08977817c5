"""Function URLs: Lambda's event and response, web servers with the request as it is, and asynchronous requests."""

import asyncio
import base64
import json

import pytest
from gateway_fakes import Call, FakePod, echo, response, until

from kappa_core import wire
from kappa_gateway.events.intake import HTTP_HEADERS, HTTP_METHOD, HTTP_TARGET

WEB = {"image": {"ref": "web:1", "protocol": "http"}}
URL = "/fn/default/hello"


async def call(world, method="GET", path=URL + "/", *pieces, **more):
    return await Call(method, path, *pieces, **more).to(world.function_urls)


def answers(value, **headers):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return FakePod(lambda _: response(body, headers=headers))


def counted(world):
    return world.function.counts.invocations


# -- Lambda functions


async def test_a_request_is_an_event(edge):
    world = edge(settings={"trusted_proxies": 1, "domain": "fn.example.com"})
    pod, _ = await world.add(answers({"statusCode": 200}))
    headers = {"x-forwarded-for": "203.0.113.9", "x-amzn-trace-id": "Root=1"}
    got = await call(world, "POST", URL + "/a%20b", b"x=1", headers=headers, query="q=1")
    event = json.loads(pod.requests[0].body)
    assert (event["rawPath"], event["rawQueryString"], event["body"]) == ("/a%20b", "q=1", "x=1")
    context = event["requestContext"]
    assert (context["http"]["method"], context["http"]["sourceIp"]) == ("POST", "203.0.113.9")
    assert (context["domainName"], context["requestId"]) == ("fn.example.com", got.headers["x-amzn-requestid"])
    assert pod.requests[0].headers["x-amzn-trace-id"] == "Root=1"
    assert counted(world) == {("FunctionUrl", "success"): 1}
    assert world.is_idle()


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        ({"statusCode": 201, "body": "made"}, 201, b"made"),
        (
            {"statusCode": 200, "body": base64.b64encode(b"\x00\x01").decode(), "isBase64Encoded": True},
            200,
            b"\x00\x01",
        ),
        ({"statusCode": 204, "body": "not sent"}, 204, b""),
        ({"a": 1}, 200, b'{"a": 1}'),
    ],
)
async def test_an_answer_is_a_response(edge, answer, status, body):
    world = edge()
    await world.add(answers(answer))
    got = await call(world)
    assert (got.status, got.body) == (status, body)
    assert ("content-length" in got.headers) is (status != 204)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ({"statusCode": 1000}, "default/hello"),
        ({"statusCode": 200, "body": {"a": 1}}, "json.dumps"),
        ({"statusCode": 200, "headers": {"a": "b\r\nc"}}, "default/hello"),
    ],
)
async def test_an_answer_that_is_no_response_says_whose(edge, answer, says):
    world = edge()
    await world.add(answers(answer))
    got = await call(world)
    assert got.status == 502
    assert says in got.json()["Message"]
    assert counted(world) == {("FunctionUrl", "bad_answer"): 1}


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (b'{"errorType": "ValueError", "errorMessage": "secret"}', "ValueError"),
        (b'{"errorType": "a\\nb", "errorMessage": "secret"}', "Unhandled"),
        (b'{"errorType": 5}', "Unhandled"),
        (b"[]", "Unhandled"),
        (b"secret", "Unhandled"),
    ],
)
async def test_a_function_error_says_its_type_and_not_its_message(edge, error, kind):
    world = edge()
    await world.add(answers(error, **{wire.FUNCTION_ERROR: "Unhandled"}))
    got = await call(world)
    assert (got.status, got.headers["x-amzn-errortype"], got.json()) == (
        502,
        kind,
        {"message": "Internal Server Error"},
    )
    assert counted(world) == {("FunctionUrl", "function_error"): 1}


async def test_an_answer_over_the_limit(edge):
    world = edge(settings={"max_response_bytes": 1024})
    pod, _ = await world.add(answers(b"x" * 2000))
    got = await call(world)
    assert got.status == 502
    assert "1024" in got.json()["Message"]
    await until(lambda: not pod.open)


async def test_a_pod_that_answers_otherwise(edge):
    world = edge()
    await world.add(FakePod(lambda _: response(b"oh no", "500 Error")))
    got = await call(world)
    assert got.status == 502
    assert "its pod answered 500: oh no" in got.json()["Message"]


async def test_unknown_functions_are_named(edge):
    world = edge()
    got = await call(world, "GET", "/fn/team-a/nope/x")
    assert got.status == 404
    assert "team-a/nope" in got.json()["Message"]
    assert len(world.refused) == 1


@pytest.mark.parametrize("path", ["/fn/team/nope", "/fn/team", "/fn/", "/fn/%00/%ff"])
async def test_what_names_no_function_is_404(edge, path):
    assert (await call(edge(), "GET", path)).status == 404


async def test_an_error_of_a_head_request_has_no_body(edge):
    got = await call(edge(), "HEAD", "/fn/team-a/nope/")
    assert (got.status, got.body) == (404, b"")


# -- web servers


async def web(edge, server=None, **how):
    world = edge(code=WEB, **how)
    return world, (await world.add(server or FakePod(), protocol="http"))[0]


async def test_a_web_server_gets_the_request_as_it_is(edge):
    world, pod = await web(edge)
    headers = {
        "x-forwarded-for": "203.0.113.9",
        "x-forwarded-proto": "https",
        "connection": "x-mine",
        "x-mine": "1",
        "expect": "100-continue",
        "x-own": "2",
    }
    got = await call(world, "PUT", URL + "/a%20b", b"body", headers=headers, query="q=%20")
    (sent,) = pod.requests
    assert (sent.method, sent.target, sent.body) == ("PUT", "/a%20b?q=%20", b"body")
    assert sent.headers["host"] == "gateway.example.com"
    assert sent.headers["x-own"] == "2"
    assert not {"connection", "x-mine", "expect"} & sent.headers.keys()
    forwarded = {name: value for name, value in sent.headers.items() if name.startswith("x-forwarded")}
    assert forwarded == {
        "x-forwarded-for": "203.0.113.9, 192.0.2.1",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "gateway.example.com",
        "x-forwarded-prefix": URL,
    }
    assert (got.status, got.body) == (200, b"body")


async def test_its_answer_is_passed_on_without_what_belongs_to_the_connection(edge):
    headers = {"X-Own": "1", "Keep-Alive": "5", "Date": "then", "X-Amzn-RequestId": "mine", "Set-Cookie": "a=1"}
    world, _ = await web(edge, FakePod(lambda _: response(b"hi", "418 Teapot", headers)))
    got = await call(world)
    assert (got.status, got.body) == (418, b"hi")
    assert (got.headers["x-own"], got.headers["set-cookie"]) == ("1", "a=1")
    assert got.headers["x-amzn-requestid"] != "mine"
    assert not {"keep-alive", "date"} & got.headers.keys()


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
async def test_answers_without_a_body_have_no_length(edge, status):
    world, _ = await web(edge, FakePod(lambda _: f"HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n".encode()))
    got = await call(world)
    assert (got.body, got.headers.get("content-length")) == (b"", None)


async def test_a_chunked_body_stays_chunked(edge):
    world, pod = await web(edge)
    raw = []
    pod.answer = lambda one: raw.append(one.transport.written) or response()
    await call(world, "POST", URL + "/", b"abc", headers={"transfer-encoding": "chunked"}, length=False)
    assert pod.requests[0].headers["transfer-encoding"] == "chunked"
    assert raw == [b"3\r\nabc\r\n0\r\n\r\n"]


async def test_a_body_streams_and_the_answer_may_come_first(edge):
    world, pod = await web(edge)
    pod.answer = lambda _: response(b"early")
    request = Call("POST", URL + "/", headers={"transfer-encoding": "chunked"}, body_is_here=False, length=False)
    request.pieces = [b"first", b"never read"]
    got = await request.to(world.function_urls)
    assert (got.status, got.body) == (200, b"early")
    assert world.is_idle()


@pytest.mark.parametrize("length", [True, False])
async def test_a_body_over_the_limit_is_413(edge, length):
    world, pod = await web(edge, settings={"max_request_bytes": 1024})
    headers = {} if length else {"transfer-encoding": "chunked"}
    never = asyncio.Event()
    pod.answer = lambda _: never.wait()
    got = await call(world, "POST", URL + "/", b"x" * 800, b"x" * 800, headers=headers, length=length)
    assert got.status == 413
    assert world.is_idle()
    never.set()


async def test_a_caller_that_leaves_while_it_sends_ends_the_request(edge):
    world, pod = await web(edge)
    request = Call("POST", URL + "/", body_is_here=False, headers={"content-length": "100"}, length=False)
    request.pieces = [b"begun", b""]
    request.pieces.pop()
    request.receive = leaving(request)
    got = await request.to(world.function_urls)
    assert got.status == 0
    assert counted(world) == {("FunctionUrl", "cancelled"): 1}
    await until(lambda: not pod.open)


def leaving(request):
    given = [{"type": "http.request", "body": b"begun", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return given.pop(0)

    return receive


# -- asynchronous

EVENT = {"kappa-invocation-type": "Event"}


async def test_a_url_takes_an_event_in_lambdas_form(edge):
    world = edge()
    got = await call(world, "POST", URL + "/a", b"hi", headers={**EVENT, "x-amzn-trace-id": "Root=1"})
    request_id = got.headers["x-amzn-requestid"]
    status_url = f"/v1/namespaces/default/functions/hello/async/{request_id}"
    assert got.status == 202
    assert got.json() == {"requestId": request_id, "status": "queued", "statusUrl": status_url}
    ((key, stored, payload, attributes, keyed),) = world.intake.stored
    assert (key, stored, attributes, keyed) == ("default/hello", request_id, {"x-amzn-trace-id": "Root=1"}, False)
    event = json.loads(payload)
    assert (event["rawPath"], event["body"], event["requestContext"]["requestId"]) == ("/a", "hi", request_id)


async def test_a_web_servers_event_is_the_request_itself(edge):
    world = edge(code=WEB)
    headers = {**EVENT, "x-own": "1", "connection": "x-mine", "x-mine": "1", "expect": "100-continue"}
    await call(world, "PUT", URL + "/a%20b", b"\x00\xff", headers=headers, query="q=1")
    ((_, _, payload, attributes, _),) = world.intake.stored
    assert payload == b"\x00\xff"
    assert (attributes[HTTP_METHOD], attributes[HTTP_TARGET]) == ("PUT", "/a%20b?q=1")
    assert json.loads(attributes[HTTP_HEADERS]) == [
        ["host", "gateway.example.com"],
        ["x-own", "1"],
        ["x-forwarded-for", "192.0.2.1"],
        ["x-forwarded-proto", "http"],
        ["x-forwarded-host", "gateway.example.com"],
        ["x-forwarded-prefix", URL],
    ]


async def test_a_repetition_is_said_to_be_one(edge):
    world = edge()
    headers = {**EVENT, "kappa-idempotency-key": "k"}
    first = await call(world, headers=headers)
    world.intake.known.add(first.json()["requestId"])
    second = await call(world, headers=headers)
    assert (second.status, second.headers["kappa-duplicate"]) == (202, "true")
    assert second.json() == {**{k: v for k, v in first.json().items() if k != "status"}, "duplicate": True}


@pytest.mark.parametrize(
    ("kind", "status", "stored"), [("Event", 202, 1), ("RequestResponse", 200, 0), ("event", 400, 0), ("", 400, 0)]
)
async def test_which_requests_are_events(edge, kind, status, stored):
    world = edge()
    await world.add(FakePod(echo))
    got = await call(world, headers={"kappa-invocation-type": kind})
    assert (got.status, len(world.intake.stored)) == (status, stored)
