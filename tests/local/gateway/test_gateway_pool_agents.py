"""Starts from the pool, and ones beside it, with the agent's real processes."""

import asyncio
import time

import pytest
from agents import launch
from pool_pods import KEY, RUNTIME, parts, pool_function

from kappa_core import containers, wire
from kappa_core.agent_config import PoolConfig
from kappa_gateway.pods.platform import Pod, PoolPod
from kappa_gateway.pods.warm.signing import Signer


async def agent(tmp_path, number):
    """A real agent in a pool; the process and what the platform would say of it."""
    root = tmp_path / f"task-{number}"
    root.mkdir()
    config = PoolConfig(
        pool_public_key=Signer(KEY).public_key,
        pod_uid=f"uid-{number}",
        runtime=RUNTIME,
        task_root=str(root),
        host="127.0.0.1",
        port=0,
        runtime_api_port=0,
        parent_death=True,
    )
    process, port = await asyncio.to_thread(launch, config, tmp_path, tmp_path / f"log-{number}")
    return process, PoolPod("default", RUNTIME, f"pool-{number}", f"uid-{number}", "127.0.0.1", port)


async def test_phases_of_a_real_process_add_up_on_the_deployments_path(pools, tools, tmp_path):
    function = tools.function(code={"inline": "import time\n\ndef handler(event, context):\n    time.sleep(0.02)\n"})
    pools.run.sink.put_function(function)
    began = time.perf_counter()
    waiting = asyncio.create_task(pools.run.invoke())
    await tools.eventually(lambda: pools.function().waiters)
    pools.run.sink.put_pod(Pod("default", "own", "hello", None, 8080, 1, "lambda"))
    config = containers.agent_config(function, containers.Platform(region="us-east-1", account="000000000000")).replace(
        task_root=str(tmp_path), host="127.0.0.1", port=0, runtime_api_port=0, parent_death=True
    )
    process, port = await asyncio.to_thread(launch, config, tmp_path, tmp_path / "log")
    try:
        pools.run.sink.put_pod(Pod("default", "own", "hello", "127.0.0.1", port, 1, "lambda"))
        got = await waiting
        took = (time.perf_counter() - began) * 1000
        assert got.status == 200
        path, found = parts(got.header(wire.COLD_START))
        assert path == "deployment"
        total = found.pop("total")
        assert sum(found.values()) == pytest.approx(total, rel=0.05)
        assert 20 <= found["run"] < total <= took
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def test_a_real_pod_with_concurrency_runs_that_many_at_once(pools, tools, tmp_path):
    process, pod = await agent(tmp_path, 0)
    try:
        pools.run.sink.put_pool_pod(pod)
        await tools.eventually(lambda: pools.free)
        # each waits until all three run
        code = (
            "import os, pathlib, time\nroot = pathlib.Path(os.environ['SHARED'])\n\n"
            "def handler(event, context):\n"
            "    (root / str(event)).touch()\n"
            "    ends = time.monotonic() + 10\n"
            "    while len(list(root.iterdir())) < 3 and time.monotonic() < ends:\n        time.sleep(0.005)\n"
            "    return len(list(root.iterdir()))\n"
        )
        (tmp_path / "shared").mkdir()
        env = [{"name": "SHARED", "value": str(tmp_path / "shared")}]
        pools.run.sink.put_function(pool_function(tools, code={"inline": code}, env=env, concurrency=3))
        answers = await asyncio.gather(*(pools.run.invoke(body=b"%d" % number) for number in range(3)))
        assert [one.json() for one in answers] == [3, 3, 3]
        assert sum(one.header(wire.COLD_START) is not None for one in answers) >= 1
        assert list(pools.function().pods) == ["pool-0"]
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def test_phases_of_a_real_process_add_up_on_the_pools_path(pools, tools, tmp_path):
    process, pod = await agent(tmp_path, 0)
    try:
        pools.run.sink.put_pool_pod(pod)
        await tools.eventually(lambda: pools.free)
        answer = "{'env': os.environ['GREETING'], 'id': context.aws_request_id}"
        code = f"import os\n\ndef handler(event, context):\n    return {answer}\n"
        pools.run.sink.put_function(
            pool_function(
                tools, code={"inline": code}, env=[{"name": "A", "value": "x"}, {"name": "GREETING", "value": "$(A)y"}]
            )
        )
        began = time.perf_counter()
        got = await pools.run.invoke()
        took = (time.perf_counter() - began) * 1000
        assert got.json() == {"env": "xy", "id": got.header("x-amzn-requestid")}
        path, found = parts(got.header(wire.COLD_START))
        assert path == "pool"
        total = found.pop("total")
        assert sum(found.values()) == pytest.approx(total, rel=0.05)
        assert total <= took
        assert found["init"] > 0
        assert found["run"] > 0
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
