"""`kubectl describe function` shows within seconds what is wrong with a Function, and correcting the cause is
enough."""

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually, eventually_sync

pytestmark = pytest.mark.cluster

GOOD = "def handler(event, context): return 'corrected'"
SECONDS = 20


async def check_broken_then_corrected(
    function: Any, reason: str, says: list[str], corrected: Mapping[str, Any], status: int
) -> None:
    def is_reported() -> bool:
        condition = function.condition()
        assert (condition["status"], condition["reason"]) == ("False", reason), condition
        text = function.describe()
        missing = [part for part in says if part not in text]
        assert not missing, f"describe does not say {missing}:\n{text}"
        events = text[text.index("\nEvents:") :]
        assert reason in events, f"no Event says {reason}:\n{text}"
        return True

    eventually_sync(is_reported, within=SECONDS)
    answer = await function.invoke(timeout=20)
    assert answer.status == status, answer
    if status == 502:
        assert any(part in answer.body.decode() for part in says), answer
    else:
        assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
    function.apply(**corrected)

    async def answers() -> bool:
        # until the gateway has heard of the new spec, the old one's error is the answer
        answer = await function.invoke(timeout=30)
        return (answer.status, answer.body) == (200, b'"corrected"')

    await eventually(answers, within=SECONDS)
    eventually_sync(lambda: function.condition()["status"] == "True", within=SECONDS)


async def test_an_unknown_runtime(new_function: Callable[..., Any]) -> None:
    function = new_function(GOOD, runtime="cobol85")
    await check_broken_then_corrected(
        function, "UnknownRuntime", ["cobol85", "python3.13"], {"runtime": "python3.13"}, 502
    )


async def test_a_missing_configmap(new_function: Callable[..., Any], kubectl: Kubectl) -> None:
    name = f"late-{secrets.token_hex(3)}"
    function = new_function({"configMap": {"name": name}})

    def is_reported() -> bool:
        text = function.describe()
        return "ConfigMapNotFound" in text and name in text

    eventually_sync(is_reported, within=SECONDS)
    answer = await function.invoke(timeout=20)
    assert answer.status == 502
    assert name in answer.json()["Message"]
    # nobody touches the Function: the ConfigMap coming is enough
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}
    kubectl.apply({**manifest, "data": {"main.py": GOOD}}, namespace=function.namespace)
    eventually_sync(lambda: function.condition()["status"] == "True", within=SECONDS)
    assert (await function.invoke()).json() == "corrected"
    # and it may go again: pods that run keep it, new ones wait for it
    kubectl("delete", "configmap", name, namespace=function.namespace)
    eventually_sync(lambda: function.condition()["reason"] == "ConfigMapNotFound", within=SECONDS)


async def test_an_image_that_cannot_be_pulled(new_function: Callable[..., Any]) -> None:
    function = new_function(apply=False)
    function.apply(code={"image": {"ref": "example.invalid/no/such:1"}}, runtime=None, handler=None)
    await check_broken_then_corrected(
        function, "ImagePullFailed", ["example.invalid/no/such:1"], {"code": {"inline": GOOD}}, 502
    )


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nothing_like_this\ndef handler(event, context): return 1", ["nothing_like_this"]),
        ("def handler(event, context)\n    return 1", ["SyntaxError"]),
        ("def other(event, context): return 1", ["handler"]),
        ("import sys\nsys.exit(3)", ["exit"]),
    ],
    ids=["import error", "syntax error", "no such handler", "exit at import"],
)
async def test_a_handler_that_does_not_load(new_function: Callable[..., Any], code: str, says: list[str]) -> None:
    function = new_function(code)
    await check_broken_then_corrected(function, "InitFailed", says, {"code": {"inline": GOOD}}, 200)


async def test_a_secret_that_is_not_there(new_function: Callable[..., Any], kubectl: Kubectl) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "token"}}}]
    function = new_function(GOOD, env=env)
    await check_broken_then_corrected(function, "ConfigMissing", ["no-such-secret"], {"env": []}, 502)


async def test_a_pod_that_the_namespace_refuses(new_function: Callable[..., Any]) -> None:
    template = {"securityContext": {"seccompProfile": {"type": "Unconfined"}}}
    function = new_function(GOOD, podTemplate=template)
    await check_broken_then_corrected(function, "PodRejected", ["PodSecurity"], {"podTemplate": {}}, 502)


async def test_new_code_that_does_not_load_leaves_the_old_pods_serving(new_function: Callable[..., Any]) -> None:
    function = new_function(GOOD, scaling={"keepWarm": "1m"})
    assert (await function.invoke()).json() == "corrected"
    function.apply(code={"inline": "import nothing_like_this"})
    eventually_sync(lambda: function.condition()["reason"] == "InitFailed", within=SECONDS)
    answer = await function.invoke()
    assert (answer.status, answer.body) == (200, b'"corrected"')
