"""The twin of an adopted pod, which its ReplicaSet had created in its place, ends quickly each time, whenever it is
deleted."""

from collections.abc import Callable
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually_sync

pytestmark = pytest.mark.cluster

CODE = """
import os
def handler(event, context):
    return {"pod": os.uname().nodename}
"""
ADOPTIONS = 5
STOP_SECONDS = 12
"""The time that a pod gets if it must stop right after its creation: a second's delay, the kubelet's own work, and a
slow machine. Its grace period is far longer."""


async def test_no_twin_stays(new_function: Callable[..., Any], pools: Any, one_pod: dict[str, Any]) -> None:
    functions = [new_function(CODE, timeout="5m", scaling=one_pod) for _ in range(ADOPTIONS)]
    for function in functions:
        pools.wait_until_cold(function)
        free = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pools.free(function.namespace)}
        answer = await function.invoke()
        assert pools.cold_start(answer)[0] == "pool", answer.headers
        taken = free[answer.json()["pod"]]
        # of all its pods, those on their way out too, this one is the only one
        eventually_sync(lambda function=function, taken=taken: pools.is_adopted(function, taken), within=STOP_SECONDS)


async def test_a_function_that_scales_to_zero_leaves_no_pod_and_starts_from_the_pool_again(
    new_function: Callable[..., Any], pools: Any, kubectl: Kubectl, one_pod: dict[str, Any]
) -> None:
    function = new_function(CODE, timeout="5m", scaling=one_pod)

    def nothing_is_left() -> bool:
        selector = f"kappa.run/function={function.name}"
        found = kubectl.items("pods", selector, namespace=function.namespace)
        assert not found, [(pod["metadata"]["name"], pod["metadata"].get("deletionTimestamp")) for pod in found]
        return True

    for _ in range(2):
        pools.wait_until_cold(function)
        assert pools.cold_start(await function.invoke())[0] == "pool"
        eventually_sync(lambda: pools.is_adopted(function), within=STOP_SECONDS)
        function.apply(scaling={**one_pod, "keepWarm": "1s"})
        eventually_sync(lambda: function.wanted_replicas() == 0, within=30)
        eventually_sync(nothing_is_left, within=STOP_SECONDS)
        function.apply()
