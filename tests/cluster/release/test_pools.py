"""Cold starts from warm pools, as users see them, and what becomes of the pods."""

import asyncio
import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from nacl.signing import SigningKey

from kappa_core import manifests, names, pool, wire
from kappa_core.function import Function
from kappa_core.manifests import Platform
from kappa_core.specialize import Specialization, encode

pytestmark = pytest.mark.cluster

SYSTEM = "kappa-system"
POOL = "pool-python3-13"
OPERATOR = "deployment/kappa-operator"
CODE = """
import os, time
def handler(event, context):
    time.sleep(event.get("sleep", 0))
    return {"pod": os.uname().nodename, "version": 1}
"""
REQUEST_ID = "8b6c7a34-5f0d-4c53-9d3b-6f5d1c2b3a49"
ONE_POD = {"maxReplicas": 4, "keepWarm": "2m"}
"""One is enough here. `maxReplicas: 1` would leave one of two gateways without a share, and so without the pool."""


@dataclass(frozen=True)
class Pools:
    """The pool of a namespace, and cold starts from it."""

    kubectl: Any
    eventually: Any

    def free(self, namespace: str) -> list[dict[str, Any]]:
        """Its pods that are ready."""
        pods = self.kubectl.items("get", "pods", "-l", f"{names.LABEL_POOL}=python3.13", namespace=namespace)
        return [pod for pod in pods if _is_ready(pod)]

    def wait_for_free(self, namespace: str, count: int = 2) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.eventually(
            lambda: (pods := self.free(namespace))[count - 1 :] and pods, timeout=60
        )
        return found

    def wanted(self, namespace: str) -> int:
        return int(self.kubectl.json("get", "deployment", POOL, namespace=namespace)["spec"]["replicas"])

    def wait_until_cold(self, function: Any) -> None:
        """Its next invocation can take a pod: its code was tried, it has no pods, and the pool is full."""
        self.eventually(function.is_verified, timeout=60)
        assert function.get()["status"]["coldStart"]["path"] == "Pool", function.get()["status"]
        self.wait_for_free(function.namespace)

    def is_adopted(self, function: Any, *uids: str) -> bool:
        """Whether its Deployment is complete with pods from the pool alone, resized, and its own ones are gone."""
        pods = self.kubectl.items(
            "get", "pods", "-l", f"kappa.run/function={function.name}", namespace=function.namespace
        )
        assert pods
        for pod in pods:
            metadata = pod["metadata"]
            assert metadata["name"].startswith(f"{POOL}-"), "a twin is there"
            assert names.LABEL_POOL not in metadata["labels"]
            (owner,) = metadata.get("ownerReferences", []) or [{"name": ""}]
            assert owner["name"] == f"fn-{function.name}-{metadata['labels'].get('pod-template-hash')}"
            given = pod["status"]["containerStatuses"][0]["resources"]["limits"]["memory"]
            assert given == function.spec.get("memory", "128Mi")
        deployment = self.kubectl.json("get", "deployment", f"fn-{function.name}", namespace=function.namespace)
        status = deployment["status"]
        assert deployment["spec"]["replicas"] == status["readyReplicas"] == status["replicas"] == len(pods)
        assert not uids or {pod["metadata"]["uid"] for pod in pods} == set(uids)
        return True


@pytest.fixture
def pools(kubectl: Any, eventually: Any) -> Pools:
    return Pools(kubectl, eventually)


# -- one cold start


async def test_a_cold_call_is_answered_by_a_warm_pod_that_becomes_the_functions_own(
    new_function: Callable[..., Any], pools: Pools, eventually: Any
) -> None:
    function = new_function(CODE, memory="96Mi", scaling=ONE_POD)
    pools.wait_until_cold(function)
    free = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pools.free(function.namespace)}

    answer = await function.invoke(headers={"X-Amz-Log-Type": "Tail"})

    assert answer.status == 200
    path, phases = cold_start(answer)
    assert path == "pool", answer.headers
    assert sum(value for phase, value in phases.items() if phase != "total") == pytest.approx(phases["total"], rel=0.05)
    assert {"verify", "code", "init", "run"} <= phases.keys()
    assert "Init Duration: " in base64.b64decode(answer.headers["X-Amz-Log-Result"]).decode()
    uid = free[answer.json()["pod"]]
    eventually(lambda: pools.is_adopted(function, uid), timeout=30)
    warm = await function.invoke()
    assert warm.json() == answer.json()
    assert wire.COLD_START not in warm.headers
    # the pool has others in its place, for a while one more than before
    assert len(pools.wait_for_free(function.namespace, 3)) == 3
    assert pools.wanted(function.namespace) > 2


async def test_events_start_from_the_pool_too(new_function: Callable[..., Any], pools: Pools, eventually: Any) -> None:
    function = new_function(CODE, scaling=ONE_POD)
    pools.wait_until_cold(function)
    event = await function.ended(await function.submit())
    assert event["status"] == "succeeded"
    assert event["attempts"] == 1
    eventually(lambda: pools.is_adopted(function), timeout=30)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]}, "spec.env A: valueFrom"),
        ({"podTemplate": {"labels": {"team": "a"}}}, "spec.podTemplate.labels"),
        ({"memory": "1Gi"}, "spec.memory 1Gi is above the warm pods' limit of 512Mi"),
    ],
)
async def test_a_function_that_no_warm_pod_can_become_starts_its_own_and_says_why(
    new_function: Callable[..., Any], eventually: Any, spec: dict[str, Any], reason: str
) -> None:
    function = new_function(CODE, scaling=ONE_POD, **spec)
    eventually(function.is_verified, timeout=60)
    said = function.get()["status"]["coldStart"]
    assert said["path"] == "Deployment"
    assert reason in said["reason"]
    assert said["reason"] in function.describe()
    answer = await function.invoke()
    assert cold_start(answer)[0] == "deployment"
    assert answer.json()["pod"].startswith(f"fn-{function.name}-")


async def test_a_function_whose_code_does_not_load_says_so_from_the_pool_too(new_function: Callable[..., Any]) -> None:
    function = new_function("import nothing_like_this\n", scaling=ONE_POD)
    answer = await function.invoke()
    assert answer.headers["X-Amz-Function-Error"] == "Unhandled"
    assert answer.json()["errorType"] == "Runtime.ImportModuleError"


# -- bursts


async def test_a_burst_of_short_calls_starts_few_pods(
    new_function: Callable[..., Any], pools: Pools, eventually: Any
) -> None:
    """Fission specialized 88 pods for one function in fission#3559."""
    function = new_function(CODE, scaling={"maxReplicas": 50, "keepWarm": "2m"})
    pools.wait_until_cold(function)
    answers = await asyncio.gather(*(function.invoke() for _ in range(200)))
    assert {answer.status for answer in answers} == {200}
    used = {answer.json()["pod"] for answer in answers}
    assert len(used) <= 8, f"{len(used)} pods for 200 short calls"
    assert any(name.startswith(POOL) for name in used)
    assert len(function.pods()) <= 8
    eventually(lambda: len(function.pods()) == function.get()["status"]["readyReplicas"], timeout=30)


async def test_a_burst_of_long_calls_takes_several_warm_pods_up_to_the_most(
    new_function: Callable[..., Any], pools: Pools, eventually: Any
) -> None:
    function = new_function(CODE, scaling={"maxReplicas": 4, "keepWarm": "1s"})
    pools.wait_until_cold(function)

    async def burst() -> set[str]:
        answers = await asyncio.gather(*(function.invoke({"sleep": 1}) for _ in range(8)))
        assert {answer.status for answer in answers} == {200}
        return {answer.json()["pod"] for answer in answers}

    # the first time nobody knows how long it takes: one pod at first, then more
    assert len(await burst()) <= 4
    eventually(lambda: function.wanted_replicas() == 0 and not function.pods(), timeout=60)
    pools.wait_for_free(function.namespace)
    used = await burst()
    assert len(used) <= 4
    assert sum(name.startswith(POOL) for name in used) >= 2, used


# -- afterwards they are pods like any other


@pytest.fixture
async def adopted(new_function: Callable[..., Any], pools: Pools, eventually: Any) -> Any:
    """A Function with one pod, from the pool."""
    function = new_function(CODE, scaling=ONE_POD)
    pools.wait_until_cold(function)
    assert cold_start(await function.invoke())[0] == "pool"
    eventually(lambda: pools.is_adopted(function), timeout=30)
    return function


async def test_a_rollout_restart_replaces_it_and_loses_nothing(
    adopted: Any, load: Any, kubectl: Any, eventually: Any
) -> None:
    deployment = f"deployment/fn-{adopted.name}"
    async with load(adopted, callers=2) as seen:
        await asyncio.to_thread(kubectl, "rollout", "restart", deployment, namespace=adopted.namespace)
        await asyncio.to_thread(kubectl, "rollout", "status", deployment, "--timeout=60s", namespace=adopted.namespace)
        await asyncio.to_thread(eventually, lambda: _all_named(adopted, f"fn-{adopted.name}-"), 30)
    seen.assert_all_good()


async def test_a_changed_spec_replaces_it_and_loses_nothing(adopted: Any, load: Any, eventually: Any) -> None:
    async with load(adopted, callers=2) as seen:
        adopted.apply(code={"inline": CODE.replace('"version": 1', '"version": 2')})
        await asyncio.to_thread(eventually, lambda: _all_named(adopted, f"fn-{adopted.name}-"), 60)
        assert (await adopted.invoke()).json()["version"] == 2
    seen.assert_all_good()


async def test_scaling_down_deletes_it(adopted: Any, eventually: Any) -> None:
    adopted.apply(scaling={"maxReplicas": 4, "keepWarm": "1s"})
    eventually(lambda: adopted.wanted_replicas() == 0 and not adopted.pods(), timeout=60)
    assert (await adopted.invoke()).status == 200


async def test_it_is_replaced_when_it_is_killed(adopted: Any, kubectl: Any, eventually: Any) -> None:
    (pod,) = adopted.pods()
    name = pod["metadata"]["name"]
    kubectl("delete", "pod", name, "--grace-period=0", "--force", namespace=adopted.namespace)
    answer = await adopted.invoke()
    assert answer.status == 200
    assert answer.json()["pod"] != name
    eventually(lambda: len(adopted.pods()) == adopted.get()["status"]["readyReplicas"] == 1, timeout=30)


# -- what is left behind


async def test_gateways_that_die_right_after_a_cold_call_leave_nothing(
    new_function: Callable[..., Any],
    pools: Pools,
    kubectl: Any,
    gateways: Callable[[], list[dict[str, Any]]],
    eventually: Any,
) -> None:
    function = new_function(CODE, scaling=ONE_POD)
    pools.wait_until_cold(function)
    answer = await function.invoke()
    _kill(kubectl, gateways())
    assert cold_start(answer)[0] == "pool"
    eventually(lambda: _has_its_place(kubectl, function, answer.json()["pod"]), timeout=30)
    kubectl("rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM)
    assert (await function.invoke()).status == 200


async def test_nothing_is_left_when_the_operator_was_away_and_the_gateways_died_before_it_came_back(
    new_function: Callable[..., Any],
    pools: Pools,
    kubectl: Any,
    gateways: Callable[[], list[dict[str, Any]]],
    eventually: Any,
) -> None:
    function = new_function(CODE, scaling=ONE_POD)
    pools.wait_until_cold(function)
    with _operator_away(kubectl):
        answer = await function.invoke()
        assert cold_start(answer)[0] == "pool", "pools need no operator for a cold start"
        _kill(kubectl, gateways())
    back = time.monotonic()
    eventually(lambda: _has_its_place(kubectl, function, answer.json()["pod"]), timeout=30)
    assert time.monotonic() - back < 30
    kubectl("rollout", "status", "deployment/kappa-gateway", "--timeout=90s", namespace=SYSTEM)
    assert (await function.invoke()).status == 200


async def test_a_pod_that_no_gateway_speaks_for_is_found(
    new_function: Callable[..., Any], pools: Pools, pool_key: SigningKey, kubectl: Any, eventually: Any
) -> None:
    function = new_function(CODE, scaling=ONE_POD)
    pools.wait_until_cold(function)
    pod = pools.free(function.namespace)[0]
    status, _, body = await specialize(pod, specialization(function, pod, pool_key))
    assert status == 200
    assert json.loads(body)["pod"] == pod["metadata"]["name"]
    eventually(lambda: _has_its_place(kubectl, function, pod["metadata"]["name"]), timeout=30)


# -- who may take a pod


async def test_a_pod_takes_only_what_a_gateway_signed_for_it_now(
    new_function: Callable[..., Any], pools: Pools, pool_key: SigningKey
) -> None:
    function = new_function(CODE, scaling=ONE_POD)
    pools.wait_until_cold(function)
    pod, other = pools.free(function.namespace)[:2]
    good = specialization(function, pod, pool_key)
    refused = {
        "not signed by a gateway": (specialization(function, pod, SigningKey.generate()), 403, wire.REFUSED_SIGNATURE),
        "another event": (good[:-1] + b" ", 403, wire.REFUSED_ALTERED),
        "other settings": (good.replace(b'"main.handler"', b'"evil.handler"'), 403, wire.REFUSED_SIGNATURE),
        "another pod's": (specialization(function, other, pool_key), 403, wire.REFUSED_OTHER_POD),
        "of long ago": (specialization(function, pod, pool_key, age=120), 403, wire.REFUSED_STALE),
        "from the future": (specialization(function, pod, pool_key, age=-120), 403, wire.REFUSED_STALE),
    }
    for what, (body, status, reason) in refused.items():
        found, headers, text = await specialize(pod, body)
        assert (found, headers.get(wire.REFUSED)) == (status, reason), f"{what}: {found} {text!r}"
        assert b"Traceback" not in text
    for nonsense in (b"", b"{}", good[:40], b"\xff" * 200):
        found, _, text = await specialize(pod, nonsense)
        assert found in (400, 403), f"{nonsense[:10]!r}: {found} {text!r}"
    # all of that left it free
    status, _, _ = await specialize(pod, good)
    assert status == 200
    found, headers, _ = await specialize(pod, good)
    assert (found, headers.get(wire.REFUSED)) == (409, wire.REFUSED_TAKEN), "the same once more"
    found, headers, _ = await specialize(other, good)
    assert (found, headers.get(wire.REFUSED)) == (403, wire.REFUSED_OTHER_POD), "the same to another pod"


# -- helpers


@pytest.fixture
def pool_key(kubectl: Any) -> SigningKey:
    """The gateways' key, from the Secret that the chart made."""
    secret = kubectl.json("get", "secret", "kappa-pools", namespace=SYSTEM)
    return SigningKey(base64.b64decode(base64.b64decode(secret["data"]["private-key"])))


def cold_start(answer: Any) -> tuple[str, dict[str, float]]:
    """(path, phase → milliseconds); the path is empty for a warm answer."""
    path, *phases = answer.headers.get(wire.COLD_START, "").split(";")
    return path, {name: float(value) for name, _, value in (phase.partition("=") for phase in phases)}


def specialization(function: Any, pod: dict[str, Any], key: SigningKey, *, age: float = 0.0) -> bytes:
    """A gateway's request that makes `pod` the function's."""
    model = Function.model_validate(
        {"metadata": {"name": function.name, "namespace": function.namespace}, "spec": function.get()["spec"]}
    )
    return encode(
        Specialization(
            pod_uid=pod["metadata"]["uid"],
            request_id=REQUEST_ID,
            revision=pool.revision(model),
            issued_at=time.time() - age,
            config=manifests.agent_config(model, Platform()),
            env=pool.environment(model),
        ),
        code=b"",
        event=b"{}",
        sign=lambda message: key.sign(message).signature,
    )


async def specialize(pod: dict[str, Any], body: bytes) -> tuple[int, Any, bytes]:
    """(status, headers, body) of the pod's answer."""
    url = f"http://{pod['status']['podIP']}:8080{wire.SPECIALIZE_PATH}"
    headers = {wire.REQUEST_ID: REQUEST_ID, wire.DEADLINE_MS: str(int((time.time() + 30) * 1000))}
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(30)) as session,
        session.post(url, data=body, headers=headers) as answer,
    ):
        return answer.status, answer.headers.copy(), await answer.read()


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _all_named(function: Any, prefix: str) -> bool:
    """Whether it has pods, and all of them have names that begin so."""
    found = [pod["metadata"]["name"] for pod in function.pods()]
    return bool(found) and all(name.startswith(prefix) for name in found)


def _has_its_place(kubectl: Any, function: Any, name: str) -> bool:
    """Whether that pod is the function's Deployment's, or on its way out; and the Deployment has what it wants."""
    pod = kubectl("get", "pod", name, "--ignore-not-found", "-o", "json", namespace=function.namespace)
    if pod:
        metadata = json.loads(pod)["metadata"]
        owners = [owner["name"] for owner in metadata.get("ownerReferences", [])]
        expected = [f"fn-{function.name}-{metadata['labels'].get('pod-template-hash')}"]
        assert "deletionTimestamp" in metadata or owners == expected, owners
    deployment = kubectl.json("get", "deployment", f"fn-{function.name}", namespace=function.namespace)
    wanted = deployment["spec"]["replicas"]
    ready = deployment["status"].get("readyReplicas", 0)
    assert wanted == ready == len(function.pods()), deployment["status"]
    return True


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
