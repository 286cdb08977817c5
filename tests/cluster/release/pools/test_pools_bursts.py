"""Bursts of calls to a cold function: how many warm pods they take."""

import asyncio
import base64
import re
from collections.abc import Callable
from typing import Any

import pytest
from waiting import eventually_sync

from kappa_core.demand import FunctionDemand
from kappa_core.scaling import ScalingSpec, needed

pytestmark = [pytest.mark.cluster, pytest.mark.alone("cluster")]

POOL = "pool-python3-13"
GATEWAYS = 2
"""The chart's."""
CODE = """
import os, time
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return {"pod": os.uname().nodename, "version": 1}
"""


async def test_a_burst_of_short_calls_starts_few_pods(new_function: Callable[..., Any], pools: Any) -> None:
    """Fission specialized 88 pods for one function in fission#3559.

    How many pods the claiming rule allows depends on how long the calls took, and a busy machine makes them longer: the
    gateways' mean is at most the longest call. This limits the replicas that the Deployment wants, not the pods that
    exist: for a moment, the pods created in place of adopted ones exist too.
    """
    burst = 200
    spec = ScalingSpec(min_replicas=0, max_replicas=50, keep_warm=120, concurrency=1)
    function = new_function(CODE, scaling={"maxReplicas": spec.max_replicas, "keepWarm": "2m"})
    pools.wait_until_cold(function)
    answers = await asyncio.gather(*(function.invoke(headers={"X-Amz-Log-Type": "Tail"}) for _ in range(burst)))
    assert {answer.status for answer in answers} == {200}
    used = {answer.json()["pod"] for answer in answers}
    assert len(used) <= 8, f"{len(used)} pods for {burst} short calls"
    assert any(name.startswith(POOL) for name in used)
    longest = max(_duration(answer) for answer in answers)
    in_flight = GATEWAYS * len(used)  # at most: each gateway reports its own
    demand = FunctionDemand(
        function.namespace, function.name, in_flight=in_flight, waiting=burst - in_flight, mean_duration=longest
    )
    most = needed(demand, spec)
    assert function.wanted_replicas() <= most < 40, f"the longest call took {longest} s"
    eventually_sync(function.settled, within=30)
    assert len(function.pods()) <= most


async def test_a_burst_of_long_calls_takes_several_warm_pods_up_to_the_most(
    new_function: Callable[..., Any], pools: Any
) -> None:
    function = new_function(CODE, scaling={"maxReplicas": 4, "keepWarm": "1s"})
    pools.wait_until_cold(function)

    async def burst() -> set[str]:
        answers = await asyncio.gather(*(function.invoke({"sleep": 1}) for _ in range(8)))
        assert {answer.status for answer in answers} == {200}
        return {answer.json()["pod"] for answer in answers}

    # the first time nobody knows how long it takes: one pod at first, then more
    assert len(await burst()) <= 4
    eventually_sync(lambda: function.wanted_replicas() == 0 and not function.pods(), within=60)
    pools.wait_for_free(function.namespace)
    used = await burst()
    assert len(used) <= 4
    assert sum(name.startswith(POOL) for name in used) >= 2, used


def _duration(answer: Any) -> float:
    """Seconds that the function ran, by the answer's log tail."""
    tail = base64.b64decode(answer.headers["X-Amz-Log-Result"]).decode()
    found = re.search(r"\tDuration: ([0-9.]+) ms", tail)
    assert found, tail
    return float(found[1]) / 1000
