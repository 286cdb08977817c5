"""Parts of Kappa stop and start, also the hard way, while functions are called."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually, eventually_sync

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

SYSTEM = "kappa-system"
WORK = "import time\ndef handler(event, context):\n    time.sleep(0.02)\n    return 'done'\n"


async def test_a_rolling_restart_of_the_gateway_loses_no_request(
    new_function: Callable[..., Any],
    load: Any,
    kubectl: Kubectl,
    gateways: Callable[[], list[dict[str, Any]]],
) -> None:
    """Neither of callers with a new connection each time, nor of those who keep theirs."""
    functions = [new_function(WORK, scaling={"maxReplicas": 2, "keepWarm": "1m"}) for _ in range(2)]
    assert [(await function.invoke()).status for function in functions] == [200, 200]
    old = [f"pod/{pod['metadata']['name']}" for pod in gateways()]
    async with (
        load(functions[0], callers=4, keep_alive=False) as new_connections,
        load(functions[1], callers=4, keep_alive=True) as kept_connections,
    ):
        await asyncio.to_thread(kubectl, "rollout", "restart", "deployment/kappa-gateway", namespace=SYSTEM)
        await asyncio.to_thread(
            kubectl, "rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM
        )
        await asyncio.to_thread(kubectl, "wait", *old, "--for=delete", "--timeout=90s", namespace=SYSTEM)
    new_connections.assert_all_good()
    kept_connections.assert_all_good()


async def test_a_gateway_that_is_killed_leaves_the_other_one_serving(
    new_function: Callable[..., Any],
    load: Any,
    kubectl: Kubectl,
    gateways: Callable[[], list[dict[str, Any]]],
) -> None:
    function = new_function(WORK, scaling={"maxReplicas": 2, "keepWarm": "1m"})
    assert (await function.invoke()).status == 200
    victim, *others = [pod["metadata"]["name"] for pod in gateways()]
    assert others, "two gateways are needed"
    async with load(function, callers=4) as seen:
        await asyncio.to_thread(kubectl, "delete", "pod", victim, "--grace-period=0", "--force", namespace=SYSTEM)
        await asyncio.to_thread(
            kubectl, "rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM
        )
        mark = len(seen.answers)
        await eventually(_more_than(seen, mark + 50), within=20)
    # What was at the killed gateway is lost, and said so; nothing else is, and nothing after it.
    assert len(seen.errors) <= 40, seen.errors[:5]
    assert {answer.status for answer in seen.answers} == {200}


async def test_without_an_operator_warm_functions_go_on_and_later_scale_down(
    new_function: Callable[..., Any], load: Any, kubectl: Kubectl
) -> None:
    function = new_function(WORK, scaling={"maxReplicas": 2, "keepWarm": "3s"})
    assert (await function.invoke()).status == 200
    operator = "deployment/kappa-operator"
    async with load(function, callers=2) as seen:
        await asyncio.to_thread(kubectl, "scale", operator, "--replicas=0", namespace=SYSTEM)
        selector = "app.kubernetes.io/name=kappa,app.kubernetes.io/component=operator"
        await asyncio.to_thread(
            kubectl, "wait", "pods", "-l", selector, "--for=delete", "--timeout=60s", namespace=SYSTEM
        )
        mark = len(seen.answers)
        await eventually(_more_than(seen, mark + 50), within=20)
        # and deleting a Function needs no operator: nothing holds it back
        other = await asyncio.to_thread(new_function)
        await asyncio.to_thread(other.delete)
    seen.assert_all_good()
    assert function.pods()
    kubectl("scale", operator, "--replicas=1", namespace=SYSTEM)
    kubectl("rollout", "status", operator, "--timeout=60s", namespace=SYSTEM)
    eventually_sync(lambda: function.wanted_replicas() == 0 and not function.pods(), within=60)
    assert (await function.invoke()).status == 200


async def test_a_restarted_operator_disturbs_nobody(
    new_function: Callable[..., Any], load: Any, kubectl: Kubectl
) -> None:
    function = new_function(WORK, scaling={"maxReplicas": 2, "keepWarm": "1m"})
    assert (await function.invoke()).status == 200
    before = {pod["metadata"]["uid"] for pod in eventually_sync(function.settled)}
    async with load(function, callers=1) as seen:
        await asyncio.to_thread(kubectl, "rollout", "restart", "deployment/kappa-operator", namespace=SYSTEM)
        await asyncio.to_thread(
            kubectl, "rollout", "status", "deployment/kappa-operator", "--timeout=90s", namespace=SYSTEM
        )
        cold = await asyncio.to_thread(new_function)
        assert (await cold.invoke()).status == 200
    seen.assert_all_good()
    assert before <= {pod["metadata"]["uid"] for pod in function.pods()}


def _more_than(seen: Any, count: int) -> Callable[[], Any]:
    async def check() -> bool:
        return len(seen.answers) > count

    return check
