"""Cold starts from warm pools, as users see them, and what becomes of the pods."""

import asyncio
import base64
from collections.abc import Callable
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually_sync

from kappa_core import wire

pytestmark = pytest.mark.cluster

POOL = "pool-python3-13"
CODE = """
import os, time
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return {"pod": os.uname().nodename, "version": 1}
"""


# -- one cold start


async def test_a_cold_call_is_answered_by_a_warm_pod_that_becomes_the_functions_own(
    new_function: Callable[..., Any], pools: Any, one_pod: dict[str, Any]
) -> None:
    function = new_function(CODE, memory="96Mi", scaling=one_pod)
    pools.wait_until_cold(function)
    free = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pools.free(function.namespace)}

    answer = await function.invoke(headers={"X-Amz-Log-Type": "Tail"})

    assert answer.status == 200
    path, phases = pools.cold_start(answer)
    assert path == "pool", answer.headers
    assert sum(value for phase, value in phases.items() if phase != "total") == pytest.approx(phases["total"], rel=0.05)
    assert {"verify", "code", "init", "run"} <= phases.keys()
    assert "Init Duration: " in base64.b64decode(answer.headers["X-Amz-Log-Result"]).decode()
    uid = free[answer.json()["pod"]]
    eventually_sync(lambda: pools.is_adopted(function, uid), within=30)
    warm = await function.invoke()
    assert warm.json() == answer.json()
    assert wire.COLD_START not in warm.headers
    # the pool has others in its place, for a while one more than before
    assert len(pools.wait_for_free(function.namespace, 3)) == 3
    assert pools.wanted(function.namespace) > 2


async def test_events_start_from_the_pool_too(
    new_function: Callable[..., Any], pools: Any, one_pod: dict[str, Any]
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    event = await function.ended(await function.submit())
    assert event["status"] == "succeeded"
    assert event["attempts"] == 1
    eventually_sync(lambda: pools.is_adopted(function), within=30)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}, "spec.env A: valueFrom"),
        ({"podTemplate": {"labels": {"team": "a"}}}, "spec.podTemplate.labels"),
        ({"memory": "1Gi"}, "spec.memory 1Gi is above the pool pods' limit of 512Mi"),
    ],
)
async def test_a_function_that_no_warm_pod_can_become_starts_its_own_and_says_why(
    new_function: Callable[..., Any],
    spec: dict[str, Any],
    reason: str,
    one_pod: dict[str, Any],
    pools: Any,
) -> None:
    function = new_function(CODE, scaling=one_pod, **spec)
    eventually_sync(function.is_verified, within=60)
    said = function.get()["status"]["coldStart"]
    assert said["path"] == "Deployment"
    assert reason in said["reason"]
    assert said["reason"] in function.describe()
    answer = await function.invoke()
    assert pools.cold_start(answer)[0] == "deployment"
    assert answer.json()["pod"].startswith(f"fn-{function.name}-")


async def test_a_function_whose_code_does_not_load_says_so_from_the_pool_too(
    new_function: Callable[..., Any], one_pod: dict[str, Any]
) -> None:
    function = new_function("import nothing_like_this\n", scaling=one_pod)
    answer = await function.invoke()
    assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
    assert answer.json()["errorType"] == "Runtime.ImportModuleError"


# -- afterwards they are pods like any other


@pytest.fixture
async def adopted(new_function: Callable[..., Any], pools: Any, one_pod: dict[str, Any]) -> Any:
    """A Function with one pod, from the pool."""
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    assert pools.cold_start(await function.invoke())[0] == "pool"
    eventually_sync(lambda: pools.is_adopted(function), within=30)
    return function


async def test_a_rollout_restart_replaces_it_and_loses_nothing(adopted: Any, load: Any, kubectl: Kubectl) -> None:
    deployment = f"deployment/fn-{adopted.name}"
    async with load(adopted, callers=2) as seen:
        await asyncio.to_thread(kubectl, "rollout", "restart", deployment, namespace=adopted.namespace)
        await asyncio.to_thread(kubectl, "rollout", "status", deployment, "--timeout=60s", namespace=adopted.namespace)
        await asyncio.to_thread(eventually_sync, lambda: _all_named(adopted, f"fn-{adopted.name}-"), within=30)
    seen.assert_all_good()


async def test_a_changed_spec_replaces_it_and_loses_nothing(adopted: Any, load: Any) -> None:
    async with load(adopted, callers=2) as seen:
        adopted.apply(code={"inline": CODE.replace('"version": 1', '"version": 2')})
        await asyncio.to_thread(eventually_sync, lambda: _all_named(adopted, f"fn-{adopted.name}-"), within=60)
        assert (await adopted.invoke()).json()["version"] == 2
    seen.assert_all_good()


async def test_scaling_down_deletes_it(adopted: Any) -> None:
    adopted.apply(scaling={"maxReplicas": 4, "keepWarm": "1s"})
    eventually_sync(lambda: adopted.wanted_replicas() == 0 and not adopted.pods(), within=60)
    assert (await adopted.invoke()).status == 200


async def test_it_is_replaced_when_it_is_killed(adopted: Any, kubectl: Kubectl) -> None:
    (pod,) = adopted.pods()
    name = pod["metadata"]["name"]
    kubectl("delete", "pod", name, "--grace-period=0", "--force", namespace=adopted.namespace)
    answer = await adopted.invoke()
    assert answer.status == 200
    assert answer.json()["pod"] != name
    eventually_sync(lambda: len(adopted.pods()) == adopted.get()["status"]["readyReplicas"] == 1, within=30)


async def test_it_is_replaced_when_its_container_is_restarted(adopted: Any, kubectl: Kubectl) -> None:
    """Its restarted agent is in the pool's state again and has lost its function."""
    (pod,) = adopted.pods()
    name = pod["metadata"]["name"]
    kill = (
        "import os; [os.kill(int(one), 9) for one in os.listdir('/proc') "
        "if one.isdigit() and int(one) not in (1, os.getpid())]"
    )
    kubectl.exec_last(name, "/opt/kappa/bin/python", "-c", kill, namespace=adopted.namespace)
    answer = await adopted.invoke()
    assert (answer.status, answer.json()["version"]) == (200, 1)
    assert answer.json()["pod"] != name
    eventually_sync(lambda: name not in [pod["metadata"]["name"] for pod in adopted.settled()], within=60)


def _all_named(function: Any, prefix: str) -> bool:
    """Whether it has pods, and all of them have names that begin so."""
    found = [pod["metadata"]["name"] for pod in function.pods()]
    return bool(found) and all(name.startswith(prefix) for name in found)
