"""`helm upgrade` brings the new CRD and loses no request; `helm uninstall` leaves the users' Functions alone."""

import asyncio
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually_sync

pytestmark = [pytest.mark.cluster, pytest.mark.alone("cluster")]

SYSTEM = "kappa-system"
CRD = "functions.kappa.run"


def has_field(kubectl: Kubectl, field: str) -> bool:
    return (
        field
        in kubectl.get("customresourcedefinitions", CRD)["spec"]["versions"][0]["schema"]["openAPIV3Schema"][
            "properties"
        ]["spec"]["properties"]
    )


async def test_an_upgrade_brings_the_new_crd_and_loses_no_request(
    new_function: Callable[..., Any],
    release: Any,
    kubectl: Kubectl,
    load: Any,
    gateways: Callable[[], list[dict[str, Any]]],
) -> None:
    # an older release: one without spec.podTemplate
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties/podTemplate"
    patch = json.dumps([{"op": "remove", "path": path}])
    kubectl("patch", "crd", CRD, "--type=json", "--patch", patch)
    assert not has_field(kubectl, "podTemplate")
    function = new_function(scaling={"maxReplicas": 2, "keepWarm": "1m"})
    assert (await function.invoke()).status == 200
    old = [f"pod/{pod['metadata']['name']}" for pod in gateways()]
    async with load(function, callers=3) as seen:
        roll = "--set-string=operator.podAnnotations.roll={0},gateway.podAnnotations.roll={0}"
        await asyncio.to_thread(release.install, roll.format("again"))
        await asyncio.to_thread(kubectl, "wait", *old, "--for=delete", "--timeout=90s", namespace=SYSTEM)
    seen.assert_all_good()
    assert has_field(kubectl, "podTemplate")
    assert (await function.invoke()).status == 200


async def test_uninstalling_leaves_functions_and_pods_and_installing_picks_them_up(
    new_function: Callable[..., Any], release: Any, kubectl: Kubectl, find_gateway: Callable[[], str]
) -> None:
    kept = new_function(scaling={"keepWarm": "5s"})
    deleted = new_function(scaling={"keepWarm": "1m"})
    assert [(await each.invoke()).status for each in (kept, deleted)] == [200, 200]
    event = await kept.ended(await kept.submit())
    try:
        release.uninstall()
        part = ("-o", "name", "-l", "app.kubernetes.io/part-of=kappa")
        # gateways finish what they have before they go
        eventually_sync(
            lambda: not kubectl("get", "all,configmap,pdb", *part, namespace=SYSTEM).strip(), within=90, every=0.5
        )
        assert not kubectl("get", "clusterrole,clusterrolebinding", *part).strip()
        # scaling down needs an operator that is there: both still run
        assert kept.get()["spec"]["handler"] == "main.handler"
        assert kept.pods()
        assert deleted.pods()
        kubectl("delete", "functions.kappa.run", deleted.name, "--timeout=20s", namespace=deleted.namespace)
        eventually_sync(lambda: not deleted.pods(), within=60)
    finally:
        release.install()
    eventually_sync(lambda: kept.wanted_replicas() == 0 and not kept.pods(), within=60)
    again = dataclasses.replace(kept, gateway=find_gateway())
    assert (await again.invoke()).status == 200
    # the queue's volume stayed too
    assert await again.ended(event["requestId"], timeout=20) == event
