"""The process: probes, pages, the demand stream, and a graceful end."""

import asyncio

import pytest

from kappa_core import demand

PROMETHEUS = "text/plain"


async def test_ready_only_after_functions_and_pods_were_listed(tools):
    class Slow(tools.backend):
        async def run(self, sink):
            self.sink = sink
            sink.replace_functions([tools.function()])
            self.pods_listed = asyncio.Event()
            await self.pods_listed.wait()
            sink.replace_pods([])
            await asyncio.Event().wait()

    backend = Slow()

    async def look():
        async with tools.running(backend) as gateway:
            assert (await gateway.request("GET", "/readyz")).status == 200
            return True

    running = asyncio.create_task(look())
    await tools.eventually(lambda: getattr(backend, "pods_listed", None))
    registry = backend.sink
    assert not registry._functions.synced.is_set()
    assert not running.done()
    backend.pods_listed.set()
    assert await running


async def test_the_pages(gateway):
    assert (await gateway.request("GET", "/healthz")).json() == {"status": "ok"}
    assert (await gateway.request("GET", "/readyz")).json() == {"status": "ok", "functions": 2}
    assert (await gateway.request("GET", "/docs")).status == 200
    assert (await gateway.request("GET", "/nothing")).status == 404
    assert (await gateway.request("GET", "/2015-03-31/functions/hello/invocations")).status == 405
    page = await gateway.request("GET", "/openapi.json")
    paths = page.json()["paths"]
    invoke = paths["/2015-03-31/functions/{function_name}/invocations"]["post"]
    assert {"200", "204", "400", "404", "413", "429", "502", "504"} <= set(invoke["responses"])
    assert all(parameter.get("description") for parameter in invoke["parameters"])
    assert {"get", "post", "put", "delete"} <= set(paths["/fn/{namespace}/{name}/{path}"])


async def test_metrics_say_what_happened(gateway):
    await gateway.add_pod()
    for _ in range(3):
        await gateway.invoke()
    await gateway.invoke("nope")
    await gateway.invoke(body=b"{")
    page = await gateway.request("GET", "/metrics", None, {"accept": PROMETHEUS})
    text = page.body.decode()
    assert (
        'kappa_invocations_total{function="hello",namespace="default",outcome="success",type="RequestResponse"} 3.0'
        in text
    )
    assert 'outcome="bad_request",type="RequestResponse"} 1.0' in text
    assert 'kappa_gateway_refused_requests_total{error="ResourceNotFoundException"} 1.0' in text
    assert 'kappa_pods{function="hello",namespace="default",state="ready"} 1.0' in text
    assert 'kappa_invocation_duration_seconds_count{function="hello",namespace="default"} 3.0' in text
    assert 'kappa_gateway_overhead_seconds_count{function="hello",namespace="default"} 3.0' in text
    assert "process_resident_memory_bytes" in text
    openmetrics = await gateway.request(
        "GET", "/metrics", None, {"accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert openmetrics.body.endswith(b"# EOF\n")


async def test_the_demand_stream_says_at_once_that_a_function_waits(gateway, tools):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.internal_port)
    writer.write(b"GET /v1/demand HTTP/1.1\r\nhost: x\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"200 OK" in head

    async def report():
        async with asyncio.timeout(5):
            size = int(await reader.readline(), 16)
            line = await reader.readexactly(size)
            await reader.readline()
            return demand.decode(line)

    assert (await report()).full
    loop = asyncio.get_running_loop()
    asked = loop.time()
    waiting = asyncio.create_task(gateway.invoke())
    got = await report()
    while got.full:
        got = await report()
    assert loop.time() - asked < 0.5
    assert [(f.namespace, f.name, f.waiting) for f in got.functions] == [("default", "hello", 1)]
    await gateway.add_pod()
    await waiting
    got = await report()
    assert (got.full, got.gateway) == (True, "test")
    assert got.functions[0].in_flight == 1  # the peak since the last full report
    assert got.functions[0].cold_start > 0
    assert (await report()).functions in ((), (got.functions[0],))
    writer.close()
    await tools.eventually(lambda: not gateway.gateway.demand._readers)


async def test_the_internal_port_serves_nothing_else(gateway):
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.internal_port)
    writer.write(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b" 404 " in await reader.readline()
    writer.close()


async def test_a_stop_turns_readyz_red_and_lets_what_runs_finish(tools):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend, drain_delay=0.5) as gateway:
        go_on = asyncio.Event()

        async def slow(request):
            await go_on.wait()
            return tools.response(b'"finished"')

        pod = await gateway.add_pod(slow)
        running = asyncio.create_task(gateway.invoke())
        await tools.eventually(lambda: pod.requests)
        gateway.stop.set()
        await tools.eventually(lambda: gateway.gateway.readiness.is_stopping)
        answer = await gateway.request("GET", "/readyz")
        assert (answer.status, answer.json()["status"]) == (503, "stopping")
        await asyncio.sleep(0.7)
        with pytest.raises(ConnectionError):
            await gateway.connect()
        go_on.set()
        assert (await running).json() == "finished"
        async with asyncio.timeout(5):
            await gateway.task


async def test_a_request_that_waits_while_the_gateway_stops_still_gets_its_pod(tools):
    backend = tools.backend()
    backend.functions = [tools.function()]
    async with tools.running(backend) as gateway:
        waiting = asyncio.create_task(gateway.invoke(body=b"1"))
        await tools.eventually(lambda: gateway.gateway.functions.get("default", "hello").waiters)
        gateway.stop.set()
        await tools.eventually(lambda: gateway.gateway.readiness.is_stopping)
        await gateway.add_pod()
        assert (await waiting).json() == 1


async def test_a_taken_port_is_said(tools):
    async with tools.running() as first:
        from kappa_gateway.main import serve
        from kappa_gateway.settings import Settings

        with pytest.raises(OSError, match=str(first.port)):
            await serve(
                Settings(host="127.0.0.1", port=first.port, internal_port=-1), tools.backend(), stop=asyncio.Event()
            )


async def test_a_backend_that_ends_ends_the_gateway(tools):
    class Broken(tools.backend):
        async def run(self, sink):
            await super_run(self, sink)
            raise RuntimeError("the cluster is gone")

    async def super_run(self, sink):
        sink.replace_functions([])
        sink.replace_pods([])

    from kappa_gateway.main import serve
    from kappa_gateway.settings import Settings

    with pytest.raises(RuntimeError, match="the cluster is gone"):
        await serve(Settings(host="127.0.0.1", port=0, internal_port=-1), Broken(), stop=asyncio.Event())
