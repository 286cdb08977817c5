"""The search for the answer to an event whose gateway died, among pods of all kinds."""

import asyncio

import pytest
from agents import launch

from kappa_core import wire
from kappa_core.agent_config import AgentConfig
from kappa_core.errors import GatewayTimeout
from kappa_gateway.events import kept_answers
from kappa_gateway.events.kept_answers import KeptAnswers
from kappa_gateway.pods.platform import Pod
from kappa_gateway.pods.state import PodStatus

NOTHING = b'{"errorType":"NotKept","errorMessage":"nothing"}'


def knows(tools, body=b'"kept"', request_id="one", **headers):
    async def answer(_):
        return tools.response(body, headers={wire.REQUEST_ID: request_id, **headers})

    return answer


def knows_not(tools, status="404 Not Found"):
    async def answer(_):
        return tools.response(NOTHING, status=status)

    return answer


async def never(_):
    await asyncio.Event().wait()


def function_of(gateway, name="hello"):
    return gateway.gateway.functions.get("default", name)


def asking(gateway):
    settings = gateway.gateway.settings
    return KeptAnswers(connect_timeout=settings.connect_timeout, answer_margin=settings.answer_margin)


async def look(gateway, request_id="one", attempt=1, *, function="hello", answers=None):
    async with asyncio.timeout(10):
        return await (answers or asking(gateway)).find(function_of(gateway, function), request_id, attempt)


def nothing_is_left(gateway):
    upstream = gateway.gateway.upstream
    return not upstream.active and not function_of(gateway).in_flight


async def test_the_one_pod_that_knows(gateway, tools):
    pods = [await gateway.add_pod(knows_not(tools)) for _ in range(3)]
    error = {"X-Amz-Function-Error": "Unhandled", "Kappa-Duration-Ms": "1.50"}
    pods.insert(1, await gateway.add_pod(knows(tools, b'{"errorType":"E"}', **error)))
    found = await look(gateway, attempt=3)
    assert (found.status, found.function_error, found.body) == (200, b"Unhandled", b'{"errorType":"E"}')
    assert (b"kappa-duration-ms", b"1.50") in found.headers
    assert {(pod.requests[0].method, pod.requests[0].target) for pod in pods if pod.requests} == {
        ("GET", f"{wire.KEPT_PATH}one/3")
    }
    found.held.settled()
    await tools.eventually(lambda: nothing_is_left(gateway))


async def test_no_pod_knows(gateway, tools):
    await gateway.add_pod(knows_not(tools))
    # an image with Lambda's emulator, an agent of another event, and a server that answers anything
    await gateway.add_pod(knows_not(tools, status="400 Bad Request"))
    await gateway.add_pod(knows(tools, request_id="two"))
    await gateway.add_pod(tools.echo)
    assert await look(gateway) is None
    assert nothing_is_left(gateway)


async def test_no_pods_at_all(gateway):
    assert await look(gateway) is None


async def test_web_servers_are_not_asked(gateway, tools):
    pod = await gateway.add_pod(knows(tools), function="web", protocol="http")
    assert await look(gateway, function="web") is None
    assert not pod.requests


async def test_a_pod_that_is_full_or_drains_is_asked_too(gateway, tools):
    pod = await gateway.add_pod(knows(tools), name="pod")
    await tools.eventually(lambda: function_of(gateway).pods["pod"].status is PodStatus.READY)
    gateway.sink.put_pod(Pod("default", "pod", "hello", "127.0.0.1", pod.port, 1, "lambda", terminating=True))
    assert function_of(gateway).pods["pod"].status is PodStatus.DRAINING
    found = await look(gateway)
    assert found.body == b'"kept"'
    found.held.settled()
    # it hears so at once, for it waits for that
    await tools.eventually(lambda: len(pod.requests) == 2)
    assert (pod.requests[1].method, pod.requests[1].target) == ("DELETE", f"{wire.KEPT_PATH}one/1")


async def test_a_pod_that_drained_before_the_gateway_knew_it_is_asked_too(gateway, tools):
    served = tools.pod(knows(tools))
    await served.start()
    gateway.pods.append(served)
    gateway.sink.put_pod(Pod("default", "pod", "hello", "127.0.0.1", served.port, 1, "lambda", terminating=True))
    assert function_of(gateway).pods["pod"].status is PodStatus.DRAINING
    found = await look(gateway)
    assert found.body == b'"kept"'
    found.held.settled()
    await tools.eventually(lambda: [request.method for request in served.requests] == ["GET", "DELETE"])


async def test_a_pod_that_is_gone_counts_as_knowing_nothing(gateway, tools):
    gone = await gateway.add_pod(knows(tools))
    await gone.stop()
    assert await look(gateway) is None


async def test_a_pod_that_says_nothing_counts_as_knowing_nothing(gateway, monkeypatch):
    monkeypatch.setattr(kept_answers, "PROMPT", 0.2)
    await gateway.add_pod(never)
    assert await look(gateway) is None
    assert nothing_is_left(gateway)


async def test_it_waits_for_the_pod_that_runs_it(gateway, tools, monkeypatch):
    monkeypatch.setattr(kept_answers, "PROMPT", 0.05)
    ended = asyncio.Event()

    async def runs(request):
        request.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await ended.wait()
        return await knows(tools)(request)

    pod = await gateway.add_pod(runs)
    await gateway.add_pod(knows_not(tools))
    task = asyncio.create_task(look(gateway))
    await tools.eventually(lambda: pod.requests)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(task), 0.2)
    ended.set()
    found = await task
    assert found.body == b'"kept"'
    found.held.abandon()


async def test_one_that_runs_for_too_long_must_not_be_run_again(tools):
    async def runs(request):
        request.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
        await asyncio.Event().wait()

    backend = tools.backend()
    backend.functions = [tools.function(timeout="1s")]
    async with tools.running(backend, answer_margin=0.1) as gateway:
        await gateway.add_pod(runs)
        await gateway.add_pod(knows_not(tools))
        with pytest.raises(GatewayTimeout):
            await look(gateway)
        assert nothing_is_left(gateway)


async def test_the_slow_do_not_hold_up_the_one_that_knows(gateway, tools):
    for _ in range(3):
        await gateway.add_pod(never)
    await gateway.add_pod(knows(tools))
    found = await look(gateway)
    assert found.body == b'"kept"'
    found.held.settled()
    assert nothing_is_left(gateway)
    endpoints = [pod.endpoint for pod in function_of(gateway).pods.values()]
    await tools.eventually(lambda: all(endpoint._connections == set(endpoint.idle) for endpoint in endpoints))


async def test_a_connection_that_broke_is_tried_once_more(gateway, tools):
    broken = []

    async def breaks(request):
        if not broken:
            broken.append(request)
            request.writer.write(b"HTTP/1.1 102 Processing\r\n\r\n")
            return None
        return await knows(tools)(request)

    await gateway.add_pod(breaks)
    found = await look(gateway)
    assert found.body == b'"kept"'
    found.held.settled()


async def test_a_pod_all_of_whose_idle_connections_break_is_asked_over_a_new_one(gateway, tools):
    old, together = set(), asyncio.Barrier(4)

    async def answer(request):
        if request.writer in old:
            request.writer.transport.abort()
            return None
        if len(old) == 4:
            return await knows(tools)(request)
        old.add(request.writer)
        async with asyncio.timeout(5):
            await together.wait()  # so that each of the first questions has a connection of its own
        return await knows_not(tools)(request)

    await gateway.add_pod(answer)
    assert await asyncio.gather(*(look(gateway, f"id-{number}") for number in range(4))) == [None] * 4
    found = await look(gateway)
    assert found is not None, "the pod is there, and knows"
    found.held.settled()


async def test_many_searches_leave_no_connection_and_no_permit(gateway, tools):
    for _ in range(4):
        await gateway.add_pod(knows_not(tools))
    pod = await gateway.add_pod(never)
    # until then the dialer has requests of its own under way
    pods = function_of(gateway).pods
    await tools.eventually(lambda: all(known.status is PodStatus.READY for known in pods.values()))
    answers = asking(gateway)
    tasks = [asyncio.create_task(look(gateway, f"id-{number}", answers=answers)) for number in range(100)]
    await tools.eventually(lambda: len(pod.requests) >= 50)
    for task in tasks:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert nothing_is_left(gateway)
    await tools.eventually(lambda: answers.questions._value == kept_answers.MOST_QUESTIONS)


# -- with a real agent

CODE = """
import os, time
def handler(event, context):
    with open(os.environ["RUNS"], "a") as runs:
        runs.write(context.aws_request_id + "\\n")
    time.sleep(event)
    return context.aws_request_id
"""


@pytest.fixture
async def agent(tmp_path):
    """(the process, its port) of an agent with two slots."""
    config = AgentConfig(
        function_name="hello",
        runtime="python3.13",
        handler="main.handler",
        code_inline=CODE,
        task_root=str(tmp_path),
        host="127.0.0.1",
        port=0,
        runtime_api_port=0,
        concurrency=2,
        timeout=5.0,
    )
    process, port = launch(config, tmp_path, tmp_path / "log", env={"RUNS": str(tmp_path / "runs")})
    try:
        yield process, port
    finally:
        process.kill()
        process.wait()


async def test_a_run_outlives_its_gateway_and_is_found(gateway, agent, tools, tmp_path):
    process, port = agent
    writers = []
    for request_id, seconds in (("one", b"0.5"), ("two", b"0")):
        head = (
            f"POST {wire.INVOKE_PATH} HTTP/1.1\r\nHost: a\r\n{wire.REQUEST_ID}: {request_id}\r\n{wire.ATTEMPT}: 2\r\n"
        )
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writers.append(writer)
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(seconds), seconds))
    runs = tmp_path / "runs"
    await tools.eventually(lambda: runs.exists() and sorted(runs.read_text().split()) == ["one", "two"])
    for writer in writers:
        writer.transport.abort()
        writer.close()

    gateway.sink.put_pod(Pod("default", "agent", "hello", "127.0.0.1", port, 2, "lambda"))
    assert await look(gateway, "one", 1) is None
    first, second = await asyncio.gather(look(gateway, "one", 2), look(gateway, "two", 2))
    assert (first.body, second.body) == (b'"one"', b'"two"')

    first.held.abandon()
    again = await look(gateway, "one", 2)
    assert again.body == b'"one"'
    again.held.settled()
    second.held.settled()
    # stopping, it closes its idle connections and so reports what is settled; then the agent has nothing to wait for
    function_of(gateway).pods["agent"].endpoint.close()
    await tools.eventually(lambda: nothing_is_left(gateway))
    assert await look(gateway, "one", 2) is None
    assert await look(gateway, "two", 2) is None
    assert sorted(runs.read_text().split()) == ["one", "two"]
    process.terminate()
    assert await asyncio.to_thread(process.wait, 10) == 0
