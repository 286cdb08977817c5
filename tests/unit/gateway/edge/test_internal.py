"""The internal port: what it serves to whom, and invocations that other gateways pass on."""

import asyncio

import pytest
from gateway_fakes import Call, FakePod, manifest, refusal, request, response, until

from kappa_core import demand, errors, wire
from kappa_core.errors import FunctionNotFound, PodLost, Throttled
from kappa_gateway.pods.platform import Peer
from kappa_gateway.pods.state import FunctionState

FUNCTION = FunctionState("default", "hello")


def proven(world, function="default/hello", request_id="id-1", **changes):
    """The headers of another gateway's request."""
    namespace, _, name = function.partition("/")
    lines = world.peers._lines(FunctionState(namespace, name).key, request_id).decode().split("\r\n")
    fields = dict(line.split(": ") for line in lines if line)
    return {**fields, wire.REQUEST_ID: request_id, **changes}


async def invoke(world, *pieces, headers=None, path=wire.INVOKE_PATH):
    return await Call("POST", path, *pieces, headers=headers or proven(world), body_is_here=False).to(world.internal)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("POST", wire.DEMAND_PATH),
        ("GET", wire.INVOKE_PATH),
        ("POST", wire.CODE_PATH + "0" * 64),
        ("GET", "/metrics"),
        ("POST", wire.BACKLOG_PATH + "/x"),
    ],
)
async def test_it_serves_nothing_else(edge, method, path):
    got = await Call(method, path).to(edge().internal)
    assert got.status == 404
    assert wire.DEMAND_PATH in got.json()["Message"]


async def test_an_archive_is_for_who_knows_its_hash(edge):
    world = edge()
    world.code.keep("a" * 64, b"PK")
    got = await Call("GET", wire.CODE_PATH + "a" * 64).to(world.internal)
    assert (got.status, got.body, got.headers["content-type"]) == (200, b"PK", "application/zip")
    assert (await Call("GET", wire.CODE_PATH + "b" * 64).to(world.internal)).status == 404


# -- demand


async def test_a_reader_follows_the_demand_until_it_leaves(edge):
    world = edge()
    call = Call("GET", wire.DEMAND_PATH)
    serving = asyncio.create_task(call.to(world.internal))
    await until(lambda: call.body.count(b"\n") == 1)
    assert call.headers["content-type"] == "application/x-ndjson"
    world.demand.waits(world.function)
    await until(lambda: call.body.count(b"\n") == 2)
    first, second = [demand.decode(line) for line in call.body.splitlines()]
    assert (first.full, second.full, second.functions[0].name) == (True, False, "hello")
    call.leave()
    await serving
    assert not call.is_complete


async def test_the_stream_ends_with_the_gateway(edge):
    world = edge()
    call = Call("GET", wire.DEMAND_PATH)
    serving = asyncio.create_task(call.to(world.internal))
    await until(lambda: call.body)
    world.demand.close()
    await serving
    assert call.is_complete


# -- other gateways


async def test_an_invocation_is_answered_as_a_pod_would(edge):
    world = edge()
    headers = {wire.FUNCTION_ERROR: "Unhandled", wire.DURATION_MS: "2.0", "Connection": "keep-alive"}
    pod, _ = await world.add(FakePod(lambda one: response(one.body, headers=headers)))
    sent = proven(world, **{wire.LOG_TYPE: "Tail", "X-Else": "1"})
    got = await invoke(world, b"12", b"34", headers=sent)
    assert (got.status, got.body, got.is_complete) == (200, b"1234", True)
    assert (got.headers["x-amz-function-error"], got.headers["kappa-duration-ms"]) == ("Unhandled", "2.0")
    assert "connection" not in got.headers
    assert pod.requests[0].headers["kappa-request-id"] == "id-1"
    assert pod.requests[0].headers["x-amz-log-type"] == "Tail"
    assert not {"x-else", "kappa-peer-proof"} & pod.requests[0].headers.keys()
    assert world.function.counts.invocations == {}, "the other gateway counts it"
    assert world.is_idle()


async def test_a_cold_start_is_counted_here_and_said_there(edge):
    world = edge(pool=True)
    await world.add_pool_pod()
    got = await invoke(world, b"1")
    assert got.headers["kappa-cold-start"].startswith("pool;total=")
    assert world.function.counts.cold_starts == {("Pool", "claimed"): 1}


@pytest.mark.parametrize(
    ("function", "request_id", "proof"),
    [
        ("default/hello", "id-2", None),
        ("default/other", "id-1", None),
        ("default/hello", "id-1", ""),
        ("default/hello", "id-1", "1.ab"),
        ("default/hello", "id-1", "x"),
    ],
)
@pytest.mark.parametrize("path", [wire.INVOKE_PATH, wire.BACKLOG_PATH])
async def test_only_a_gateway_can_pass_requests_on(edge, path, function, request_id, proof):
    world = edge()
    pod, _ = await world.add()
    headers = {**proven(world), wire.FUNCTION: function, wire.REQUEST_ID: request_id}
    if proof is not None:
        headers[wire.PEER_PROOF] = proof
    got = await invoke(world, b"1", headers=headers, path=path)
    assert (got.status, pod.requests, world.notified) == (403, [], [])


async def test_a_gateway_without_a_key_takes_nothing_from_others(edge):
    world = edge()
    headers = proven(world)
    world.internal._peers = None
    assert (await invoke(world, b"1", headers=headers)).status == 403


async def test_a_gateway_whose_proof_is_refused_keeps_the_request(edge):
    """Its clock may be wrong. The refusal is between the gateways, and no answer for the caller."""
    world = edge()
    got = await invoke(world, b"1", headers=proven(world, **{wire.PEER_PROOF: "1.ab"}))
    sender = edge(pool=True, peers=[Peer("gateway-b", "10.9.0.2")])
    lines = "".join(f"{name}: {value}\r\n" for name, value in got.headers.items())
    other = FakePod(lambda _: f"HTTP/1.1 {got.status} No\r\n{lines}\r\n".encode() + got.body)
    sender.loop.network["10.9.0.2", 9001] = other
    invocation = sender.invocation()
    sending = asyncio.create_task(invocation.send(request(b"1")))
    await until(lambda: other.requests)
    await until(lambda: sender.function.waiters)
    await sender.add()
    assert (await sending).status == 200


async def test_a_backlog_is_passed_to_whoever_receives_the_events(edge):
    world = edge()
    got = await invoke(world, headers=proven(world, request_id=""), path=wire.BACKLOG_PATH)
    assert (got.status, world.notified) == (200, [world.function])
    unknown = proven(world, "default/unknown", "")
    assert (await invoke(world, headers=unknown, path=wire.BACKLOG_PATH)).status == 200
    assert world.notified == [world.function]


@pytest.mark.parametrize(("answer", "kind"), [(lambda _: None, PodLost), (lambda _: b"SSH-2.0\r\n", errors.BadAnswer)])
async def test_errors_are_the_other_gateways(edge, answer, kind):
    world = edge()
    await world.add(FakePod(answer))
    got = await invoke(world, b"1")
    assert got.headers["kappa-refused"] == wire.REFUSED_ERROR
    assert type(errors.decode(got.body)) is kind
    assert world.is_idle()


async def test_a_function_that_is_not_known_or_switched_off(edge):
    world = edge()
    got = await invoke(world, b"1", headers=proven(world, "default/unknown"))
    assert isinstance(errors.decode(got.body), FunctionNotFound)
    world.registry.put_function(manifest(scaling={"maxReplicas": 0}))
    got = await invoke(world, b"1")
    assert isinstance(errors.decode(got.body), Throttled)


async def test_a_request_is_not_passed_on_a_second_time(edge):
    world = edge(pool=True, peers=[Peer("gateway-b", "10.9.0.2")])
    other = FakePod()
    world.loop.network["10.9.0.2", 9001] = other
    serving = asyncio.create_task(invoke(world, b"1"))
    await until(lambda: world.function.waiters)
    await world.add()
    assert (await serving).body == b"1"
    assert other.requests == []


async def test_the_other_gateways_caller_may_leave(edge):
    world = edge()
    never = asyncio.Event()
    pod, state = await world.add(FakePod(lambda _: never.wait()))
    call = Call("POST", wire.INVOKE_PATH, b"1", headers=proven(world), body_is_here=False)
    serving = asyncio.create_task(call.to(world.internal))
    await until(lambda: pod.requests)
    call.leave()
    await serving
    assert (call.status, state.outstanding) == (0, 0)
    assert pod.transports[0].was_aborted
    assert world.is_idle()
    never.set()


async def test_an_answer_that_breaks_off_is_not_completed(edge):
    world = edge()

    def half(one):
        one.transport.deliver(response(b"x" * 100)[:-50])

    await world.add(FakePod(half))
    got = await invoke(world, b"1")
    assert (got.status, got.is_complete) == (200, False)
    assert world.is_idle()


async def test_a_busy_pods_refusal_is_not_the_other_gateways_business(edge):
    world = edge()
    answers = [refusal(wire.REFUSED_BUSY), response(b"1")]
    await world.add(FakePod(lambda _: answers.pop(0)))
    assert (await invoke(world, b"1")).body == b"1"
