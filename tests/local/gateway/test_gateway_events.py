"""Asynchronous invocations through a gateway in this process, with SQLite as the queue and little servers as pods."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest

from kappa_core.event import Condition, Event, Kind, Lane, Record, Status
from kappa_core.function.status import Condition as ReadyCondition
from kappa_core.function.status import FunctionStatus
from kappa_gateway.events import settlement
from kappa_gateway.queue.protocol import QueueFull, QueueUnavailable

FAST = {
    "event_retry_delays": [0.05, 0.1],
    "event_first_backoff": 0.05,
    "event_longest_backoff": 0.4,
    "queue_lease": 1.0,
}
LANE = Lane(Kind.INVOCATION, "default", "hello")


@pytest.fixture
def asynchronous(tools, tmp_path):
    """A gateway with a queue: `async with asynchronous([functions], **settings) as run`."""

    @asynccontextmanager
    async def start(functions=None, **settings):
        backend = tools.backend()
        backend.functions = functions if functions is not None else [tools.function()]
        given = {**FAST, "queue_url": f"sqlite:{tmp_path}/queue.sqlite", **settings}
        async with tools.running(backend, **given) as run:
            yield run

    return start


async def send(run, name="hello", body=b"{}", **headers) -> str:
    answer = await run.invoke(name, body, **{"X_Amz_Invocation_Type": "Event", **headers})
    assert answer.status == 202, answer.body
    return answer.header("x-amzn-requestid")


async def until(ask, what, seconds=15.0):
    """What the coroutine function `ask` returns, once that is true."""
    deadline = asyncio.get_running_loop().time() + seconds
    while not (value := await ask()):
        assert asyncio.get_running_loop().time() < deadline, f"not seen within {seconds} s: {what}"
        await asyncio.sleep(0.01)
    return value


async def final_record(run, request_id, function="hello") -> Record:
    async def ask():
        record = await run.gateway.events.queue.record("default", function, request_id)
        return record if record is not None and record.status.final else None

    return await until(ask, f"the end of {request_id}")


async def record_of(run, request_id, condition, function="hello") -> Record:
    async def ask():
        record = await run.gateway.events.queue.record("default", function, request_id)
        return record if record is not None and condition(record) else None

    return await until(ask, f"a record of {request_id}")


async def dead(run, request_id, function="hello"):
    async def ask():
        return await run.gateway.events.queue.dead_event("default", function, request_id)

    return await until(ask, f"{request_id} in the dead letter")


async def lanes_are_empty(run) -> None:
    async def ask():
        return all(state.waiting + state.held == 0 for state in await run.gateway.events.queue.lanes())

    await until(ask, "empty lanes")


class Script:
    """A pod's answers in turn, the last one for all that follow; keeps the requests by kind."""

    def __init__(self, tools, *answers):
        self.answers = list(answers)
        self.attempts = []
        self.kept_asked = []
        self.kept = {}
        self._tools = tools

    async def __call__(self, request):
        if request.target.startswith("/kept/"):
            if request.method == "DELETE":
                return self._tools.response()
            self.kept_asked.append(request.target.removeprefix("/kept/"))
            return self.kept.get(self.kept_asked[-1]) or self._tools.response(b"{}", "404 Not Found")
        self.attempts.append((request.headers["kappa-request-id"], request.headers["kappa-attempt"]))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request) if callable(answer) else answer


def failure(tools, message="no"):
    body = json.dumps({"errorType": "ValueError", "errorMessage": message}).encode()
    return tools.response(body, headers={"X-Amz-Function-Error": "Unhandled"})


# -- one event


async def test_an_event_is_run_and_its_result_recorded(asynchronous):
    async with asynchronous() as run:
        pod = await run.add_pod()
        request_id = await send(run, body=b'{"n": 1}', X_Amz_Client_Context="e30=", X_Amzn_Trace_Id="Root=1-2-3")
        record = await final_record(run, request_id)
        assert (record.status, record.attempts, record.result) == (Status.SUCCEEDED, 1, '{"n": 1}')
        (request,) = pod.requests
        assert request.headers["kappa-request-id"] == request_id
        assert request.headers["kappa-attempt"] == "1"
        assert request.headers["x-amz-client-context"] == "e30="
        assert request.headers["x-amzn-trace-id"] == "Root=1-2-3"
        await lanes_are_empty(run)


async def test_a_function_that_fails_is_tried_again_as_the_same_request(asynchronous, tools):
    async with asynchronous() as run:
        pod = Script(tools, failure(tools), failure(tools), tools.response(b'"well"'))
        await run.add_pod(pod)
        request_id = await send(run)
        record = await final_record(run, request_id)
        assert (record.status, record.attempts, record.result, record.error) == (Status.SUCCEEDED, 3, '"well"', None)
        assert pod.attempts == [(request_id, "1"), (request_id, "2"), (request_id, "3")]


async def test_the_third_failure_ends_in_the_dead_letter(asynchronous, tools):
    async with asynchronous() as run:
        pod = Script(tools, failure(tools, "never"))
        await run.add_pod(pod)
        request_id = await send(run, body=b'{"keep": "me"}')
        dead_event = await dead(run, request_id)
        record = await final_record(run, request_id)
        assert (record.status, record.attempts) == (Status.FAILED, 3)
        assert record.error == {"errorType": "ValueError", "errorMessage": "never"}
        assert (dead_event.condition, dead_event.attempts) == (Condition.RETRIES_EXHAUSTED, 3)
        assert dead_event.event.payload == b'{"keep": "me"}'
        assert len(pod.attempts) == 3
        await lanes_are_empty(run)


async def test_between_tries_its_record_says_when_the_next_one_is(asynchronous, tools):
    async with asynchronous(event_retry_delays=[3600.0]) as run:
        await run.add_pod(Script(tools, failure(tools)))
        before = time.time()
        request_id = await send(run)
        record = await record_of(run, request_id, lambda record: record.status is Status.RETRYING)
        assert record.attempts == 1
        assert before + 3600 <= record.next_attempt <= time.time() + 3600
        assert record.error["errorType"] == "ValueError"


async def test_a_retry_that_would_come_too_late_is_not_waited_for(asynchronous, tools):
    function = tools.function(**{"async": {"maxAge": "60s"}})
    async with asynchronous([function], event_retry_delays=[61.0]) as run:
        await run.add_pod(Script(tools, failure(tools)))
        request_id = await send(run)
        record = await final_record(run, request_id)
        assert (record.status, record.attempts) == (Status.EXPIRED, 1)
        assert (await dead(run, request_id)).condition is Condition.EVENT_AGE_EXCEEDED


async def test_what_is_too_old_is_not_run(asynchronous):
    async with asynchronous() as run:
        pod = await run.add_pod()
        old = Event("old", LANE, b"{}", time.time() - 6 * 3600 - 1)
        await run.gateway.events.intake.accept(old)
        record = await final_record(run, "old")
        assert (record.status, record.attempts) == (Status.EXPIRED, 0)
        assert pod.requests == []


async def test_max_replicas_zero_goes_to_the_dead_letter_at_once(asynchronous, tools):
    function = tools.function(scaling={"maxReplicas": 0})
    async with asynchronous([function], event_first_backoff=3600.0, event_longest_backoff=3600.0) as run:
        ids = [await send(run) for _ in range(5)]
        for request_id in ids:
            dead_event = await dead(run, request_id)
            assert (dead_event.condition, dead_event.attempts) == (Condition.ZERO_RESERVED_CONCURRENCY, 0)
        assert "maxReplicas is 0" in dead_event.error["errorMessage"]


async def test_a_function_that_cannot_run_postpones_without_using_attempts_up(asynchronous, tools):
    broken = tools.function()
    ready = ReadyCondition(
        type="Ready",
        status="False",
        reason="ImagePullFailed",
        message="no such image",
        lastTransitionTime="2026-01-01T00:00:00Z",
    )
    broken = broken.model_copy(update={"status": FunctionStatus(conditions=[ready])})
    async with asynchronous([broken]) as run:
        ids = [await send(run) for _ in range(50)]
        record = await record_of(run, ids[0], lambda record: record.postponements >= 2)
        assert (record.status, record.attempts) == (Status.RETRYING, 0)
        assert "no such image" in record.error["errorMessage"]
        tried = await run.gateway.events.queue.records("default", "hello", limit=100)
        assert len(tried) < 25, "its backlog is tried event by event"
        run.sink.put_function(tools.function())
        await run.add_pod()
        for request_id in ids:
            assert (await final_record(run, request_id)).status is Status.SUCCEEDED


async def test_without_a_pod_an_event_is_the_demand_that_starts_one(asynchronous):
    async with asynchronous() as run:
        for _ in range(5):
            await send(run)

        async def demand():
            (function,) = run.gateway.demand.full_report(lambda function: 0).functions or (None,)
            return function if function is not None and function.waiting + function.backlog == 5 else None

        function = await until(demand, "the demand of five events")
        assert function.waiting == 1
        pod = await run.add_pod()
        await lanes_are_empty(run)
        assert len(pod.requests) == 5

        async def no_demand():
            return run.gateway.demand.full_report(lambda function: 0).functions == ()

        await until(no_demand, "the end of demand")


async def test_a_pod_that_breaks_is_asked_what_became_of_the_event_before_it_runs_again(asynchronous, tools):
    async with asynchronous() as run:

        async def breaks(request):
            request.writer.transport.abort()

        script = Script(tools, breaks, tools.response(b'"second"'))
        await run.add_pod(script)
        request_id = await send(run)
        record = await final_record(run, request_id)
        assert (record.status, record.attempts, record.result) == (Status.SUCCEEDED, 1, '"second"')
        assert script.kept_asked[0] == f"{request_id}/1"
        assert script.attempts == [(request_id, "1"), (request_id, "1")]


async def test_an_answer_that_a_pod_still_keeps_is_taken_instead_of_a_second_run(asynchronous, tools):
    async with asynchronous() as run:

        async def breaks(request):
            request_id = request.headers["kappa-request-id"]
            script.kept[f"{request_id}/1"] = tools.response(b'"once"', headers={"kappa-request-id": request_id})
            request.writer.transport.abort()

        script = Script(tools, breaks)
        await run.add_pod(script)
        request_id = await send(run)
        record = await final_record(run, request_id)
        assert (record.status, record.attempts, record.result) == (Status.SUCCEEDED, 1, '"once"')
        assert script.attempts == [(request_id, "1")]


async def test_an_event_of_a_gateway_that_died_is_not_run_again(asynchronous, tools):
    async with asynchronous([]) as run:
        queue = run.gateway.events.queue
        now = time.time()
        for name in ("answered", "ended", "retried"):
            await queue.enqueue(Event(name, LANE, b"{}", now))
        leases = {lease.event.id: lease for lease in await queue.receive(LANE, 3, 0)}
        await queue.save_record(Record("default", "hello", "ended", Status.SUCCEEDED, now, now, attempts=1, result="1"))
        await queue.save_record(
            Record("default", "hello", "retried", Status.RETRYING, now, now, attempts=1, receive_count=1)
        )
        assert len(leases) == 3  # and they run out, as a dead gateway's do
        script = Script(tools, tools.response(b'"run"'))
        script.kept["answered/1"] = tools.response(b'"kept"', headers={"kappa-request-id": "answered"})
        await run.add_pod(script)
        run.sink.put_function(tools.function())
        assert (await final_record(run, "answered")).result == '"kept"'
        assert (await final_record(run, "retried")).attempts == 2
        await lanes_are_empty(run)
        assert (await final_record(run, "ended")).result == "1"
        assert script.attempts == [("retried", "2")]
        assert script.kept_asked == ["answered/1"]


async def test_an_answer_that_was_settled_while_the_pods_were_asked_is_not_run_again(asynchronous, tools):
    """The first holder is slow, not dead: it records what follows, and lets the pod forget, after the next looked."""
    async with asynchronous([]) as run:
        queue = run.gateway.events.queue
        now = time.time()
        for name in ("ended", "failed"):
            await queue.enqueue(Event(name, LANE, b"{}", now))
        assert len(await queue.receive(LANE, 2, 0)) == 2
        meanwhile = {
            "ended/1": Record("default", "hello", "ended", Status.SUCCEEDED, now, now, attempts=1, result="1"),
            "failed/1": Record("default", "hello", "failed", Status.RETRYING, now, now, attempts=1, next_attempt=now),
        }
        script = Script(tools, tools.response(b'"run"'))

        async def forgotten(request):
            if request.method == "GET" and (record := meanwhile.pop(request.target.removeprefix("/kept/"), None)):
                await queue.save_record(record)
            return await script(request)

        await run.add_pod(forgotten)
        run.sink.put_function(tools.function())
        assert (await final_record(run, "failed")).attempts == 2
        await lanes_are_empty(run)
        assert (await final_record(run, "ended")).result == "1"
        assert script.attempts == [("failed", "2")]
        assert not meanwhile


async def test_a_lease_that_runs_out_in_the_gateways_own_hand_waits_for_the_first(asynchronous, tools):
    """A gateway that stood still gets its own event again, while its request is on the way to a pod."""
    arrived = asyncio.Event()

    async def on_its_way(request):
        await arrived.wait()
        return tools.response(b'"once"')

    async with asynchronous(queue_lease=0.5) as run:
        queue = run.gateway.events.queue
        real_take, handed_out = queue.receive, []

        async def extend(leases):
            raise QueueUnavailable("the heartbeats come too late")

        async def take(lane, count, wait):
            leases = await real_take(lane, count, wait)
            handed_out.extend(lease.receive_count for lease in leases)
            return leases

        queue.extend, queue.receive = extend, take
        script = Script(tools, on_its_way)
        await run.add_pod(script, concurrency=5)
        request_id = await send(run)

        async def third():
            run.gateway.events.notify(LANE)
            return 3 in handed_out

        await until(third, "its third lease")
        arrived.set()
        assert (await final_record(run, request_id)).attempts == 1
        await lanes_are_empty(run)
        assert script.attempts == [(request_id, "1")]


async def test_a_run_that_takes_longer_than_the_lease_stays_in_one_hand(asynchronous, tools):
    gate = asyncio.Event()

    async def slow(request):
        await gate.wait()
        return tools.response(b'"slow"')

    async with asynchronous(queue_lease=0.5) as run:
        script = Script(tools, slow)
        await run.add_pod(script)
        request_id = await send(run)
        await record_of(run, request_id, lambda record: record.status is Status.RUNNING)  # comes after two leases
        other = await run.gateway.events.queue.receive(LANE, 1, 0.7)
        assert other == []
        gate.set()
        assert (await final_record(run, request_id)).result == '"slow"'
        assert len(script.attempts) == 1


async def test_a_long_result_is_cut(asynchronous, tools):
    async with asynchronous(result_max_bytes=10) as run:
        await run.add_pod(Script(tools, tools.response("\u00e4".encode() * 8)))
        record = await final_record(run, await send(run))
        assert (record.result, record.result_truncated) == ("\u00e4" * 5, True)


async def test_an_event_that_cannot_be_read_is_dead_lettered(asynchronous):
    async with asynchronous() as run:
        pod = await run.add_pod()
        await run.gateway.events.intake.accept(
            Event("bad", LANE, b"{}", time.time(), {"x-amzn-trace-id": "1\r\nkappa-attempt: 9"})
        )
        dead_event = await dead(run, "bad")
        assert dead_event.error["errorType"] == "Kappa.UnreadableEvent"
        assert (await final_record(run, "bad")).status is Status.FAILED
        assert pod.requests == []


async def test_an_event_waits_for_its_function(asynchronous, tools):
    async with asynchronous([]) as run:
        await run.gateway.events.intake.accept(Event("early", LANE, b'"early"', time.time()))
        assert run.gateway.demand.full_report(lambda function: 0).functions == ()
        run.sink.put_function(tools.function())
        await run.add_pod()
        assert (await final_record(run, "early")).status is Status.SUCCEEDED


async def test_what_waited_for_its_function_for_too_long_is_dead_lettered(asynchronous):
    async with asynchronous([]) as run:
        await run.gateway.events.queue.enqueue(Event("orphan", LANE, b"{}", time.time() - 6 * 3600 - 1))
        assert (await dead(run, "orphan")).condition is Condition.EVENT_AGE_EXCEEDED
        await lanes_are_empty(run)


# -- web servers


async def test_a_web_servers_request_is_replayed(asynchronous, tools):
    async with asynchronous([tools.web_function()]) as run:
        pod = await run.add_pod(function="web", protocol="http")
        answer = await run.request(
            "PUT", "/fn/default/web/a/b?c=%20d", b"body", {"kappa-invocation-type": "Event", "x-mine": "1"}
        )
        assert answer.status == 202
        request_id = answer.json()["requestId"]
        assert (await final_record(run, request_id, "web")).status is Status.SUCCEEDED
        (request,) = pod.requests
        assert (request.method, request.target, request.body) == ("PUT", "/a/b?c=%20d", b"body")
        assert request.headers["x-mine"] == "1"
        assert request.headers["kappa-request-id"] == request_id


async def test_a_web_servers_statuses(asynchronous, tools):
    answers = [
        tools.response(b"later", "429 Too Many Requests"),
        tools.response(b"busy", "503 Service Unavailable", {"retry-after": "1"}),
        tools.response(b"no", "500 Internal Server Error"),
        tools.response(b"moved", "301 Moved Permanently"),
    ]
    times = []

    async def answer(request):
        times.append(time.monotonic())
        return answers.pop(0)

    async with asynchronous([tools.web_function()], event_longest_backoff=5.0) as run:
        await run.add_pod(answer, function="web", protocol="http")
        response = await run.request("POST", "/fn/default/web/", b"", {"kappa-invocation-type": "Event"})
        record = await final_record(run, response.json()["requestId"], "web")
        assert (record.status, record.attempts, record.result) == (Status.SUCCEEDED, 2, "moved")
        assert times[2] - times[1] >= 1.0, "Retry-After is honoured"


# -- what follows


async def test_destinations_hear_of_the_end(asynchronous, tools):
    first = tools.function("first", **{"async": {"onSuccess": {"function": {"name": "second"}}}})
    async with asynchronous([first, tools.function("second")]) as run:
        await run.add_pod(function="first")
        second = await run.add_pod(function="second")
        request_id = await send(run, "first", b'{"n": 1}')
        await tools.eventually(lambda: second.requests)
        record = json.loads(second.requests[0].body)
        assert record["requestContext"]["requestId"] == request_id
        assert record["requestContext"]["condition"] == "Success"
        assert (record["requestPayload"], record["responsePayload"]) == ({"n": 1}, {"n": 1})
        await lanes_are_empty(run)


async def test_deliveries_are_tried_again_until_they_are_taken(asynchronous, tools):
    hook = tools.pod(Script(tools, tools.response()))
    refusals = [tools.response(status="500 Internal Server Error"), tools.response(status="503 Service Unavailable")]

    async def receive(request):
        return refusals.pop(0) if refusals else tools.response()

    hook.answer = receive
    await hook.start()
    destination = {"http": {"url": f"http://127.0.0.1:{hook.port}/hook"}}
    function = tools.function(**{"async": {"onSuccess": destination}})
    async with asynchronous([function], delivery_addresses="any") as run:
        await run.add_pod()
        await send(run)
        await tools.eventually(lambda: len(hook.requests) == 3)
        await lanes_are_empty(run)
        page = (await run.request("GET", "/metrics")).body.decode()
        assert (
            'kappa_async_deliveries_total{destination="http",function="hello",namespace="default",'
            'outcome="success"} 1.0' in page
        )
        assert 'outcome="failed"} 2.0' in page
    await hook.stop()


async def test_a_delivery_that_is_never_taken_is_dead_lettered(asynchronous, tools):
    function = tools.function(**{"async": {"onSuccess": {"http": {"url": "http://127.0.0.1:9/"}}}})
    async with asynchronous([function], delivery_addresses="any", delivery_max_age=1.0) as run:
        await run.add_pod()
        await send(run)

        async def dead_event():
            return await run.gateway.events.queue.dead_events("default", "hello", limit=10)

        (one,) = await until(dead_event, "the delivery in the dead letter")
        assert one.event.lane.kind is Kind.DELIVERY
        assert one.attempts > 1
        assert "127.0.0.1" in one.error["errorMessage"]
        await lanes_are_empty(run)


# -- many


async def test_no_more_is_held_than_there_is_room_for(asynchronous, tools):
    gate = asyncio.Event()

    async def slow(request):
        await gate.wait()
        return tools.response()

    async with asynchronous() as run:
        pod = await run.add_pod(slow, concurrency=3)
        ids = [await send(run) for _ in range(20)]
        await tools.eventually(lambda: len(pod.requests) == 3)
        (state,) = await run.gateway.events.queue.lanes()
        assert (state.held, state.waiting) == (4, 16)
        gate.set()
        for request_id in ids:
            await final_record(run, request_id)


async def test_a_slow_function_does_not_hold_what_all_share(asynchronous, tools):
    gate = asyncio.Event()

    async def slow(request):
        await gate.wait()
        return tools.response()

    functions = [tools.function("slow"), tools.function("hello")]
    async with asynchronous(functions, events_in_hand=6) as run:
        await run.add_pod(slow, function="slow", concurrency=100)
        await run.add_pod(function="hello", concurrency=100)
        for _ in range(30):
            await send(run, "slow")
        ids = [await send(run) for _ in range(30)]
        for request_id in ids:
            await final_record(run, request_id)
        assert run.gateway.events.budget.free_events >= 0
        gate.set()
        await lanes_are_empty(run)
        await tools.eventually(lambda: run.gateway.events.budget.free_events == 6)


async def test_callers_are_served_beside_a_backlog(asynchronous, tools):
    async def work(request):
        await asyncio.sleep(0.02)
        return tools.response()

    async with asynchronous() as run:
        await run.add_pod(work)
        queue = run.gateway.events.queue
        for n in range(300):
            await queue.enqueue(Event(f"e{n}", LANE, b"{}", time.time()))
        await tools.eventually(lambda: run.gateway.events.is_running("e10"))
        begun = time.monotonic()
        for _ in range(5):
            assert (await run.invoke()).status == 200
        waited = time.monotonic() - begun
        left = sum([state.waiting for state in await queue.lanes()])
        assert left > 100, f"the backlog was nearly gone after {waited:.2f} s: nothing was shown"


async def test_the_end_of_a_gateway_returns_what_waits_and_settles_what_runs(asynchronous, tools):
    gate = asyncio.Event()

    async def slow(request):
        await gate.wait()
        return tools.response(b'"done"')

    async with asynchronous(drain_timeout=5.0) as run:
        pod = await run.add_pod(slow)
        ids = [await send(run) for _ in range(3)]
        await tools.eventually(lambda: pod.requests)
        run.stop.set()

        async def returned():
            return run.gateway.events.lanes.held(LANE) == 1

        await until(returned, "what waited back in the queue")
        gate.set()
        await run.task
    async with asynchronous() as run:
        record = await run.gateway.events.queue.record("default", "hello", ids[0])
        assert record.result == '"done"'
        await run.add_pod()
        for request_id in ids[1:]:
            record = await final_record(run, request_id)
            assert (record.status, record.attempts, record.postponements) == (Status.SUCCEEDED, 1, 0)


async def test_while_the_queue_is_away_events_stay_held_and_are_settled_after(asynchronous, tools, caplog):
    gate = asyncio.Event()

    async def slow(request):
        await gate.wait()
        return tools.response(b'"done"')

    async with asynchronous() as run:
        pod = await run.add_pod(slow)
        request_id = await send(run)
        await tools.eventually(lambda: pod.requests)
        queue = run.gateway.events.queue
        real = {name: getattr(queue, name) for name in ("save_record", "ack", "receive", "lanes", "extend", "enqueue")}
        refused = []

        async def away(*args, **kwargs):
            refused.append(args)
            raise QueueUnavailable("the queue is away")

        for name in real:
            setattr(queue, name, away)
        gate.set()
        assert (await run.invoke(body=b"1")).status == 200, "synchronous callers are served"
        refusal = await run.invoke(body=b"2", X_Amz_Invocation_Type="Event")
        assert refusal.status == 503
        await tools.eventually(lambda: len(refused) > 5)
        for name, method in real.items():
            setattr(queue, name, method)
        assert (await final_record(run, request_id)).result == '"done"'
        assert len([request for request in pod.requests if "kappa-attempt" in request.headers]) == 1
        said = [record for record in caplog.records if "queue cannot be reached" in record.message]
        assert len(said) == 1


async def test_in_a_full_queue_success_makes_room_and_nothing_is_run_again(asynchronous, tools, monkeypatch):
    monkeypatch.setattr(settlement, "FULL_PAUSE", 0.05)
    script = Script(tools, tools.response(b'"done"'))
    async with asynchronous() as run:
        queue = run.gateway.events.queue
        save, done = queue.save_record, queue.ack
        steps = []

        async def save_if_there_is_room(record):
            if record.status.final:
                steps.append("save")
                if "done" not in steps:
                    raise QueueFull("the disk is full")
            await save(record)

        async def note_done(lease):
            await done(lease)
            steps.append("done")

        monkeypatch.setattr(queue, "save_record", save_if_there_is_room)
        monkeypatch.setattr(queue, "ack", note_done)
        await run.add_pod(script)
        request_id = await send(run)
        assert (await final_record(run, request_id)).result == '"done"'
        await lanes_are_empty(run)
    assert steps == ["save", "done", "save"]
    assert len(script.attempts) == 1


async def test_in_a_full_queue_a_failed_event_waits_for_room_in_the_dead_letter(asynchronous, tools, monkeypatch):
    monkeypatch.setattr(settlement, "FULL_PAUSE", 0.05)
    script = Script(tools, failure(tools))
    async with asynchronous() as run:
        queue = run.gateway.events.queue
        dead_letter, save = queue.dead_letter, queue.save_record
        full = {"save": 3, "dead_letter": 3}

        async def dead_letter_if_there_is_room(event):
            if full["dead_letter"]:
                full["dead_letter"] -= 1
                raise QueueFull("the disk is full")
            await dead_letter(event)

        async def save_if_there_is_room(record):
            if record.status.final and full["save"]:
                full["save"] -= 1
                raise QueueFull("the disk is full")
            await save(record)

        monkeypatch.setattr(queue, "dead_letter", dead_letter_if_there_is_room)
        monkeypatch.setattr(queue, "save_record", save_if_there_is_room)
        await run.add_pod(script)
        request_id = await send(run)
        assert (await final_record(run, request_id)).status is Status.FAILED
        assert (await dead(run, request_id)).event.id == request_id
        await lanes_are_empty(run)
    assert len(script.attempts) == 3
    assert full == {"save": 0, "dead_letter": 0}


async def test_a_bug_ends_neither_the_gateway_nor_the_lane(asynchronous, tools, monkeypatch):
    async with asynchronous() as run:
        await run.add_pod()
        events = run.gateway.events
        real = events.queue.receive
        calls = []

        async def broken(lane, count, wait):
            calls.append(lane)
            if len(calls) == 1:
                raise RuntimeError("a bug")
            return await real(lane, count, wait)

        monkeypatch.setattr(events.queue, "receive", broken)
        request_id = await send(run)
        assert (await final_record(run, request_id)).status is Status.SUCCEEDED
        assert len(calls) > 1


async def test_metrics(asynchronous, tools):
    async with asynchronous() as run:
        await run.add_pod(Script(tools, failure(tools), tools.response()))
        request_id = await send(run, Kappa_Idempotency_Key="k")
        await final_record(run, request_id)
        assert await send(run, Kappa_Idempotency_Key="k") == request_id
        await lanes_are_empty(run)
        page = (await run.request("GET", "/metrics")).body.decode()
        labels = 'function="hello",namespace="default"'
        for line in (
            f"kappa_async_events_received_total{{{labels}}} 1.0",
            f"kappa_async_events_deduplicated_total{{{labels}}} 1.0",
            f'kappa_async_events_retried_total{{{labels},reason="function_error"}} 1.0',
            f'kappa_async_events_delivered_total{{{labels},status="succeeded"}} 1.0',
            f"kappa_async_event_age_seconds_count{{{labels}}} 1.0",
            f'kappa_invocations_total{{{labels},outcome="success",type="Event"}} 1.0',
            f'kappa_invocations_total{{{labels},outcome="function_error",type="Event"}} 1.0',
            "kappa_async_queue_up 1.0",
        ):
            assert line in page
        run.sink.remove_function("default", "hello")
        run.sink.remove_pod("default", "pod-1")
        await tools.eventually(lambda: ("default", "hello") not in run.gateway.events.counts.functions)


async def test_other_gateways_namespaces_are_left_alone(asynchronous, tools):
    async with asynchronous(namespaces=["default"]) as run:
        await run.add_pod()
        theirs = Lane(Kind.INVOCATION, "theirs", "hello")
        await run.gateway.events.intake.accept(Event("theirs", theirs, b"{}", time.time() - 7 * 3600))
        await final_record(run, await send(run))
        (state,) = [state for state in await run.gateway.events.queue.lanes() if state.lane == theirs]
        assert (state.waiting, state.held) == (1, 0)
