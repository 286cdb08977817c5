"""What a gateway says of asynchronous invocations, redrive and purge, over real queues that nobody dispatches from."""

import json
import time
import urllib.parse
import uuid

import pytest
from nats_server import NatsServer

from kappa_core.errors import QueueUnavailable
from kappa_core.event import Condition, DeadEvent, Event, Kind, Lane, Record, Status
from kappa_gateway.events import administration, status
from kappa_gateway.queue.factory import make_queue
from kappa_gateway.settings import Settings

BASE = "/v1/namespaces/default/functions/hello/async"
LANE = Lane(Kind.INVOCATION, "default", "hello")
DELIVERIES = Lane(Kind.DELIVERY, "default", "hello")


class Stored:
    """A queue of which a gateway sees no event, so that all of them stay where the test put them."""

    def __init__(self, queue):
        self._queue = queue

    def __getattr__(self, name):
        return getattr(self._queue, name)

    async def lanes(self):
        return []

    async def receive(self, lane, count, wait):
        return []


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def gateway(request, tools, monkeypatch):
    """A gateway that knows the function `hello`, without pods."""
    queue = request.getfixturevalue("queue") if "queue" in request.fixturenames else None
    stored = Stored(queue) if queue is not None else None
    monkeypatch.setattr("kappa_gateway.main.make_queue", lambda settings: stored)
    backend = tools.backend()
    backend.functions = [tools.function(), tools.web_function()]
    async with tools.running(backend) as run:
        yield run


@pytest.fixture(params=["sqlite", "jetstream"])
def queue(request, tmp_path):
    """Opened and closed by the gateway."""
    if request.param == "sqlite":
        return make_queue(Settings(queue_url=f"sqlite:{tmp_path}/queue.db"))
    url = request.getfixturevalue("nats_server").url
    return make_queue(Settings(queue_url=url, queue_prefix=f"t{uuid.uuid4().hex[:12]}"))


def an_event(request_id=None, lane=LANE, age=0.0, **more):
    return Event(request_id or str(uuid.uuid4()), lane, b'{"n": 1}', time.time() - age, **more)


def a_record(event, status, **more):
    now = time.time()
    return Record("default", "hello", event.id, status, received_at=event.received_at, updated_at=now, **more)


def a_death(event, condition=Condition.RETRIES_EXHAUSTED, died_at=None):
    error = {"errorType": "KeyError", "errorMessage": "'name'"}
    return DeadEvent(event, condition, 3, error, time.time() if died_at is None else died_at)


async def get(gateway, path, wanted=200):
    answer = await gateway.request("GET", path)
    assert answer.status == wanted, answer.body
    return answer.json()


async def post(gateway, path, body, wanted=200):
    answer = await gateway.request("POST", path, json.dumps(body).encode(), {"content-type": "application/json"})
    assert answer.status == wanted, answer.body
    return answer.json()


async def events_in(queue, lane=LANE):
    return await queue.events(lane, limit=100)


# -- one


async def test_an_event_from_its_acceptance_to_its_end(gateway, queue):
    accepted = await gateway.invoke(x_amz_invocation_type="Event")
    request_id = accepted.header("x-amzn-requestid")
    said = await get(gateway, f"{BASE}/{request_id}")
    assert said == {
        "requestId": request_id,
        "status": "queued",
        "attempts": 0,
        "nextAttempt": None,
        "receivedAt": said["receivedAt"],
        "updatedAt": said["receivedAt"],
        "error": None,
        "deadLetter": False,
        "resultTruncated": False,
        "result": None,
    }
    assert said["receivedAt"].endswith("Z")
    [lease] = await queue.receive(LANE, 1, 0)
    assert (await get(gateway, f"{BASE}/{request_id}"))["status"] == "queued", "taken is not yet running"
    await queue.save_record(a_record(lease.event, Status.RUNNING, receive_count=1))
    assert (await get(gateway, f"{BASE}/{request_id}"))["status"] == "running"
    error = {"errorType": "KeyError", "errorMessage": "'name'"}
    await queue.save_record(
        a_record(lease.event, Status.RETRYING, receive_count=1, attempts=1, next_attempt=1795442709.25, error=error)
    )
    await queue.nack(lease, 60)
    said = await get(gateway, f"{BASE}/{request_id}")
    assert (said["status"], said["attempts"], said["error"]) == ("retrying", 1, error)
    assert said["nextAttempt"] == "2026-11-23T14:05:09.250Z"
    await queue.save_record(
        a_record(lease.event, Status.SUCCEEDED, attempts=2, result='{"big": 12345678901234567890.10}')
    )
    assert (await get(gateway, f"{BASE}/{request_id}"))["status"] == "succeeded", "before it leaves its lane too"
    await queue.ack(lease)
    answer = await gateway.request("GET", f"{BASE}/{request_id}")
    assert answer.header("content-type") == "application/json"
    assert answer.body.endswith(b'"result": {"big": 12345678901234567890.10}}'), "as the function wrote it"
    assert answer.json()["attempts"] == 2


async def test_a_result_that_is_no_json_or_cut_is_a_string(gateway, queue):
    text, cut = an_event(), an_event()
    await queue.save_record(a_record(text, Status.SUCCEEDED, result="<h1>hello</h1>"))
    await queue.save_record(a_record(cut, Status.SUCCEEDED, result="123", result_truncated=True))
    said = await get(gateway, f"{BASE}/{text.id}")
    assert (said["result"], said["resultTruncated"]) == ("<h1>hello</h1>", False)
    said = await get(gateway, f"{BASE}/{cut.id}")
    assert (said["result"], said["resultTruncated"]) == ("123", True)


async def test_the_dead_letter_knows_for_longer_than_the_record(gateway, queue):
    failed, expired, forgotten = an_event(), an_event(), an_event()
    await queue.save_record(a_record(failed, Status.FAILED, attempts=3, error={"errorType": "E"}))
    await queue.dead_letter(a_death(failed))
    await queue.dead_letter(a_death(expired, Condition.EVENT_AGE_EXCEEDED))
    await queue.save_record(a_record(forgotten, Status.FAILED, attempts=3))
    said = await get(gateway, f"{BASE}/{failed.id}")
    assert (said["status"], said["attempts"], said["deadLetter"]) == ("failed", 3, True)
    said = await get(gateway, f"{BASE}/{expired.id}")
    assert (said["status"], said["deadLetter"]) == ("expired", True)
    assert said["error"] == {"errorType": "KeyError", "errorMessage": "'name'"}
    assert (await get(gateway, f"{BASE}/{forgotten.id}"))["deadLetter"] is False


async def test_a_key_that_is_used_again_gives_the_news_of_the_new_event(gateway, queue):
    request_id = str(uuid.uuid4())
    old, new = an_event(request_id, age=200), an_event(request_id)
    await queue.save_record(a_record(old, Status.SUCCEEDED, attempts=1, result="1"))
    assert (await get(gateway, f"{BASE}/{request_id}"))["status"] == "succeeded"
    await queue.enqueue(new)
    assert (await get(gateway, f"{BASE}/{request_id}"))["status"] == "queued"
    assert [one["status"] for one in (await get(gateway, BASE))["invocations"]] == ["queued"]


async def test_what_is_not_known_is_404_in_lambdas_form(gateway, queue):
    purged = an_event()
    await queue.save_record(a_record(purged, Status.RETRYING))
    for request_id in (str(uuid.uuid4()), "nonsense", "*", "%3E", purged.id):
        answer = await gateway.request("GET", f"{BASE}/{request_id}")
        assert (answer.status, answer.header("x-amzn-errortype")) == (404, "ResourceNotFoundException"), request_id
        assert uuid.UUID(answer.header("x-amzn-requestid"))
        assert answer.json() == {
            "Type": "User",
            "Message": f"no asynchronous invocation {urllib.parse.unquote(request_id)!r} of default/hello is known: "
            "there was none, it was purged, or it ended more than 1h ago",
        }
    other = an_event()
    await queue.enqueue(other)
    await get(gateway, f"/v1/namespaces/default/functions/web/async/{other.id}", 404)


async def test_the_queue_may_be_away(gateway, queue, monkeypatch):
    async def away(*args, **kwargs):
        raise QueueUnavailable("the queue does not answer")

    for method in ("find", "record", "records", "events", "dead_event", "dead_events", "purge"):
        monkeypatch.setattr(queue, method, away)
    for method, path, body in (
        ("GET", f"{BASE}/{uuid.uuid4()}", None),
        ("GET", BASE, None),
        ("DELETE", BASE, None),
        ("POST", f"{BASE}/redrive", b'{"all": true}'),
    ):
        answer = await gateway.request(method, path, body)
        assert (answer.status, answer.header("retry-after")) == (503, "1"), path
        assert answer.json() == {"Type": "Service", "Message": "the queue does not answer"}


async def test_without_a_queue_each_says_how_to_get_one(gateway):
    for method, path in (
        ("GET", f"{BASE}/{uuid.uuid4()}"),
        ("GET", BASE),
        ("DELETE", BASE),
        ("POST", f"{BASE}/redrive"),
    ):
        answer = await gateway.request(method, path)
        assert answer.status == 400
        assert "KAPPA_GATEWAY_QUEUE_URL" in answer.json()["Message"]


# -- the list


async def test_the_list_has_all_of_them_newest_first_and_no_results(gateway, queue):
    oldest, retried, ended, dead, lost_record, newest = (an_event(age=age) for age in (60, 50, 40, 30, 20, 10))
    for event in (oldest, retried, newest):
        await queue.enqueue(event)
    await queue.save_record(a_record(retried, Status.RETRYING, attempts=1, next_attempt=time.time() + 60))
    await queue.save_record(a_record(ended, Status.SUCCEEDED, attempts=1, result='"long"'))
    await queue.save_record(a_record(dead, Status.FAILED, attempts=3))
    await queue.dead_letter(a_death(dead))
    await queue.dead_letter(a_death(lost_record, Condition.EVENT_AGE_EXCEEDED))
    await queue.save_record(a_record(an_event(), Status.RETRYING))  # its event was purged
    said = (await get(gateway, BASE))["invocations"]
    assert [(one["requestId"], one["status"], one["deadLetter"]) for one in said] == [
        (newest.id, "queued", False),
        (lost_record.id, "expired", True),
        (dead.id, "failed", True),
        (ended.id, "succeeded", False),
        (retried.id, "retrying", False),
        (oldest.id, "queued", False),
    ]
    assert all("result" not in one for one in said)
    for wanted, ids in (
        ("queued", [newest.id, oldest.id]),
        ("running", []),
        ("retrying", [retried.id]),
        ("succeeded", [ended.id]),
        ("failed", [dead.id]),
        ("expired", [lost_record.id]),
    ):
        said = (await get(gateway, f"{BASE}?status={wanted}"))["invocations"]
        assert [one["requestId"] for one in said] == ids, wanted
    said = (await get(gateway, f"{BASE}?limit=2"))["invocations"]
    assert [one["requestId"] for one in said] == [newest.id, lost_record.id]


async def test_a_long_list_is_read_in_pages(gateway, queue):
    events = [an_event(age=1000 - number) for number in range(50)]
    for event in events:
        await queue.enqueue(event)
    await queue.save_record(a_record(events[40], Status.RETRYING, attempts=1))
    said = (await get(gateway, BASE))["invocations"]
    assert [one["requestId"] for one in said] == [event.id for event in reversed(events)]
    said = (await get(gateway, f"{BASE}?status=retrying&limit=1"))["invocations"]
    assert [one["requestId"] for one in said] == [events[40].id]


async def test_large_ones_are_not_all_read_at_once(monkeypatch):
    asked = []

    async def fetch(count):
        asked.append(count)
        return [1024 * 1024] * min(count, 500)

    assert len(await status.affordable(fetch, 1000, lambda size: size)) == 32
    assert asked == [32]
    monkeypatch.setattr(status, "MEMORY", 100 * 1024 * 1024)
    assert len(await status.affordable(fetch, 1000, lambda size: size)) == 100
    assert asked == [32, 32, 100]


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("limit=0", "limit: Input should be greater than or equal to 1"),
        ("limit=1001", "limit: Input should be less than or equal to 1000"),
        ("limit=ten", "limit: Input should be a valid integer"),
        ("status=done", "status 'done' is not one of queued, running, retrying, succeeded, failed, expired"),
    ],
)
async def test_bad_parameters_are_400_in_lambdas_form(gateway, queue, query, says):
    answer = await gateway.request("GET", f"{BASE}?{query}")
    assert (answer.status, answer.header("x-amzn-errortype")) == (400, "InvalidParameterValueException")
    assert answer.json()["Type"] == "User"
    assert says in answer.json()["Message"]


async def test_names_that_are_none_are_400_and_unknown_functions_404(gateway, queue):
    answer = await gateway.request("GET", "/v1/namespaces/default/functions/Not_A.Name/async")
    assert answer.status == 400
    assert "'Not_A.Name' is not a valid function name" in answer.json()["Message"]
    said = await get(gateway, "/v1/namespaces/default/functions/nobody/async", 404)
    assert said["Message"] == "Function not found: there is no Function 'nobody' in namespace 'default'"
    gone = Lane(Kind.INVOCATION, "default", "gone")
    await queue.enqueue(an_event(lane=gone))
    said = await get(gateway, "/v1/namespaces/default/functions/gone/async")
    assert len(said["invocations"]) == 1, "of a deleted function, what is left"


# -- redrive


async def test_a_redriven_event_starts_afresh_under_an_id_of_its_own(gateway, queue):
    old = an_event(age=7200, attributes={"x-amzn-trace-id": "Root=1-2-3"})
    await queue.save_record(a_record(old, Status.FAILED, attempts=3))
    await queue.dead_letter(a_death(old))
    before = time.time()
    said = await post(gateway, f"{BASE}/redrive", {"requestIds": [old.id, "nonsense"]})
    new_id = status.redriven_id(old.id)
    assert said["redriven"] == [{"requestId": old.id, "redrivenAs": new_id}]
    assert (said["notFound"], said["more"]) == (["nonsense"], False)
    [event] = await events_in(queue)
    assert (event.id, event.payload, event.lane) == (new_id, old.payload, LANE)
    assert event.attributes == {"x-amzn-trace-id": "Root=1-2-3", "redrive-of": old.id}
    assert event.received_at >= before, "all of maxAge"
    assert (await get(gateway, f"{BASE}/{new_id}"))["redriveOf"] == old.id
    said = await get(gateway, f"{BASE}/{old.id}")
    assert (said["status"], said["deadLetter"], said["redrivenAs"]) == ("failed", False, new_id)
    said = await post(gateway, f"{BASE}/redrive", {"requestIds": [old.id]})
    assert (said["redriven"], said["notFound"]) == ([], [old.id])


async def test_a_redrive_that_was_interrupted_can_be_repeated(gateway, queue, monkeypatch):
    old = an_event()
    await queue.dead_letter(a_death(old))
    unbury = queue.delete_dead_event

    async def away(*args):
        raise QueueUnavailable("gone")

    monkeypatch.setattr(queue, "delete_dead_event", away)
    await post(gateway, f"{BASE}/redrive", {"requestIds": [old.id]}, 503)
    monkeypatch.setattr(queue, "delete_dead_event", unbury)
    said = await post(gateway, f"{BASE}/redrive", {"all": True})
    assert len(said["redriven"]) == 1
    assert len(await events_in(queue)) == 1


async def test_all_of_the_dead_letter_deliveries_too(gateway, queue):
    events = [an_event() for _ in range(40)]
    delivery = an_event(lane=DELIVERIES, attributes={"destination": '{"http": {"url": "http://x"}}'})
    for event in (*events, delivery):
        await queue.dead_letter(a_death(event))
    later = an_event()
    await queue.dead_letter(a_death(later, died_at=time.time() + 60))
    assert {one["requestId"] for one in (await get(gateway, BASE))["invocations"] if one.get("delivery")} == {
        delivery.id
    }
    said = await post(gateway, f"{BASE}/redrive", {"all": True})
    assert {one["requestId"] for one in said["redriven"]} == {event.id for event in (*events, delivery)}
    assert said["more"] is False
    assert len(await events_in(queue)) == 40
    [again] = await events_in(queue, DELIVERIES)
    assert again.attributes["destination"] == delivery.attributes["destination"]
    assert [dead.event.id for dead in await queue.dead_events("default", "hello", limit=10)] == [later.id]


async def test_a_redriven_delivery_goes_to_where_its_function_says_now(gateway, queue, tools):
    def destination(url):
        return {"destination": json.dumps({"http": {"url": url}}), "purpose": "onSuccess"}

    lost = an_event(lane=DELIVERIES, attributes=destination("http://wrong"))
    await queue.dead_letter(a_death(lost))
    mended = {"onSuccess": {"http": {"url": "http://right"}}}
    gateway.sink.put_function(tools.function(**{"async": mended}))
    await post(gateway, f"{BASE}/redrive", {"requestIds": [lost.id]})
    [again] = await events_in(queue, DELIVERIES)
    assert json.loads(again.attributes["destination"]) == mended["onSuccess"]


async def test_a_long_redrive_is_done_in_steps(gateway, queue, monkeypatch):
    monkeypatch.setattr(administration, "MOST_AT_ONCE", 16)
    for _ in range(20):
        await queue.dead_letter(a_death(an_event()))
    first = await post(gateway, f"{BASE}/redrive", {"all": True})
    assert (len(first["redriven"]), first["more"]) == (16, True)
    second = await post(gateway, f"{BASE}/redrive", {"all": True, "until": first["until"]})
    assert (len(second["redriven"]), second["more"]) == (4, False)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", 'give either {"requestIds"'),
        (b"{}", 'give either {"requestIds"'),
        (b'{"all": true, "requestIds": []}', 'give either {"requestIds"'),
        (b'{"all": "yes"}', "all: Input should be a valid boolean"),
        (b'{"requestIds": "one"}', "requestIds: Input should be a valid array"),
        (b'{"requestIds": [], "until": 1}', "until goes with all"),
        (b'{"ids": []}', "ids: Extra inputs are not permitted"),
        (b"{nonsense", "Invalid JSON"),
        (json.dumps({"requestIds": ["x"] * 1001}).encode(), "requestIds: List should have at most 1000 items"),
    ],
)
async def test_a_redrive_that_cannot_be_read(gateway, queue, body, says):
    answer = await gateway.request("POST", f"{BASE}/redrive", body)
    assert answer.status == 400
    assert says in answer.json()["Message"], answer.json()


async def test_bodies_are_bounded(gateway, queue):
    answer = await gateway.request("POST", f"{BASE}/redrive", b" " * 200_000)
    assert (answer.status, answer.header("x-amzn-errortype")) == (413, "RequestTooLargeException")


async def test_nothing_is_redriven_for_a_function_that_is_not_there(gateway, queue):
    said = await post(gateway, "/v1/namespaces/default/functions/nobody/async/redrive", {"all": True}, 404)
    assert said["Message"] == "Function not found: there is no Function 'nobody' in namespace 'default'"


# -- purge


async def purge(gateway, query="", wanted=200):
    answer = await gateway.request("DELETE", BASE + query)
    assert answer.status == wanted
    return answer.json()


async def test_purge_drops_what_waits_or_the_dead_letter(gateway, queue):
    for _ in range(3):
        await queue.enqueue(an_event())
    for _ in range(20):
        await queue.dead_letter(a_death(an_event()))
    assert await purge(gateway) == {"purged": 3, "more": False}
    assert await purge(gateway) == {"purged": 0, "more": False}
    assert len(await queue.dead_events("default", "hello", limit=100)) == 20
    assert await purge(gateway, "?dead=true") == {"purged": 20, "more": False}
    assert await queue.dead_events("default", "hello", limit=100) == []
    assert "dead: Input should be 'true' or 'false'" in (await purge(gateway, "?dead=maybe", 400))["Message"]


async def test_the_documentation_has_it_all(gateway):
    spec = await get(gateway, "/openapi.json")
    path = "/v1/namespaces/{namespace}/functions/{name}/async"
    assert set(spec["paths"][path]) == {"get", "delete"}
    shape = spec["components"]["schemas"]["Invocation"]["properties"]
    assert {"requestId", "status", "attempts", "nextAttempt", "result", "error", "deadLetter"} <= set(shape)
    redrive = spec["paths"][f"{path}/redrive"]["post"]["requestBody"]["content"]["application/json"]
    assert set(redrive["schema"]["properties"]) == {"requestIds", "all", "until"}
    invoke = spec["paths"]["/2015-03-31/functions/{function_name}/invocations"]["post"]
    assert "202" in invoke["responses"]
