"""Lambda's Invoke: which function is named, what is refused before anything runs, and what of an answer goes on."""

import asyncio
import base64
import json

import pytest
from gateway_fakes import Call, FakePod, manifest, response, until

from kappa_core import wire
from kappa_core.errors import QueueUnavailable
from kappa_core.event import keyed_id

WEB = {"image": {"ref": "web:1", "protocol": "http"}}


def invoke(name="hello", *pieces, query="", **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call("POST", f"/2015-03-31/functions/{name}/invocations", *pieces, headers=fields, query=query)


async def call(world, *of, **more):
    return await invoke(*of, **more).to(world.lambda_api)


def counted(world):
    return world.function.counts.invocations


async def test_the_answer_is_the_functions(edge):
    world = edge()
    pod, _ = await world.add()
    got = await call(world, "hello", b'{"a": 1}')
    assert (got.status, got.json(), got.headers["content-type"]) == (200, {"a": 1}, "application/json")
    (sent,) = pod.requests
    assert sent.target == wire.INVOKE_PATH
    assert sent.headers["kappa-request-id"] == got.headers["x-amzn-requestid"]
    assert sent.headers["kappa-invoked-function-arn"] == "arn:aws:lambda:us-east-1:000000000000:function:hello"
    assert counted(world) == {("RequestResponse", "success"): 1}
    assert world.is_idle()


async def test_an_empty_body_is_the_empty_object(edge):
    world = edge()
    await world.add()
    assert (await call(world)).body == b"{}"


@pytest.mark.parametrize(
    ("name", "query", "status"),
    [
        ("hello", "", 200),
        ("default.hello", "", 200),
        ("hello:$LATEST", "", 200),
        ("hello%3A%24LATEST", "", 200),
        ("arn%3Aaws%3Alambda%3Aus-east-1%3A000000000000%3Afunction%3Ahello", "", 200),
        ("000000000000:function:hello", "", 200),
        ("hello", "Qualifier=$LATEST", 200),
        ("hello", "Qualifier=prod", 404),
        ("hello:prod", "", 404),
        ("team-a.nope", "", 404),
        ("Not%20a%20name", "", 400),
    ],
)
async def test_names(edge, name, query, status):
    world = edge()
    await world.add()
    for _ in range(2):
        assert (await call(world, name, b"1", query=query)).status == status
    assert len(world.refused) == (0 if status == 200 else 2)
    assert world.is_idle()


async def test_an_unknown_function_is_named(edge):
    got = await call(edge(), "team-a.nope")
    assert (got.status, got.headers["x-amzn-errortype"]) == (404, "ResourceNotFoundException")
    assert "'nope' in namespace 'team-a'" in got.json()["Message"]


async def test_before_all_functions_are_known_none_is_said_to_be_missing(edge):
    world = edge()
    world.functions.synced.clear()
    assert (await call(world, "nope")).status == 503


async def test_a_name_that_was_looked_up_follows_its_function(edge):
    world = edge()
    await world.add()
    assert (await call(world)).status == 200
    world.registry.remove_function("default", "hello")
    assert (await call(world)).status == 404
    world.registry.put_function(manifest())
    assert (await call(world)).status == 200


def context(value):
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("body", "headers", "error", "says"),
    [
        (b"{nonsense", {}, "InvalidRequestContentException", ""),
        (
            b"{}",
            {"x-amz-invocation-type": "Nonsense"},
            "InvalidParameterValueException",
            "'Nonsense' is not RequestResponse",
        ),
        (b"{}", {"x-amz-log-type": "All"}, "InvalidParameterValueException", "neither Tail nor None"),
        (b"{}", {"x-amz-client-context": "{}"}, "InvalidRequestContentException", "base64"),
        (b"{}", {"x-amz-client-context": context([])}, "InvalidRequestContentException", "base64"),
        (b"{}", {"x-amz-client-context": context({"a": "x" * 4000})}, "InvalidRequestContentException", "3583"),
    ],
)
async def test_what_the_caller_does_wrong_is_said_and_nothing_runs(edge, body, headers, error, says):
    world = edge()
    pod, _ = await world.add()
    got = await call(world, "hello", body, **headers)
    assert (got.status, got.headers["x-amzn-errortype"], got.json()["Type"]) == (400, error, "User")
    assert says in got.json()["Message"]
    assert pod.requests == []
    assert counted(world) == {("RequestResponse", "bad_request"): 1}
    assert world.is_idle()


async def test_a_web_server_is_called_elsewhere(edge):
    got = await call(edge(code=WEB))
    assert got.status == 400
    assert "/fn/default/hello/" in got.json()["Message"]


@pytest.mark.parametrize("has_queue", [True, False])
async def test_a_dry_run_runs_nothing(edge, has_queue):
    world = edge(has_queue=has_queue)
    pod, _ = await world.add()
    got = await call(world, "hello", b"{}", x_amz_invocation_type="DryRun")
    assert (got.status, got.body, pod.requests) == (204, b"", [])
    assert not (has_queue and world.intake.stored)
    assert counted(world) == {("DryRun", "success"): 1}


async def test_what_goes_on_to_the_pod_and_what_to_the_caller(edge):
    world = edge()
    headers = {
        "X-Amz-Function-Error": "Unhandled",
        "X-Amz-Log-Result": "bG9n",
        "X-Amz-Executed-Version": "$LATEST",
        "Kappa-Duration-Ms": "1.5",
        "X-Else": "1",
    }
    pod, _ = await world.add(FakePod(lambda _: response(b'{"errorMessage":"no"}', headers=headers)))
    sent = {"x-amz-client-context": context({"client": {}}), "x-amz-log-type": "Tail", "x-amzn-trace-id": "Root=1"}
    got = await call(world, "hello", b"{}", authorization="secret", **sent)
    passed = pod.requests[0].headers
    assert {name: passed[name] for name in sent} == sent
    assert "authorization" not in passed
    assert got.headers["x-amz-function-error"] == "Unhandled"
    assert (got.headers["x-amz-log-result"], got.headers["x-amz-executed-version"]) == ("bG9n", "$LATEST")
    assert not {"kappa-duration-ms", "x-else"} & got.headers.keys()
    assert counted(world) == {("RequestResponse", "function_error"): 1}


@pytest.mark.parametrize("spec", [{"scaling": {"maxReplicas": 0}}])
async def test_a_function_that_is_switched_off_is_refused_before_its_body_is_read(edge, spec):
    world = edge(**spec)
    request = Call("POST", "/2015-03-31/functions/hello/invocations", b"{", b"}")
    got = await request.to(world.lambda_api)
    assert (got.status, got.json()["Reason"]) == (429, "ReservedFunctionConcurrentInvocationLimitExceeded")
    assert got.headers["retry-after"]
    assert len(request.pieces) == 2


async def test_too_large_a_body(edge):
    world = edge(settings={"max_request_bytes": 1024})
    got = await call(world, "hello", b'"' + b"x" * 2000 + b'"')
    assert (got.status, got.headers["connection"]) == (413, "close")
    assert world.is_idle()


async def test_a_caller_that_leaves_while_it_waits_leaves_nothing(edge):
    world = edge()
    request = invoke("hello", b"{}")
    serving = asyncio.create_task(request.to(world.lambda_api))
    await until(lambda: world.function.waiters)
    request.leave()
    await serving
    assert request.status == 0
    assert counted(world) == {("RequestResponse", "cancelled"): 1}
    assert world.is_idle()


async def test_an_answer_that_breaks_off_breaks_the_callers_connection(edge):
    world = edge()
    half = response(b"x" * 100)[:-50]

    def answer(one):
        one.transport.deliver(half)

    await world.add(FakePod(answer))
    got = await call(world, "hello", b"{}")
    assert (got.status, got.is_complete, got.client.aborted) == (200, False, True)
    assert world.is_idle()


@pytest.mark.parametrize(("answer", "status", "outcome"), [(None, 500, "lost"), (b"SSH-2.0\r\n", 502, "bad_answer")])
async def test_pods_that_fail(edge, answer, status, outcome):
    world = edge()
    await world.add(FakePod(lambda _: answer))
    got = await call(world, "hello", b"{}")
    assert (got.status, got.json()["Type"]) == (status, "Service")
    assert counted(world) == {("RequestResponse", outcome): 1}


async def test_a_bug_is_500_in_the_apis_form_and_frees_the_slot(edge, caplog):
    world = edge()
    await world.add()

    def bug(*_):
        raise RuntimeError("a bug")

    world.dispatcher.admit = bug
    got = await call(world, "hello", b"{}")
    assert (got.status, got.headers["x-amzn-errortype"]) == (500, "ServiceException")
    assert got.headers["x-amzn-requestid"] in got.json()["Message"]
    assert "a bug ended a request" in caplog.text
    assert "RuntimeError" in caplog.text
    assert counted(world) == {("RequestResponse", "error"): 1}
    assert world.is_idle()


async def test_a_cold_start_says_how_it_went(edge):
    world = edge(pool=True)
    await world.add_pool_pod()
    got = await call(world, "hello", b"1")
    assert got.headers["kappa-cold-start"].startswith("pool;total=")
    assert "kappa-cold-start" not in (await call(world, "hello", b"1")).headers


# -- asynchronous


EVENT = {"x-amz-invocation-type": "Event"}


async def test_an_event_is_202_once_it_is_stored(edge):
    world = edge()
    got = await call(world, "hello", b'{"a":1}', **EVENT, **{"x-amzn-trace-id": "Root=1", "x-amz-log-type": "Tail"})
    assert (got.status, got.body) == (202, b"")
    request_id = got.headers["x-amzn-requestid"]
    assert world.intake.stored == [("default/hello", request_id, b'{"a":1}', {"x-amzn-trace-id": "Root=1"}, False)]
    assert counted(world) == {}, "its attempts are counted"
    assert world.is_idle()


async def test_without_a_body_it_is_the_empty_object(edge):
    world = edge()
    await call(world, "hello", **EVENT)
    assert world.intake.stored[0][2] == b"{}"


async def test_a_function_that_cannot_run_now_takes_events(edge):
    world = edge(scaling={"maxReplicas": 0})
    assert (await call(world, "hello", b"{}", **EVENT)).status == 202


async def test_a_key_gives_the_id_and_a_repetition_is_said_to_be_one(edge):
    world = edge()
    first = await call(world, "hello", b"{}", **EVENT, kappa_idempotency_key="order-1")
    request_id = first.headers["x-amzn-requestid"]
    assert request_id == keyed_id("default", "hello", "order-1")
    world.intake.known.add(request_id)
    second = await call(world, "hello", b"{}", **EVENT, kappa_idempotency_key="order-1", amz_sdk_invocation_id="sdk")
    assert (second.status, second.headers["x-amzn-requestid"]) == (202, request_id)
    assert (first.headers.get("kappa-duplicate"), second.headers["kappa-duplicate"]) == (None, "true")
    third = await call(world, "hello", b"{}", **EVENT, amz_sdk_invocation_id="order-1")
    assert third.headers["x-amzn-requestid"] == request_id, "the SDK's own id is a key too"
    assert world.intake.stored[0][4] is True


@pytest.mark.parametrize("key", ["", "x" * 257, "caf\xe9", "a\tb"])
async def test_a_key_that_is_none(edge, key):
    world = edge()
    got = await call(world, "hello", b"{}", **EVENT, kappa_idempotency_key=key)
    assert got.status == 400
    assert got.json()["Message"] == "Kappa-Idempotency-Key must be 1 to 256 printable ASCII characters"
    assert world.intake.stored == []
    assert (await call(world, "hello", b"{}", **EVENT, amz_sdk_invocation_id=key)).status == 202, (
        "not the caller's fault"
    )


@pytest.mark.parametrize(
    ("body", "status"), [(b"{nonsense", 400), (b'"' + b"x" * 2000 + b'"', 413)], ids=["no JSON", "too large"]
)
async def test_events_that_are_refused(edge, body, status):
    world = edge(settings={"event_max_bytes": 1024})
    got = await call(world, "hello", body, **EVENT)
    assert (got.status, world.intake.stored) == (status, [])
    assert counted(world) == {("Event", "bad_request"): 1}
    assert world.is_idle()


async def test_errors_of_the_queue_have_the_id_of_the_key(edge):
    world = edge()
    first = await call(world, "hello", b"{}", **EVENT, kappa_idempotency_key="k")
    world.intake.error = QueueUnavailable("away")
    got = await call(world, "hello", b"{}", **EVENT, kappa_idempotency_key="k")
    assert (got.status, got.headers["x-amzn-requestid"]) == (503, first.headers["x-amzn-requestid"])
    assert counted(world) == {("Event", "error"): 1}


async def test_without_a_queue_it_says_how_to_get_one(edge):
    got = await call(edge(has_queue=False), "hello", b"{}", **EVENT)
    assert got.status == 400
    assert "KAPPA_GATEWAY_QUEUE_URL" in got.json()["Message"]
