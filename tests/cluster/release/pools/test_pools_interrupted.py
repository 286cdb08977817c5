"""Gateways and the operator end while a pool pod becomes a Function's: nothing is left behind."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

pytestmark = pytest.mark.cluster

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
    kubectl: Any,
    gateways: Callable[[], list[dict[str, Any]]],
    eventually: Any,
    one_pod: dict[str, Any],
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    answer = await function.invoke()
    _kill(kubectl, gateways())
    assert pools.cold_start(answer)[0] == "pool"
    eventually(lambda: pools.has_its_place(function, answer.json()["pod"]), timeout=30)
    kubectl("rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM)
    assert (await function.invoke()).status == 200


async def test_nothing_is_left_when_the_operator_was_away_and_the_gateways_died_before_it_came_back(
    new_function: Callable[..., Any],
    pools: Any,
    kubectl: Any,
    gateways: Callable[[], list[dict[str, Any]]],
    eventually: Any,
    one_pod: dict[str, Any],
) -> None:
    function = new_function(CODE, scaling=one_pod)
    pools.wait_until_cold(function)
    with _operator_away(kubectl):
        answer = await function.invoke()
        assert pools.cold_start(answer)[0] == "pool", "pools need no operator for a cold start"
        _kill(kubectl, gateways())
    back = time.monotonic()
    eventually(lambda: pools.has_its_place(function, answer.json()["pod"]), timeout=30)
    assert time.monotonic() - back < 30
    kubectl("rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM)
    assert (await function.invoke()).status == 200


def _kill(kubectl: Any, pods: list[dict[str, Any]]) -> None:
    given = [pod["metadata"]["name"] for pod in pods]
    kubectl("delete", "pods", *given, "--grace-period=0", "--force", namespace=SYSTEM)


@contextmanager
def _operator_away(kubectl: Any) -> Iterator[None]:
    kubectl("scale", OPERATOR, "--replicas=0", namespace=SYSTEM)
    try:
        selector = "app.kubernetes.io/name=kappa,app.kubernetes.io/component=operator"
        kubectl("wait", "pods", "-l", selector, "--for=delete", "--timeout=60s", namespace=SYSTEM)
        yield
    finally:
        kubectl("scale", OPERATOR, "--replicas=1", namespace=SYSTEM)
        kubectl("rollout", "status", OPERATOR, "--timeout=60s", namespace=SYSTEM)
