"""Asynchronous invocations while NATS and gateways stop or are upgraded: no event that was answered 202 is lost, and
none runs twice without need.

The release is installed with short delays (`IMPATIENT` in the conftest above).
"""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.alone]

SYSTEM = "kappa-system"
NATS = "statefulset/kappa-nats"
GATEWAY_PODS = ("-l", "app.kubernetes.io/name=kappa,app.kubernetes.io/component=gateway")

COUNTING = """
import time
runs = {}
def handler(event, context):
    runs[event["name"]] = runs.get(event["name"], 0) + 1
    time.sleep(event.get("sleep", 0))
    return runs[event["name"]]
"""


async def test_events_wait_while_nats_is_away_and_other_invocations_go_on(
    new_function: Callable[..., Any], kubectl: Kubectl
) -> None:
    function = new_function(COUNTING, scaling={"maxReplicas": 2, "keepWarm": "1m"})
    ids = [await function.submit({"name": str(number), "sleep": 0.5}) for number in range(12)]
    await asyncio.to_thread(kubectl, "scale", NATS, "--replicas=0", namespace=SYSTEM)
    try:
        await asyncio.to_thread(kubectl, "wait", "pod/kappa-nats-0", "--for=delete", "--timeout=60s", namespace=SYSTEM)

        async def refused() -> Any:
            answer = await function.try_to_submit({"name": "late"})
            assert answer.status == 503, f"{answer.status} {answer.body!r}"
            return answer

        answer = await eventually(refused, within=20)
        assert answer.headers["x-amzn-errortype"] == "ServiceUnavailableException"
        assert "the queue of asynchronous invocations" in answer.json()["Message"]
        assert (await function.invoke({"name": "sync"})).json() == 1
    finally:
        await asyncio.to_thread(kubectl, "scale", NATS, "--replicas=1", namespace=SYSTEM)
    ids.append(await function.submit({"name": "after"}, timeout=60))
    events = await asyncio.gather(*(function.ended(request_id) for request_id in ids))
    assert [(event["status"], event["result"]) for event in events] == [("succeeded", 1)] * 13


async def test_events_outlive_the_sudden_death_of_nats(new_function: Callable[..., Any], kubectl: Kubectl) -> None:
    function = new_function(COUNTING, scaling={"maxReplicas": 1, "keepWarm": "1m"})
    ids = [await function.submit({"name": str(number), "sleep": 0.3}) for number in range(20)]
    await asyncio.to_thread(kubectl, "delete", "pod", "kappa-nats-0", "--grace-period=0", "--force", namespace=SYSTEM)
    events = await asyncio.gather(*(function.ended(request_id) for request_id in ids))
    assert [(event["status"], event["result"]) for event in events] == [("succeeded", 1)] * 20


async def test_killed_gateways_neither_lose_a_running_event_nor_run_it_twice(
    new_function: Callable[..., Any], kubectl: Kubectl
) -> None:
    function = new_function(COUNTING, scaling={"maxReplicas": 1, "keepWarm": "2m"})
    assert (await function.invoke({"name": "warm"})).status == 200
    request_id = await function.submit({"name": "slow", "sleep": 8})
    waiting = await function.submit({"name": "waiting"})
    await _status(function, request_id, "running")
    # all of them, as any may hold the event
    await asyncio.to_thread(kubectl, "delete", "pods", *GATEWAY_PODS, "--grace-period=0", "--force", namespace=SYSTEM)
    await asyncio.to_thread(kubectl, "rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM)
    events = await asyncio.gather(function.ended(request_id), function.ended(waiting))
    assert [(event["status"], event["result"]) for event in events] == [("succeeded", 1)] * 2
    runs = {name: (await function.invoke({"name": name})).json() - 1 for name in ("slow", "waiting")}
    assert runs == {"slow": 1, "waiting": 1}


async def test_an_upgrade_keeps_events_and_keys(
    new_function: Callable[..., Any], release: Any, kubectl: Kubectl
) -> None:
    def secrets() -> list[Any]:
        names = ("kappa-nats", "kappa-signing", "kappa-pools")
        return [kubectl.get("secrets", name, namespace=SYSTEM)["data"] for name in names]

    function = new_function(COUNTING, scaling={"maxReplicas": 1, "keepWarm": "2m"})
    ids = [await function.submit({"name": str(number), "sleep": 0.5}) for number in range(30)]
    before = secrets()
    roll = "gateway.podAnnotations.roll=async,queue.nats.podAnnotations.roll=async"
    await asyncio.to_thread(release.install, f"--set-string={roll}")
    events = await asyncio.gather(*(function.ended(request_id) for request_id in ids))
    assert [(event["status"], event["result"]) for event in events] == [("succeeded", 1)] * 30
    assert secrets() == before


async def _status(function: Any, request_id: str, status: str) -> None:
    async def reached() -> bool:
        event = await function.event(request_id)
        assert event["status"] == status, event
        return True

    await eventually(reached, every=0.1)
