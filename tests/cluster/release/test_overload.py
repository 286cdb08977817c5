"""More load than pods: it is refused, not piled up."""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.alone("cluster")]

SLOW = """
import time
def handler(event, context):
    time.sleep(event.get("sleep", 0.2))
    return "done"
"""


async def test_five_thousand_at_once_against_two_pods(
    new_function: Callable[..., Any], gateways: Callable[[], list[dict[str, Any]]]
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard == resource.RLIM_INFINITY else min(hard, 65536), hard))
    function = new_function(SLOW, scaling={"maxReplicas": 2, "keepWarm": "5s"})
    assert (await function.invoke({"sleep": 0})).status == 200
    before = {pod["metadata"]["name"] for pod in gateways()}
    body, outcomes, retry_after = json.dumps({"sleep": 0.002}), Counter[object](), set[str]()

    async def call(session: aiohttp.ClientSession) -> None:
        try:
            async with session.post(function.invoke_url, data=body) as answer:
                await answer.read()
                outcomes[answer.status] += 1
                if answer.status == 429:
                    retry_after.add(answer.headers.get("Retry-After", ""))
        except (aiohttp.ClientError, TimeoutError) as error:
            outcomes[type(error).__name__] += 1

    try:
        timeout = aiohttp.ClientTimeout(total=90)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(call(session) for _ in range(5000)))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert set(outcomes) == {200, 429}, outcomes
    assert outcomes.total() == 5000
    assert outcomes[200] >= 500
    assert retry_after
    assert all(seconds.isdecimal() and int(seconds) >= 1 for seconds in retry_after), retry_after
    after = gateways()
    assert {pod["metadata"]["name"] for pod in after} == before
    assert all(pod["status"]["containerStatuses"][0]["restartCount"] == 0 for pod in after)
    async with aiohttp.ClientSession() as session:
        for pod in after:
            async with session.get(f"http://{pod['status']['podIP']}:8080/metrics") as answer:
                lines = (await answer.text()).splitlines()
            memory = next(float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes"))
            assert memory < 256 * 1024 * 1024
    assert (await function.invoke({"sleep": 0})).status == 200
