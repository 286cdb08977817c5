"""New code without a failed request; and what is deleted is gone."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually, eventually_sync

pytestmark = pytest.mark.cluster


def answering(text: str) -> str:
    return f"import time\ndef handler(event, context):\n    time.sleep(0.02)\n    return {text!r}\n"


async def test_new_code_answers_and_no_request_fails(new_function: Callable[..., Any], load: Any) -> None:
    function = new_function(answering("old"), scaling={"maxReplicas": 2, "keepWarm": "20s"})
    assert (await function.invoke()).json() == "old"
    async with load(function, callers=3) as seen:
        await asyncio.to_thread(function.apply, code={"inline": answering("new")})
        await eventually(_has(seen, "new"), within=45)
        # from here on only the new code may answer, once the old pods are gone
        await asyncio.to_thread(eventually_sync, lambda: _revisions(function) == 1, within=60)
        mark = len(seen.answers)
        await eventually(_more_than(seen, mark + 20), within=20)
    seen.assert_all_good()
    assert {answer.json() for answer in seen.answers} == {"old", "new"}
    assert {answer.json() for answer in seen.answers[mark + 3 :]} == {"new"}


async def test_a_changed_configmap_rolls_the_pods(
    new_function: Callable[..., Any], kubectl: Kubectl, home: str, load: Any
) -> None:
    def apply(text: str) -> None:
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "changing"}}
        kubectl.apply({**manifest, "data": {"main.py": answering(text)}}, namespace=home)

    apply("old")
    function = new_function({"configMap": {"name": "changing"}}, scaling={"maxReplicas": 2, "keepWarm": "20s"})
    assert (await function.invoke()).json() == "old"
    async with load(function, callers=2) as seen:
        await asyncio.to_thread(apply, "new")
        await eventually(_has(seen, "new"), within=60)
    seen.assert_all_good()


async def test_a_change_while_at_zero_counts_for_the_next_invocation(new_function: Callable[..., Any]) -> None:
    function = new_function(answering("old"), scaling={"keepWarm": "0s"})
    eventually_sync(function.is_verified, within=30)
    function.apply(code={"inline": answering("new")})
    eventually_sync(lambda: function.condition()["status"] == "True")
    assert (await function.invoke()).json() == "new"


async def test_scaling_settings_roll_no_pod(new_function: Callable[..., Any]) -> None:
    function = new_function(scaling={"keepWarm": "1m"})
    assert (await function.invoke()).status == 200
    (before,) = eventually_sync(function.settled)
    function.apply(scaling={"keepWarm": "2m", "maxReplicas": 3})
    eventually_sync(lambda: function.condition()["status"] == "True")
    assert [pod["metadata"]["uid"] for pod in function.pods()] == [before["metadata"]["uid"]]


async def test_an_edited_or_deleted_deployment_comes_back(new_function: Callable[..., Any], kubectl: Kubectl) -> None:
    function = new_function()
    deployment = f"fn-{function.name}"

    def image() -> str:
        found = kubectl.get("deployments", deployment, namespace=function.namespace)
        return str(found["spec"]["template"]["spec"]["containers"][0]["image"])

    good = eventually_sync(image)
    kubectl(
        "set", "image", f"deployment/{deployment}", "function=example.invalid/other:1", namespace=function.namespace
    )
    eventually_sync(lambda: image() == good)
    kubectl("delete", "deployment", deployment, namespace=function.namespace)
    eventually_sync(lambda: image() == good)
    assert (await function.invoke()).status == 200


async def test_a_function_pod_that_is_killed_is_replaced(new_function: Callable[..., Any], kubectl: Kubectl) -> None:
    function = new_function(answering("done"), scaling={"maxReplicas": 2, "keepWarm": "1m"})
    assert (await function.invoke()).status == 200
    pod = eventually_sync(function.settled)[0]
    kubectl("delete", "pod", pod["metadata"]["name"], "--grace-period=0", "--force", namespace=function.namespace)
    assert (await function.invoke()).status == 200


async def test_nothing_is_left_of_a_deleted_function(
    new_function: Callable[..., Any], kubectl: Kubectl, make_namespace: Callable[[], str]
) -> None:
    namespace = make_namespace()
    kinds = kubectl("api-resources", "--namespaced", "--verbs=list,delete", "-o", "name").split()
    kinds = [kind for kind in kinds if not kind.startswith("events")]

    def everything() -> set[str]:
        return set(kubectl("get", ",".join(kinds), "-o", "name", namespace=namespace).split())

    eventually_sync(lambda: {"configmap/kube-root-ca.crt", "serviceaccount/default"} <= everything())
    before = everything()
    function = new_function(namespace=namespace, scaling={"keepWarm": "1m"})
    assert (await function.invoke()).status == 200
    assert len(everything() - before) >= 4
    function.delete()
    eventually_sync(lambda: everything() == before, within=60, every=0.5)
    answer = await function.invoke(patient=False)
    assert answer.status == 404
    assert function.name in answer.json()["Message"]


def _has(seen: Any, text: str) -> Callable[[], Any]:
    async def check() -> bool:
        return any(answer.json() == text for answer in seen.answers)

    return check


def _more_than(seen: Any, count: int) -> Callable[[], Any]:
    async def check() -> bool:
        return len(seen.answers) > count

    return check


def _revisions(function: Any) -> int:
    found = function.kubectl.items("pods", f"kappa.run/function={function.name}", namespace=function.namespace)
    return len({pod["metadata"]["annotations"]["kappa.run/revision"] for pod in found})
