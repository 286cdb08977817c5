"""Gateways and the operator end while a pool pod becomes a Function's: nothing is left behind."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually_sync

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

SYSTEM = "kappa-system"
OPERATOR = "deployment/kappa-operator"
CODE = """
import os
def handler(event, context):
    return {"pod": os.uname().nodename}
"""


async def test_gateways_that_die_right_after_a_cold_call_leave_nothing(
    new_function: Callable[..., Any],
    pools: Any,
    kubectl: Kubectl,
    gateways: Callable[[], list[dict[str, Any]]],
    find_gateway: Callable[[], str],
    one_pod: dict[str, Any],
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    answer = await function.invoke()
    killed = _kill(kubectl, gateways())
    assert pools.cold_start(answer)[0] == "pool"
    eventually_sync(lambda: pools.has_its_place(function, answer.json()["pod"]), within=30)
    _wait_for_others(gateways, killed)
    find_gateway()
    assert (await function.invoke()).status == 200


async def test_nothing_is_left_when_the_operator_was_away_and_the_gateways_died_before_it_came_back(
    new_function: Callable[..., Any],
    pools: Any,
    kubectl: Kubectl,
    gateways: Callable[[], list[dict[str, Any]]],
    find_gateway: Callable[[], str],
    one_pod: dict[str, Any],
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    with _operator_away(kubectl):
        answer = await function.invoke()
        assert pools.cold_start(answer)[0] == "pool", "pools need no operator for a cold start"
        killed = _kill(kubectl, gateways())
    back = time.monotonic()
    eventually_sync(lambda: pools.has_its_place(function, answer.json()["pod"]), within=30)
    assert time.monotonic() - back < 30
    _wait_for_others(gateways, killed)
    find_gateway()
    assert (await function.invoke()).status == 200


def _kill(kubectl: Kubectl, pods: list[dict[str, Any]]) -> set[str]:
    """Their names."""
    given = [pod["metadata"]["name"] for pod in pods]
    kubectl("delete", "pods", *given, "--grace-period=0", "--force", namespace=SYSTEM)
    return set(given)


def _wait_for_others(gateways: Callable[[], list[dict[str, Any]]], killed: set[str]) -> None:
    """As many as were killed. The Deployment's status may say still that the old ones are ready."""

    def ready() -> bool:
        found = {pod["metadata"]["name"]: pod["status"].get("conditions", []) for pod in gateways()}
        assert not killed & found.keys()
        assert len(found) == len(killed), list(found)
        for name, conditions in found.items():
            assert any((one["type"], one["status"]) == ("Ready", "True") for one in conditions), name
        return True

    eventually_sync(ready, within=90)


@contextmanager
def _operator_away(kubectl: Kubectl) -> Iterator[None]:
    kubectl("scale", OPERATOR, "--replicas=0", namespace=SYSTEM)
    try:
        selector = "app.kubernetes.io/name=kappa,app.kubernetes.io/component=operator"
        kubectl("wait", "pods", "-l", selector, "--for=delete", "--timeout=60s", namespace=SYSTEM)
        yield
    finally:
        kubectl("scale", OPERATOR, "--replicas=1", namespace=SYSTEM)
        kubectl("rollout", "status", OPERATOR, "--timeout=60s", namespace=SYSTEM)
