"""Pods come with load and go without it; more load than pods is refused, not piled up."""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from waiting import eventually_sync

pytestmark = pytest.mark.cluster

SLOW = """
import time
def handler(event, context):
    time.sleep(event.get("sleep", 0.2))
    return "done"
"""


async def test_pods_come_with_load_and_go_without(new_function: Callable[..., Any], load: Any) -> None:
    function = new_function(SLOW, memory="64Mi", scaling={"maxReplicas": 4, "keepWarm": "4s"})
    seen_replicas: list[int] = []

    def at_most_four_and_now_four() -> bool:
        seen_replicas.append(function.wanted_replicas())
        return seen_replicas[-1] == 4 and function.get()["status"]["readyReplicas"] == 4

    async with load(function, callers=8, event={"sleep": 0.5}, keep_alive=True) as seen:
        await asyncio.to_thread(eventually_sync, at_most_four_and_now_four, within=45)
    seen.assert_all_good()
    assert max(seen_replicas) == 4
    eventually_sync(lambda: function.wanted_replicas() == 0 and not function.pods(), within=45)


async def test_min_replicas_are_kept(new_function: Callable[..., Any]) -> None:
    function = new_function(memory="64Mi", scaling={"minReplicas": 1, "keepWarm": "0s"})
    eventually_sync(lambda: function.get()["status"]["readyReplicas"] == 1, within=30)
    assert (await function.invoke()).status == 200
    assert function.wanted_replicas() == 1
    function.apply(scaling={"minReplicas": 0, "keepWarm": "0s"})
    eventually_sync(lambda: function.wanted_replicas() == 0, within=30)


async def test_concurrency_is_how_many_one_pod_takes(new_function: Callable[..., Any]) -> None:
    function = new_function(SLOW, concurrency=4, scaling={"maxReplicas": 1, "keepWarm": "1m"})
    assert (await function.invoke({"sleep": 0})).status == 200
    answers = await asyncio.wait_for(asyncio.gather(*(function.invoke({"sleep": 2}) for _ in range(4))), 7)
    assert [answer.json() for answer in answers] == ["done"] * 4


@pytest.mark.alone
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
