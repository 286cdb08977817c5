"""Pods that refuse, break, stall, fail to start or go away: what the caller gets, and what is sent twice."""

import asyncio
import resource

import pytest

from kappa_core.function import Condition, Function, FunctionStatus
from kappa_gateway.pods.platform import Pod

DRAINING = {"Kappa-Refused": "draining"}


async def test_a_draining_pod_hands_the_request_to_another_and_gets_nothing_more(gateway, tools):
    async def draining(request):
        return tools.response(b"{}", "503 Service Unavailable", DRAINING)

    leaving = await gateway.add_pod(draining)
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").available)
    waiting = asyncio.create_task(gateway.invoke(body=b"1"))
    await tools.eventually(lambda: leaving.requests)
    await gateway.add_pod()
    assert (await waiting).json() == 1
    assert (await gateway.invoke(body=b"2")).json() == 2
    assert len(leaving.requests) == 1


async def test_a_connection_that_breaks_after_the_request_is_an_error_and_nothing_runs_twice(gateway):
    async def drop(request):
        return None

    first = await gateway.add_pod(drop)
    answer = await gateway.invoke()
    assert answer.status == 500
    assert "may have run" in answer.json()["Message"]
    assert len(first.requests) == 1


async def test_half_an_answer_breaks_the_callers_connection(gateway, tools):
    async def half(request):
        request.writer.write(tools.response(b"x" * 1000)[:-500])
        await request.writer.drain()
        return

    await gateway.add_pod(half)
    client = await gateway.connect()
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await client.request("POST", "/2015-03-31/functions/hello/invocations", b"{}")


async def test_an_answer_that_is_no_http_is_502(gateway):
    async def junk(request):
        return b"SSH-2.0-OpenSSH_9.6\r\n"

    await gateway.add_pod(junk)
    answer = await gateway.invoke()
    assert answer.status == 502
    assert "pod-1" in answer.json()["Message"]


async def test_a_pod_that_does_not_answer_in_time_is_504(tools):
    backend = tools.backend()
    backend.functions = [tools.function(timeout="200ms")]
    async with tools.running(backend, answer_margin=0.1) as gateway:

        async def stall(request):
            await request.reader.read()
            return

        await gateway.add_pod(stall)
        answer = await gateway.invoke()
        assert answer.status == 504
        assert gateway.gateway.functions.get("default", "hello").in_flight == 0


async def test_nobody_waits_longer_than_allowed(tools):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend, max_wait=0.2) as gateway:
        answer = await gateway.invoke()
        assert (answer.status, answer.header("x-amzn-errortype")) == (429, "TooManyRequestsException")
        assert int(answer.header("retry-after")) >= 1


async def test_a_pod_that_restarts_is_found_again(gateway, tools):
    pod = await gateway.add_pod()
    assert (await gateway.invoke(body=b"1")).json() == 1
    port = pod.port
    await pod.stop()
    await tools.eventually(lambda: pod.open_connections == 0)
    waiting = asyncio.create_task(gateway.invoke(body=b"2"))
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").waiters)
    await pod.start(port)
    assert (await waiting).json() == 2


async def test_a_pod_is_dialled_until_it_listens_and_asked_until_it_is_ready(gateway, tools):
    pod = tools.pod(tools.echo)
    await pod.start()
    port = pod.port
    await pod.stop()
    pod.ready_answer = tools.response(b'{"state":"initializing"}', "503 Service Unavailable")
    gateway.pods.append(pod)
    gateway.sink.put_pod(Pod("default", "late", "hello", "127.0.0.1", port, 1, "lambda"))
    waiting = asyncio.create_task(gateway.invoke(body=b"1"))
    await asyncio.sleep(0.05)
    await pod.start(port)
    await tools.eventually(lambda: pod.connections)
    assert not waiting.done()
    pod.ready_answer = tools.response(b'{"state":"ready"}')
    assert (await waiting).json() == 1
    counted = gateway.gateway.functions.get("default", "hello").counts
    assert counted.cold_starts == {("Deployment", "not_eligible"): 1}
    phases = {phase: histogram.total for (_, phase), histogram in counted.cold_phases.items()}
    assert sum(seconds for phase, seconds in phases.items() if phase != "total") == pytest.approx(phases["total"])


async def test_a_pod_whose_init_failed_gives_lambdas_error(gateway, tools):
    async def answer(request):
        return tools.response(
            b'{"errorType":"Runtime.ImportModuleError"}', headers={"X-Amz-Function-Error": "Unhandled"}
        )

    failed = tools.response(b'{"state":"init_failed"}', "503 Service Unavailable")
    await gateway.add_pod(answer, ready_answer=failed)
    got = await gateway.invoke()
    assert got.header("x-amz-function-error") == "Unhandled"
    assert (
        gateway.gateway.functions.get("default", "hello").counts.invocations["RequestResponse", "function_error"] == 1
    )


async def test_terminating_pods_get_nothing_new(gateway, tools):
    old = await gateway.add_pod(name="old")
    assert (await gateway.invoke(body=b"1")).json() == 1
    gateway.sink.put_pod(Pod("default", "old", "hello", "127.0.0.1", old.port, 1, "lambda", terminating=True))
    waiting = asyncio.create_task(gateway.invoke(body=b"2"))
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").waiters)
    await gateway.add_pod(name="new")
    assert (await waiting).json() == 2
    assert len(old.requests) == 1
    await tools.eventually(lambda: old.open_connections == 0)


def failed(function: Function, reason: str, generation: int = 1) -> Function:
    condition = Condition(
        type="Ready",
        status="False",
        observed_generation=generation,
        last_transition_time="2026-01-01T00:00:00Z",
        reason=reason,
        message="the image nowhere/none:1 cannot be pulled",
    )
    return function.model_copy(update={"status": FunctionStatus(conditions=[condition])})


async def test_a_failed_function_says_why_and_those_who_wait_are_told(gateway, tools):
    waiting = asyncio.create_task(gateway.invoke())
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").waiters)
    gateway.sink.put_function(failed(tools.function(), "ImagePullFailed"))
    for answer in (await waiting, await gateway.invoke()):
        assert answer.status == 502
        assert "nowhere/none:1" in answer.json()["Message"]
    gateway.sink.put_function(failed(tools.function(), "ImagePullFailed", generation=0))
    await gateway.add_pod()
    assert (await gateway.invoke(body=b"1")).json() == 1


async def test_a_deleted_function_is_404_for_those_who_wait_and_its_series_go(gateway, tools):
    waiting = asyncio.create_task(gateway.invoke())
    await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").waiters)
    gateway.sink.remove_function("default", "hello")
    assert (await waiting).status == 404
    assert (await gateway.invoke()).status == 404
    page = (await gateway.request("GET", "/metrics")).body.decode()
    assert 'function="web"' in page
    assert 'function="hello"' not in page


async def test_max_replicas_zero_throttles_at_once(gateway, tools):
    gateway.sink.put_function(tools.function(scaling={"maxReplicas": 0}))
    answer = await gateway.invoke()
    assert answer.status == 429
    assert answer.json()["Reason"] == "ReservedFunctionConcurrentInvocationLimitExceeded"
    assert answer.header("retry-after")


async def test_a_relist_forgets_what_is_gone(gateway, tools):
    await gateway.add_pod(name="a")
    assert (await gateway.invoke(body=b"1")).json() == 1
    gateway.sink.replace_pods([])
    gateway.sink.replace_functions([tools.function("other")])
    assert (await gateway.invoke()).status == 404
    await tools.eventually(lambda: gateway.pods[0].open_connections == 0)


async def test_idle_connections_are_closed(tools):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend, upstream_idle_timeout=0.2) as gateway:
        pod = await gateway.add_pod()
        assert (await gateway.invoke(body=b"1")).json() == 1
        await tools.eventually(lambda: pod.open_connections == 0)
        assert (await gateway.invoke(body=b"2")).json() == 2


async def test_a_server_that_closes_idle_connections_is_no_trouble(gateway, tools):
    async def answer(request):
        request.writer.write(tools.response(b"{}"))
        await request.writer.drain()
        return  # closes without having said so

    pod = await gateway.add_pod(answer, function="web", protocol="http")
    for _ in range(20):
        assert (await gateway.request("GET", "/fn/default/web/")).status == 200
    assert len(pod.requests) == 20


async def test_a_flood_against_two_pods_is_throttled_within_bounds(tools):
    backend = tools.backend()
    backend.functions = [tools.function(scaling={"maxReplicas": 2})]
    async with tools.running(backend, max_waiting_requests=100) as gateway:

        async def slow(request):
            await asyncio.sleep(0.005)
            return tools.response(request.body)

        await gateway.add_pod(slow)
        await gateway.add_pod(slow)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        gate = asyncio.Semaphore(1000)

        async def one():
            async with gate:
                return await gateway.invoke()

        answers = await asyncio.gather(*(one() for _ in range(3000)))
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        statuses = {answer.status for answer in answers}
        assert statuses == {200, 429}
        assert all(int(answer.header("retry-after")) >= 1 for answer in answers if answer.status == 429)
        assert after - before < 200 * 1024
        function = gateway.gateway.functions.get("default", "hello")
        assert (function.in_flight, len(function.waiters)) == (0, 0)
        assert function.counts.throttles == sum(answer.status == 429 for answer in answers)
