"""How long invocations take, where that shows what they waited for."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from waiting import eventually_sync

pytestmark = [pytest.mark.cluster, pytest.mark.alone("cluster")]


async def test_a_cold_start_takes_about_as_long_as_kubernetes_takes(new_function: Callable[..., Any]) -> None:
    function = new_function(scaling={"keepWarm": "1s"})
    eventually_sync(function.is_verified, within=30)
    started = time.monotonic()
    assert (await function.invoke()).status == 200
    # p50 is near half a second here; this only guards against waiting for a probe or a poll somewhere on the way
    assert time.monotonic() - started < 5


async def test_a_caller_who_goes_away_holds_nobody_up(new_function: Callable[..., Any]) -> None:
    code = """
import time
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return "done"
"""
    function = new_function(code, scaling={"maxReplicas": 2, "keepWarm": "1m"})
    assert (await function.invoke()).json() == "done"
    with pytest.raises(TimeoutError):
        await function.invoke({"sleep": 8}, timeout=1)
    # As in Lambda the abandoned invocation runs to its end in its pod. Others get another pod meanwhile …
    started = time.monotonic()
    assert (await function.invoke()).json() == "done"
    assert time.monotonic() - started < 6
    # … and both pods when it has ended: two invocations of 2 s take one's time
    assert (await function.invoke({"sleep": 7})).json() == "done"
    started = time.monotonic()
    answers = await asyncio.gather(function.invoke({"sleep": 2}), function.invoke({"sleep": 2}))
    assert [answer.json() for answer in answers] == ["done", "done"]
    assert time.monotonic() - started < 3.8
