"""Several gateways and one `maxReplicas`; several invocations and one warm pod."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from waiting import eventually_sync

pytestmark = [pytest.mark.cluster, pytest.mark.alone("cluster")]

POOL = "pool-python3-13"
CODE = """
import os, time
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return {"pod": os.uname().nodename, "process": os.getpid()}
"""


async def test_with_one_replica_cold_starts_at_every_gateway_come_from_the_pool(
    new_function: Callable[..., Any], pools: Any, gateways: Callable[[], list[dict[str, Any]]]
) -> None:
    """One gateway claims for the function; the others pass the request on to it."""
    function = new_function(CODE, scaling={"maxReplicas": 1, "keepWarm": "1s"})
    await function.known()
    addresses = [pod["status"]["podIP"] for pod in gateways()]
    assert len(addresses) >= 2
    for address in addresses:
        eventually_sync(lambda: function.wanted_replicas() == 0 and not function.pods(), within=60)
        pools.wait_until_cold(function)
        through = replace(function, gateway=f"http://{address}:8080")
        answer = await through.invoke()
        path, phases = pools.cold_start(answer)
        assert path == "pool", (address, answer.headers)
        assert phases["total"] < 250, "nobody waited for the Deployment"
        eventually_sync(lambda: len(function.pods()) <= 1, within=30)


async def test_one_replica_stays_one_whichever_gateway_is_asked(
    new_function: Callable[..., Any], pools: Any, gateways: Callable[[], list[dict[str, Any]]]
) -> None:
    function = new_function(CODE, scaling={"maxReplicas": 1, "keepWarm": "1m"})
    await function.known()
    pools.wait_until_cold(function)
    through = [replace(function, gateway=f"http://{pod['status']['podIP']}:8080") for pod in gateways()]
    answers = await asyncio.gather(*(one.invoke({"sleep": 0.2}) for one in through * 4))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.json()["pod"] for answer in answers}) == 1, [answer.json() for answer in answers]
    eventually_sync(lambda: pools.is_adopted(function), within=30)


async def test_a_warm_pod_takes_as_many_invocations_at_once_as_the_function_says(
    new_function: Callable[..., Any], pools: Any
) -> None:
    function = new_function(CODE, concurrency=3, scaling={"maxReplicas": 1, "keepWarm": "2m"})
    pools.wait_until_cold(function)
    answers = await asyncio.gather(*(function.invoke({"sleep": 2}) for _ in range(3)))
    assert {answer.status for answer in answers} == {200}
    assert {answer.json()["pod"].startswith(POOL) for answer in answers} == {True}
    assert len({answer.json()["process"] for answer in answers}) == 3
    eventually_sync(lambda: pools.is_adopted(function), within=30)
    (pod,) = function.pods()
    assert pod["metadata"]["annotations"]["kappa.run/concurrency"] == "3"
