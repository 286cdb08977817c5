"""Pods come with load and go without it."""

import asyncio
from collections.abc import Callable
from typing import Any

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
    eventually_sync(lambda: function.get().get("status", {}).get("readyReplicas") == 1, within=30)
    assert (await function.invoke()).status == 200
    assert function.wanted_replicas() == 1
    function.apply(scaling={"minReplicas": 0, "keepWarm": "0s"})
    eventually_sync(lambda: function.wanted_replicas() == 0, within=30)


async def test_concurrency_is_how_many_one_pod_takes(new_function: Callable[..., Any]) -> None:
    function = new_function(SLOW, concurrency=4, scaling={"maxReplicas": 1, "keepWarm": "1m"})
    assert (await function.invoke({"sleep": 0})).status == 200
    answers = await asyncio.wait_for(asyncio.gather(*(function.invoke({"sleep": 2}) for _ in range(4))), 7)
    assert [answer.json() for answer in answers] == ["done"] * 4
