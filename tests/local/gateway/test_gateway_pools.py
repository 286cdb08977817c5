"""Cold starts from a pool: with pool pods in this process that accept, refuse, break or vanish, and with real ones."""

import asyncio
import dataclasses
import json
import math
import re
import time

import pytest
from pool_pods import RUNTIME, parts, pool_function

from kappa_core import pool, wire
from kappa_core.scaling import DEFAULT_COLD_START
from kappa_gateway.pods.platform import Pod
from kappa_gateway.pods.warm.decision import DOUBLING
from kappa_gateway.pods.warm.signing import Signer


async def test_a_request_to_a_cold_function_makes_a_pool_pod_its_own_and_gets_its_answer(pools):
    made = await pools.add()
    connections = made.pod.connections
    got = await pools.run.invoke(body=b'{"n":1}', X_Amzn_Trace_Id="Root=1-a")
    assert (got.status, got.json()) == (200, {"n": 1})
    assert got.header("X-Amz-Executed-Version") == "$LATEST"
    request, received = made.received[0]
    assert received.payload == b'{"n":1}'
    assert request.headers[wire.REQUEST_ID.lower()] == got.header("x-amzn-requestid")
    assert received.specialization.request_id == got.header("x-amzn-requestid")
    assert request.headers["x-amzn-trace-id"] == "Root=1-a"
    assert received.specialization.spec_hash == pool.spec_hash(pools.function().manifest)
    assert received.specialization.config.code_inline.startswith("def handler")
    assert made.pod.connections == connections, "the connection that stood ready was used"
    assert pools.free == 0
    # from then on it is a pod like any other
    assert (await pools.run.invoke(body=b"2")).json() == 2
    assert [one.target for one in made.pod.requests] == [wire.SPECIALIZE_PATH, wire.INVOKE_PATH]


async def test_the_answer_says_how_the_cold_start_went_and_the_metrics_count_it(pools):
    await pools.add()
    path, found = parts((await pools.run.invoke()).header(wire.COLD_START))
    assert path == "pool"
    total = found.pop("total")
    assert sum(found.values()) == pytest.approx(total, rel=0.05)
    assert (found["verify"], found["code"], found["init"], found["run"]) == (0.01, 0.02, 0.03, 0.04)
    assert (await pools.run.invoke()).header(wire.COLD_START) is None
    page = (await pools.run.request("GET", "/metrics")).body.decode()
    assert 'kappa_cold_starts_total{function="hello",namespace="default",path="Pool",reason="claimed"} 1.0' in page, (
        page
    )
    phases = set(re.findall(r'kappa_cold_start_seconds_count{.*path="Pool",phase="(\w+)"} 1\.0', page))
    assert phases == {"queue", "agent", "verify", "code", "init", "run", "first_byte", "total"}


async def test_a_function_url_starts_from_the_pool_too(pools):
    made = await pools.add()
    got = await pools.run.request("GET", "/fn/default/hello/path")
    assert got.header(wire.COLD_START).startswith("pool;total=")
    assert json.loads(made.received[0][1].payload)["rawPath"] == "/path"


async def test_the_operator_is_told_of_the_claim_at_once_until_the_pod_has_its_label(pools, tools):
    made = await pools.add(hold=asyncio.Event())
    reports = pools.run.gateway.demand.subscribe()
    await anext(reports)
    invoked = asyncio.create_task(pools.run.invoke(body=b"1"))
    async with asyncio.timeout(5):
        while not (report := await anext(reports)).claims:
            pass
    claim = report.claims[0]
    assert (claim.namespace, claim.function, claim.pod, claim.pod_uid) == ("default", "hello", "pool-0", "uid-0")
    assert claim.spec_hash == pool.spec_hash(pools.function().manifest)
    assert report.functions[0].in_flight == 1
    assert pools.run.gateway.demand.full_report(lambda function: 0).claims == (claim,)
    # the watch brings it as the function's, and takes it from the pool
    pools.run.sink.put_pod(Pod("default", "pool-0", "hello", "127.0.0.1", made.pod.port, 1, "lambda"))
    pools.run.sink.remove_pool_pod("default", "pool-0")
    assert pools.run.gateway.demand.full_report(lambda function: 0).claims == ()
    made.hold.set()
    assert (await invoked).json() == 1
    assert list(pools.function().pods) == ["pool-0"]
    await reports.aclose()


@pytest.mark.parametrize(
    "refuse",
    [
        ("409 Conflict", "taken"),
        ("403 Forbidden", "stale"),
        ("503 Service Unavailable", "draining"),
        ("400 Bad Request", ""),
    ],
)
async def test_a_pod_that_refuses_is_left_alone_and_the_next_one_taken(pools, tools, refuse):
    refusing = [await pools.add(refuse=refuse) for _ in range(2)]
    taken = await pools.add()
    assert (await pools.run.invoke(body=b"1")).json() == 1
    assert len(taken.received) == 1
    assert list(pools.function().pods) == [taken.name]
    asked = [one for one in refusing if one.pod.requests]
    assert pools.free == len(refusing) - len(asked)
    for one in asked:
        assert one.as_pool_pod.uid in pools.free_pods._shunned


async def test_a_pod_of_another_key_takes_nothing_and_the_log_says_what_to_look_at(pools, caplog):
    pools.run.gateway.invoker.specializer._sign = Signer(bytes(32))
    await pools.add()
    waiting = asyncio.create_task(pools.run.invoke(body=b"1"))
    await pools.tools.eventually(lambda: "must be one pair" in caplog.text)
    await pools.run.add_pod()
    got = await waiting
    assert got.json() == 1


async def test_without_a_free_pod_the_request_waits_and_takes_the_first_that_comes(pools, tools):
    await pools.add(refuse=("409 Conflict", "taken"))
    waiting = asyncio.create_task(pools.run.invoke(body=b"1"))
    await tools.eventually(lambda: pools.function().waiters)
    made = await pools.add(is_awaited=True)
    assert (await waiting).json() == 1
    assert made.received


async def test_those_who_wait_are_served_in_their_order(pools, tools):
    order = []

    async def ask(number):
        await pools.run.invoke(body=b"%d" % number)
        order.append(number)

    await pools.add(refuse=("409 Conflict", "taken"))
    tasks = []
    for number in range(4):
        tasks.append(asyncio.create_task(ask(number)))
        await tools.eventually(lambda count=number + 1: len(pools.function().waiters) == count)
    made = await pools.add(is_awaited=True)
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    assert made.received[0][1].payload == b"0"


async def test_a_pod_that_is_gone_costs_nothing_but_the_next_one(pools, tools):
    gone = await pools.add()
    here = await pools.add()
    gone.pod.server.close()
    pools.free_pods._pools["default", RUNTIME]["pool-0"].task.cancel()
    await tools.eventually(lambda: pools.free_pods._pools["default", RUNTIME]["pool-0"].task.done())
    for connection in list(pools.free_pods._pools["default", RUNTIME]["pool-0"].endpoint.idle):
        connection.transport.abort()
    answers = [await pools.run.invoke(name, body=b"1") for name in ("hello",)]
    assert [one.json() for one in answers] == [1]
    assert here.received
    assert list(pools.function().pods) == [here.name]


async def test_a_connection_that_breaks_after_sending_is_lost_and_the_pod_asked_whose_it_is(pools, tools):
    made = await pools.add(break_off=True)
    got = await pools.run.invoke(body=b"1")
    assert (got.status, got.header("x-amzn-errortype")) == (500, "ServiceException")
    assert "may have run" in got.json()["Message"]
    made.break_off = False
    # it took the function, so the next request is an ordinary one
    assert (await pools.run.invoke(body=b"2")).json() == 2
    assert len(made.received) == 1


async def test_a_pod_that_never_got_the_request_is_free_again(pools, tools):
    made = await pools.add(break_off=True, forget=True)
    assert (await pools.run.invoke(body=b"1")).status == 500
    await tools.eventually(lambda: pools.free == 1)
    assert not pools.function().pods
    made.break_off = False
    assert (await pools.run.invoke(body=b"2")).json() == 2


async def test_a_caller_that_leaves_leaves_the_pod_to_the_next_one(pools, tools):
    made = await pools.add(hold=asyncio.Event())
    client = await pools.run.connect()
    await client.send(b"POST /2015-03-31/functions/hello/invocations HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n1")
    await tools.eventually(lambda: made.received)
    await client.close()
    made.hold.set()
    assert (await pools.run.invoke(body=b"2")).json() == 2
    assert len(made.received) == 1


async def test_a_pod_whose_container_was_started_again_is_not_asked_again(pools, tools):
    made = await pools.add()
    assert (await pools.run.invoke(body=b"1")).json() == 1
    pools.run.sink.put_pod(Pod("default", made.name, "hello", "127.0.0.1", made.pod.port, 1, "lambda"))
    made.taken = None
    waiting = asyncio.create_task(pools.run.invoke(body=b"2"))
    await tools.eventually(lambda: pools.function().waiters)
    await pools.run.add_pod(name="new")
    assert (await waiting).json() == 2


async def test_a_burst_takes_the_pods_that_the_rule_says(pools, tools):
    for _ in range(20):
        await pools.add()
    pools.run.sink.put_function(pool_function(tools, scaling={"maxReplicas": 200}))
    began = time.monotonic()
    longest = first = 0.0

    async def ask(number):
        nonlocal longest, first
        answer = await pools.run.invoke(body=b"%d" % number)
        first = first or time.monotonic() - began
        longest = max(longest, pools.function().mean_duration)
        return answer.json()

    assert await asyncio.gather(*(ask(number) for number in range(200))) == list(range(200))
    # a busy machine makes short requests long: the bound is what the rule makes of what was measured
    most = max(math.ceil(200 * longest / DEFAULT_COLD_START), 2 ** int(first / DOUBLING), 1)
    assert 1 <= sum(bool(made.received) for made in pools.pods) <= most + 1


async def test_long_requests_take_a_pod_each_up_to_max_replicas(pools, tools):
    hold = asyncio.Event()
    for _ in range(6):
        await pools.add(hold=hold)
    function = pool_function(tools, scaling={"maxReplicas": 4})
    pools.run.sink.put_function(function)
    tasks = [asyncio.create_task(pools.run.invoke(body=b"%d" % number)) for number in range(8)]
    await tools.eventually(lambda: sum(bool(made.received) for made in pools.pods) == 4)
    assert len(pools.function().waiters) == 4
    hold.set()
    assert [(await task).json() for task in tasks] == list(range(8))
    assert sum(bool(made.received) for made in pools.pods) == 4


def invoked(made):
    return [one.target for one in made.pod.requests if one.target == wire.INVOKE_PATH]


async def test_a_pod_with_concurrency_takes_further_requests_while_its_first_one_runs(pools, tools):
    made, other = await pools.add(hold=asyncio.Event(), late=asyncio.Event()), await pools.add()
    other.hold, other.late = made.hold, made.late
    pools.run.sink.put_function(pool_function(tools, concurrency=3))
    tasks = [asyncio.create_task(pools.run.invoke(body=b"%d" % number)) for number in range(3)]
    await tools.eventually(lambda: made.received or other.received)
    if other.received:
        made, other = other, made
    # it was asked whose it is, and is nobody's as yet: nothing else is sent there
    asked = made.pod.connections
    await tools.eventually(lambda: made.pod.connections >= asked + 2)
    assert not invoked(made)
    made.late.set()
    await tools.eventually(lambda: len(invoked(made)) == 2)
    assert not other.received
    made.hold.set()
    assert [(await task).json() for task in tasks] == [0, 1, 2]


async def test_a_pod_with_concurrency_has_all_its_slots_after_a_quick_first_answer(pools, tools):
    made = await pools.add()
    pools.run.sink.put_function(pool_function(tools, concurrency=3))
    assert (await pools.run.invoke(body=b"1")).json() == 1
    assert pools.function().pods[made.name].capacity == 3


async def test_a_pod_that_became_another_functions_is_not_given_this_ones_requests(pools, tools):
    """The request that was to make it this function's broke off, and another gateway was quicker."""
    made = await pools.add(break_off=True, forget=True)
    made.pod.ready_answer = tools.response(b'{"state":"ready","function":"default/other","specHash":"x"}')
    assert (await pools.run.invoke(body=b"1")).status == 500
    waiting = asyncio.create_task(pools.run.invoke(body=b"2"))
    await tools.eventually(lambda: not pools.function().pods)
    await pools.run.add_pod()
    assert (await waiting).json() == 2
    assert not invoked(made)


async def test_a_function_that_is_not_for_the_pool_claims_nothing(pools, tools):
    made = await pools.add()
    pools.run.sink.put_function(tools.function())
    waiting = asyncio.create_task(pools.run.invoke(body=b"1"))
    await tools.eventually(lambda: pools.function().waiters)
    await pools.run.add_pod()
    got = await waiting
    assert got.json() == 1
    assert got.header(wire.COLD_START).startswith("deployment;total=")
    assert not made.received
    assert pools.function().counts.cold_starts == {("Deployment", "not_eligible"): 1}


async def test_max_replicas_0_claims_nothing(pools, tools):
    made = await pools.add()
    pools.run.sink.put_function(pool_function(tools, scaling={"maxReplicas": 0}))
    assert (await pools.run.invoke()).status == 429
    assert not made.received


async def test_a_claimed_pod_that_was_to_be_deleted_stays_the_functions(pools, tools):
    made = await pools.add()
    assert (await pools.run.invoke(body=b"1")).json() == 1
    pools.run.sink.put_pool_pod(dataclasses.replace(made.as_pool_pod, leaving=True))
    assert (await pools.run.invoke(body=b"2")).json() == 2
    assert len(made.received) == 1


async def test_a_claim_outlives_a_new_list_that_does_not_show_it_yet(pools, tools):
    made = await pools.add()
    assert (await pools.run.invoke(body=b"1")).json() == 1
    pools.run.sink.replace_pods([])
    pools.run.sink.replace_pool_pods([made.as_pool_pod])
    assert (await pools.run.invoke(body=b"2")).json() == 2
    assert len(made.received) == 1


async def test_a_pod_that_another_gateway_took_is_noticed_and_left_alone(pools, tools):
    made = await pools.add()
    made.pod.ready_answer = tools.response(b'{"state":"ready","function":"default/other"}')
    # its connection breaks, so it is asked again at once
    for connection in list(next(pools.free_pods._all()).endpoint.idle):
        connection.transport.abort()
    await tools.eventually(lambda: pools.free == 0)
    waiting = asyncio.create_task(pools.run.invoke(body=b"1"))
    await tools.eventually(lambda: pools.function().waiters)
    assert not made.received
    await pools.run.add_pod()
    assert (await waiting).json() == 1
