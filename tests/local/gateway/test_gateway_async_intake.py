"""Asynchronous invocations as they come in: what is accepted, when 202 is answered, and what is refused how."""

import asyncio
import base64
import json
import uuid

import boto3
import pytest
from botocore.config import Config

from kappa_core.errors import QueueFull, QueueUnavailable
from kappa_core.event import Kind, Lane, keyed_id
from kappa_core.function.status import Condition, FunctionStatus
from kappa_gateway.events import intake

EVENT = {"x-amz-invocation-type": "Event"}
URL_EVENT = {"kappa-invocation-type": "Event"}


class FakeQueue:
    """Keeps what it is given, and gives nothing out; an event is durable once `gate` is open."""

    max_event_bytes = None
    lease_seconds = 30.0
    available = True

    def __init__(self):
        self.accepted = {}
        self.asked = 0
        self.error = None
        self.gate = None

    async def open(self):
        pass

    async def close(self):
        pass

    async def lanes(self):
        return []

    async def receive(self, lane, count, wait):
        return []

    async def enqueue(self, event):
        self.asked += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.error is not None:
            raise self.error
        if event.id in self.accepted:
            return False
        self.accepted[event.id] = event
        return True


@pytest.fixture
def events():
    """The gateway's queue, of tests that ask for it."""
    return FakeQueue()


@pytest.fixture
async def gateway(request, tools, monkeypatch):
    """A gateway that knows the functions `hello` (lambda) and `web` (http), without pods."""
    queue = request.getfixturevalue("events") if "events" in request.fixturenames else None
    monkeypatch.setattr("kappa_gateway.main.make_queue", lambda settings: queue)
    backend = tools.backend()
    backend.functions = [tools.function(), tools.web_function()]
    async with tools.running(backend) as run:
        yield run


def invocations(gateway, kind="Event"):
    """How invocations of this type are counted, by outcome."""
    found = {}
    for function in gateway.gateway.functions:
        for (counted, outcome), number in function.counts.invocations.items():
            if counted == kind:
                found[str(outcome)] = found.get(str(outcome), 0) + number
    return found


async def test_202_with_the_request_id_and_no_body(gateway, events):
    context = base64.b64encode(b'{"custom": {}}').decode()
    answer = await gateway.invoke(
        body=b'{"name": "Ada"}',
        x_amz_invocation_type="Event",
        x_amz_client_context=context,
        x_amzn_trace_id="Root=1-5759e988-bd862e3fe1be46a994272793",
        x_amz_log_type="Tail",
    )
    assert (answer.status, answer.body, answer.header("content-length")) == (202, b"", "0")
    request_id = answer.header("x-amzn-requestid")
    assert str(uuid.UUID(request_id)) == request_id
    assert answer.header("kappa-duplicate") is None
    [event] = events.accepted.values()
    assert event.id == request_id
    assert event.lane == Lane(Kind.INVOCATION, "default", "hello")
    assert event.payload == b'{"name": "Ada"}'
    assert event.keyed is False
    assert event.attributes == {
        "x-amz-client-context": context,
        "x-amzn-trace-id": "Root=1-5759e988-bd862e3fe1be46a994272793",
    }
    assert invocations(gateway) == {}, "what is queued is no invocation yet"


async def test_202_comes_only_once_the_event_is_durable(gateway, events, tools):
    events.gate = asyncio.Event()
    answering = asyncio.create_task(gateway.invoke(x_amz_invocation_type="Event"))
    await tools.eventually(lambda: events.asked)
    assert not answering.done()
    events.gate.set()
    assert (await answering).status == 202


async def test_a_caller_that_leaves_while_its_event_is_stored_does_no_harm(gateway, events, tools):
    events.gate = asyncio.Event()
    client = await gateway.connect()
    await client.send(
        b"POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\nhost: x\r\nx-amz-invocation-type: Event\r\n"
        b"content-length: 2\r\n\r\n{}"
    )
    await tools.eventually(lambda: events.asked)
    await client.close()
    await tools.eventually(lambda: not gateway.gateway.upstream.active)
    events.gate.set()
    await tools.eventually(lambda: events.accepted)
    assert (await gateway.invoke(x_amz_invocation_type="Event")).status == 202
    assert invocations(gateway) == {}


async def test_a_key_gives_the_id_and_a_repetition_is_said_to_be_one(gateway, events):
    first = await gateway.invoke(body=b"1", x_amz_invocation_type="Event", kappa_idempotency_key="order 7")
    again = await gateway.invoke(body=b"2", x_amz_invocation_type="Event", kappa_idempotency_key="order 7")
    other = await gateway.invoke(x_amz_invocation_type="Event", kappa_idempotency_key="order 8")
    assert [first.status, again.status, other.status] == [202, 202, 202]
    assert (
        first.header("x-amzn-requestid") == again.header("x-amzn-requestid") == keyed_id("default", "hello", "order 7")
    )
    assert (first.header("kappa-duplicate"), again.header("kappa-duplicate")) == (None, "true")
    assert [event.payload for event in events.accepted.values()] == [b"1", b"{}"]
    assert all(event.keyed for event in events.accepted.values())
    assert other.header("x-amzn-requestid") != first.header("x-amzn-requestid")


async def test_what_is_too_large_gets_413(gateway, events):
    limit = gateway.gateway.settings.event_max_bytes
    assert limit == 1024 * 1024
    assert (await gateway.invoke(body=b'"' + b"x" * (limit - 2) + b'"', x_amz_invocation_type="Event")).status == 202
    answer = await gateway.invoke(body=b'"' + b"x" * (limit - 1) + b'"', x_amz_invocation_type="Event")
    assert (answer.status, answer.header("x-amzn-errortype")) == (413, "RequestTooLargeException")
    assert answer.json() == {
        "Type": "User",
        "Message": "the request's body is larger than 1048576 bytes, which is the limit",
    }
    events.max_event_bytes = 100
    answer = await gateway.invoke(body=b'"' + b"x" * 200 + b'"', x_amz_invocation_type="Event")
    assert (answer.status, answer.header("x-amzn-errortype")) == (413, "RequestTooLargeException")
    assert "the queue takes 100 at most" in answer.json()["Message"]
    assert len(events.accepted) == 1


async def test_what_the_caller_does_wrong_is_said_and_nothing_is_stored(gateway, events):
    cases = [
        ("hello", b"{nonsense", {}, 400, "InvalidRequestContentException"),
        ("hello", b"{}", {"x_amz_client_context": "{}"}, 400, "InvalidRequestContentException"),
        ("nobody", b"{}", {}, 404, "ResourceNotFoundException"),
        ("hello:prod", b"{}", {}, 404, "ResourceNotFoundException"),
        ("web", b"{}", {}, 400, "InvalidParameterValueException"),
    ]
    for name, body, headers, status, error in cases:
        answer = await gateway.invoke(name, body, x_amz_invocation_type="Event", **headers)
        assert (answer.status, answer.header("x-amzn-errortype")) == (status, error), name
    assert events.asked == 0
    assert invocations(gateway) == {"bad_request": 1}, "of those, one was known to be an event"


async def test_functions_that_cannot_run_now_are_accepted(gateway, events, tools):
    gateway.sink.put_function(tools.function("stopped", scaling={"minReplicas": 0, "maxReplicas": 0}))
    condition = Condition(
        type="Ready",
        status="False",
        reason="UnknownRuntime",
        message="no such runtime",
        observed_generation=1,
        last_transition_time="2026-01-01T00:00:00Z",
    )
    broken = tools.function("broken").model_copy(update={"status": FunctionStatus(conditions=[condition])})
    gateway.sink.put_function(broken)
    for name, status in (("stopped", 429), ("broken", 502)):
        assert (await gateway.invoke(name, x_amz_invocation_type="Event")).status == 202
        assert (await gateway.invoke(name)).status == status, "as ever for those who wait for the answer"


async def test_while_the_queue_is_away_it_is_503_with_retry_after_and_the_id_of_the_key(gateway, events):
    events.error = QueueUnavailable("the queue at nats://nats:4222 does not answer")
    answer = await gateway.invoke(x_amz_invocation_type="Event", kappa_idempotency_key="k")
    assert (answer.status, answer.header("x-amzn-errortype")) == (503, "ServiceUnavailableException")
    assert answer.header("retry-after") == "1"
    assert answer.json() == {"Type": "Service", "Message": "the queue at nats://nats:4222 does not answer"}
    assert answer.header("x-amzn-requestid") == keyed_id("default", "hello", "k"), "it may be stored: this finds it"
    assert invocations(gateway) == {"error": 1}
    await gateway.add_pod()
    assert (await gateway.invoke()).status == 200, "who waits for an answer needs no queue"


async def test_a_full_queue_is_429(gateway, events):
    events.error = QueueFull("default/hello has 10 MB waiting, which is the limit")
    answer = await gateway.invoke(x_amz_invocation_type="Event")
    assert (answer.status, answer.header("x-amzn-errortype")) == (429, "TooManyRequestsException")
    assert answer.header("retry-after") == "10"
    assert answer.json()["Reason"] == "QueueFull"


async def test_a_queue_that_is_slow_holds_a_bounded_number(gateway, events, tools, monkeypatch):
    monkeypatch.setattr(intake, "MAX_STORING", 3)
    events.gate = asyncio.Event()
    waiting = [asyncio.create_task(gateway.invoke(x_amz_invocation_type="Event")) for _ in range(3)]
    await tools.eventually(lambda: events.asked == 3)
    answer = await gateway.invoke(x_amz_invocation_type="Event")
    assert (answer.status, answer.header("retry-after")) == (503, "1")
    assert "does not keep up" in answer.json()["Message"]
    events.gate.set()
    assert [(await task).status for task in waiting] == [202, 202, 202]
    assert (await gateway.invoke(x_amz_invocation_type="Event")).status == 202


async def test_without_a_queue_it_is_400_that_says_how_to_get_one(gateway):
    for answer in (
        await gateway.invoke(x_amz_invocation_type="Event"),
        await gateway.request("GET", "/fn/default/hello", None, URL_EVENT),
    ):
        assert answer.status == 400
        assert "KAPPA_GATEWAY_QUEUE_URL" in answer.json()["Message"]


# -- by URL


async def test_a_url_takes_an_event_of_lambdas_form(gateway, events):
    answer = await gateway.request(
        "POST",
        "/fn/default/hello/a%20b?c=d",
        b"some text",
        {**URL_EVENT, "content-type": "text/plain", "cookie": "e=f"},
    )
    request_id = answer.header("x-amzn-requestid")
    assert answer.status == 202
    assert answer.json() == {
        "requestId": request_id,
        "status": "queued",
        "statusUrl": f"/v1/namespaces/default/functions/hello/async/{request_id}",
    }
    event = json.loads(events.accepted[request_id].payload)
    assert event["version"] == "2.0"
    assert (event["rawPath"], event["rawQueryString"], event["body"]) == ("/a%20b", "c=d", "some text")
    assert event["cookies"] == ["e=f"]
    assert event["requestContext"]["requestId"] == request_id
    assert events.accepted[request_id].attributes == {}


async def test_a_web_servers_event_is_the_request_itself(gateway, events):
    answer = await gateway.request(
        "PUT",
        "/fn/default/web/a%20b?c=d",
        b"\x00\xff",
        {
            **URL_EVENT,
            "x-own": "1",
            "connection": "x-named",
            "x-named": "hop",
            "te": "trailers",
            "kappa-idempotency-key": "k",
            "x-forwarded-for": "192.0.2.7",
            "x-forwarded-proto": "https",
        },
    )
    assert answer.status == 202
    event = events.accepted[keyed_id("default", "web", "k")]
    assert event.payload == b"\x00\xff"
    assert event.attributes["http.method"] == "PUT"
    assert event.attributes["http.target"] == "/a%20b?c=d"
    headers = json.loads(event.attributes["http.headers"])
    assert headers == [
        ["host", "gateway.test"],
        ["x-own", "1"],
        ["kappa-idempotency-key", "k"],
        ["x-forwarded-for", "192.0.2.7, 127.0.0.1"],
        ["x-forwarded-proto", "http"],
        ["x-forwarded-host", "gateway.test"],
        ["x-forwarded-prefix", "/fn/default/web"],
    ]


async def test_a_url_says_when_it_knew_the_event(gateway, events):
    headers = {**URL_EVENT, "kappa-idempotency-key": "k"}
    await gateway.request("POST", "/fn/default/web/", b"1", headers)
    answer = await gateway.request("POST", "/fn/default/web/", b"2", headers)
    assert answer.header("kappa-duplicate") == "true"
    request_id = keyed_id("default", "web", "k")
    assert answer.json() == {
        "requestId": request_id,
        "duplicate": True,
        "statusUrl": f"/v1/namespaces/default/functions/web/async/{request_id}",
    }


async def test_a_url_waits_for_its_answer_unless_it_is_told_otherwise(gateway, events):
    await gateway.add_pod()
    answer = await gateway.request("GET", "/fn/default/hello", None, {"kappa-invocation-type": "RequestResponse"})
    assert (answer.status, answer.json()["version"]) == (200, "2.0")
    answer = await gateway.request("GET", "/fn/default/hello", None, {"kappa-invocation-type": "event"})
    assert answer.status == 400
    assert "'event' is neither RequestResponse nor Event" in answer.json()["Message"]
    assert events.asked == 0


async def test_a_head_request_may_be_an_event(gateway, events):
    client = await gateway.connect()
    answer = await client.request("HEAD", "/fn/default/web/page", None, URL_EVENT)
    assert answer.status == 202
    assert (await client.request("GET", "/healthz")).status == 200, "no body was written"
    [event] = events.accepted.values()
    assert event.attributes["http.method"] == "HEAD"


async def test_a_websocket_is_no_event(gateway, events):
    client = await gateway.connect()
    await client.send(
        b"GET /fn/default/web/ws HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"kappa-invocation-type: Event\r\n\r\n"
    )
    answer = await client.answer()
    assert answer.status == 400
    assert "WebSocket cannot be an asynchronous invocation" in answer.json()["Message"]
    assert events.asked == 0


# -- AWS' own client


def lambda_client(port, **config):
    return boto3.client(
        "lambda",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(**config),
    )


async def test_boto3(gateway, events):
    client = lambda_client(gateway.port)
    answer = await asyncio.to_thread(
        client.invoke, FunctionName="hello", InvocationType="Event", Payload=b'{"name": "Ada"}'
    )
    assert answer["StatusCode"] == 202
    assert answer["Payload"].read() == b""
    assert "FunctionError" not in answer
    request_id = answer["ResponseMetadata"]["RequestId"]
    assert events.accepted[request_id].payload == b'{"name": "Ada"}'
    second = await asyncio.to_thread(client.invoke, FunctionName="hello", InvocationType="Event", Payload=b"{}")
    assert second["Payload"].read() == b""
    assert second["ResponseMetadata"]["RequestId"] != request_id, "each call has a key of its own"
    client.close()


# -- to the pod and back


async def test_what_a_url_took_reaches_the_pod_as_it_came(tools, tmp_path):
    backend = tools.backend()
    backend.functions = [tools.function(), tools.web_function()]
    async with tools.running(backend, queue_url=f"sqlite:{tmp_path}/queue.db") as run:
        web = await run.add_pod(function="web", protocol="http")
        pod = await run.add_pod()
        headers = {**URL_EVENT, "content-type": "text/plain", "x-own": "1", "connection": "x-named", "x-named": "hop"}
        for name in ("web", "hello"):
            answer = await run.request("PUT", f"/fn/default/{name}/a%20b?c=d", b"some text", headers)
            assert answer.status == 202
            path = answer.json()["statusUrl"]
            said = {}
            while said.get("status") != "succeeded":
                said = (await run.request("GET", path)).json()
                assert said["status"] in ("queued", "running", "succeeded"), said
            assert said["requestId"] == answer.json()["requestId"]
            assert said["attempts"] == 1
            if name == "web":
                assert said["result"] == "some text"
                [request] = web.requests
                assert (request.method, request.target, request.body) == ("PUT", "/a%20b?c=d", b"some text")
                assert request.headers["kappa-request-id"] == said["requestId"]
                assert request.headers["x-forwarded-prefix"] == "/fn/default/web"
                assert (request.headers["x-own"], request.headers["content-type"]) == ("1", "text/plain")
                assert not {"kappa-invocation-type", "x-named", "connection"} & set(request.headers)
            else:
                event = said["result"]
                assert (event["rawPath"], event["body"]) == ("/a%20b", "some text")
                assert event["requestContext"]["requestId"] == said["requestId"]
                [request] = pod.requests
                assert request.headers["kappa-request-id"] == said["requestId"]


async def test_a_stopping_gateway_accepts_while_its_port_is_open(tools, tmp_path):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend, queue_url=f"sqlite:{tmp_path}/queue.db", drain_delay=2.0) as run:
        client = await run.connect()
        run.stop.set()
        await tools.eventually(lambda: run.gateway.readiness.is_stopping)
        answer = await client.request("POST", "/2015-03-31/functions/hello/invocations", b"{}", EVENT)
        assert answer.status == 202
        request_id = answer.header("x-amzn-requestid")
        answer = await client.request("GET", f"/v1/namespaces/default/functions/hello/async/{request_id}")
        assert answer.json()["status"] == "queued", "for the next gateway"
