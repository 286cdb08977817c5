"""Warm pools as the operator keeps them: created, sized, removed; and claimed pods, which their Functions' ReplicaSets
adopt.

The operator is a process beside the cluster, the gateway is this test: it specializes pods and reports its claims.
"""

import base64
import json
import secrets
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubectl import Kubectl
from nacl.signing import SigningKey
from operator_process import Gateway, Operator
from waiting import eventually_sync

from kappa_core import manifests, pool, wire
from kappa_core.function import Function
from kappa_core.manifests import Platform
from kappa_core.specialize import Specialization, encode

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = "functions.kappa.run"
POOL = "pool-python3-13"
CODE = "import time\ndef handler(event, context):\n    time.sleep(event.get('sleep', 0))\n    return {'echo': event}\n"


class Namespace:
    """One namespace, its operator and the gateway that this test is."""

    def __init__(self, kubectl: Kubectl, name: str, start: Callable[..., Operator]) -> None:
        self.kubectl, self.name = kubectl, name
        self.key = SigningKey.generate()
        self.gateway = Gateway()
        self.start_operator = start
        self.pool = f"{POOL}-{name}"
        self.operator = self.start()

    def start(self, **settings: str) -> Operator:
        public_key = base64.b64encode(bytes(self.key.verify_key)).decode()
        pool_settings = {"POOL_SIZE": "2", "POOL_PUBLIC_KEY": public_key, "GATEWAYS": json.dumps([self.gateway.url])}
        self.operator = self.start_operator(self.name, **{**pool_settings, "VERIFY_CONCURRENCY": "0", **settings})
        eventually_sync(lambda: self.operator.said("demand stream connected"))
        return self.operator

    def apply(self, name: str, **spec: Any) -> Function:
        spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": CODE}, **spec}
        metadata = {"name": name, "namespace": self.name, "labels": {"kappa.run/operator": self.name}}
        manifest = {"apiVersion": "kappa.run/v1alpha1", "kind": "Function", "metadata": metadata, "spec": spec}
        self.kubectl.apply(manifest)
        return Function.model_validate({**manifest, "metadata": {"name": name, "namespace": self.name}})

    def delete(self, name: str) -> None:
        self.kubectl("delete", FUNCTIONS, name, namespace=self.name)

    def status(self, name: str) -> dict[str, Any]:
        status: dict[str, Any] = self.kubectl.get("functions", name, namespace=self.name).get("status", {})
        return status

    def deployment(self, name: str) -> dict[str, Any] | None:
        return self.kubectl.find("deployments", name, namespace=self.name)

    def pods(self, selector: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.kubectl.items("pods", selector, namespace=self.name)
        return items

    def free(self) -> list[dict[str, Any]]:
        """The pods of the pool that are ready."""
        return [pod for pod in self.pods("kappa.run/pool=python3.13") if is_ready(pod) and not is_going(pod)]

    def wait_for_free(self, count: int = 2) -> list[dict[str, Any]]:
        return eventually_sync(lambda: (pods := self.free())[count - 1 :] and pods, within=60)  # type: ignore[no-any-return]

    def specialize(self, function: Function, pod: dict[str, Any], event: Any = None, timeout: float = 30) -> Any:
        request_id = f"{secrets.token_hex(4)}-0000-4000-8000-{secrets.token_hex(6)}"
        body = encode(
            Specialization(
                pod_uid=pod["metadata"]["uid"],
                request_id=request_id,
                spec_hash=pool.spec_hash(function),
                issued_at=time.time(),
                config=manifests.agent_config(function, Platform()),
                env=pool.environment(function),
            ),
            code=b"",
            payload=json.dumps(event or {}).encode(),
            sign=lambda message: self.key.sign(message).signature,
        )
        request = urllib.request.Request(
            f"http://{pod['status']['podIP']}:8080{wire.SPECIALIZE_PATH}",
            data=body,
            headers={wire.REQUEST_ID: request_id, wire.DEADLINE_MS: str(int((time.time() + timeout) * 1000))},
        )
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            return json.loads(answer.read())

    def invoke(self, pod: dict[str, Any], event: Any) -> Any:
        url = f"http://{pod['status']['podIP']}:8080{wire.INVOKE_PATH}"
        with urllib.request.urlopen(url, data=json.dumps(event).encode(), timeout=30) as answer:
            return json.loads(answer.read())

    def claim(self, function: Function, *pods: dict[str, Any], in_flight: int = 0) -> None:
        """Report to the operator that these pods were claimed for the function."""
        claims = [
            {
                "namespace": self.name,
                "function": function.metadata.name,
                "pod": pod["metadata"]["name"],
                "pod_uid": pod["metadata"]["uid"],
                "spec_hash": pool.spec_hash(function),
            }
            for pod in pods
        ]
        busy = {pod["metadata"]["name"]: 1 for pod in pods[:in_flight]}
        demand = {"namespace": self.name, "name": function.metadata.name, "in_flight": in_flight, "pods": busy}
        self.gateway.say(*([demand] if in_flight else []), claims=claims)

    def is_adopted(self, name: str, *pods: dict[str, Any]) -> bool:
        """Whether the Function's Deployment is complete with these pods alone, and any other of it on its way out."""
        deployment = self.deployment(f"fn-{name}")
        assert deployment is not None
        status = deployment["status"]
        found = [pod for pod in self.pods(f"kappa.run/function={name}") if not is_going(pod)]
        controlled = [ref["kind"] for pod in found for ref in pod["metadata"].get("ownerReferences", [])]
        assert {pod["metadata"]["name"] for pod in found} == {pod["metadata"]["name"] for pod in pods}
        assert controlled == ["ReplicaSet"] * len(pods)
        assert deployment["spec"]["replicas"] == len(pods)
        assert status.get("readyReplicas") == status.get("replicas") == len(pods)
        return True

    def is_gone(self, pod: dict[str, Any]) -> bool:
        return self.kubectl.find("pods", pod["metadata"]["name"], namespace=self.name) is None


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))


def is_going(pod: dict[str, Any]) -> bool:
    return "deletionTimestamp" in pod["metadata"]


def memory(pod: dict[str, Any]) -> tuple[str, str]:
    """(request, limit) as the kubelet has set them."""
    resources = pod["status"]["containerStatuses"][0].get("resources", {})
    return resources.get("requests", {}).get("memory", ""), resources.get("limits", {}).get("memory", "")


@pytest.fixture(scope="module", autouse=True)
def crd(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", f"crd/{FUNCTIONS}", "--timeout=30s")


@pytest.fixture
def place(namespace: str, kubectl: Kubectl, kubeconfig: str, tmp_path: Path) -> Iterator[Namespace]:
    started: list[Operator] = []

    def start(name: str, **settings: str) -> Operator:
        log = tmp_path / f"operator-{len(started)}"
        process = Operator(name, kubeconfig, log, identity=f"operator-{len(started)}", **settings)
        started.append(process)
        return process

    place = Namespace(kubectl, namespace, start)
    yield place
    place.gateway.close()
    for process in started:
        process.stop()
    if any(line.get("level") == "error" for process in started for line in process.lines()):
        raise AssertionError("the operator logged errors")


def test_a_pool_is_there_while_a_function_uses_it(place: Namespace) -> None:
    place.apply("token", serviceAccountName="default")
    eventually_sync(lambda: place.status("token").get("coldStart"))
    assert "serviceAccountName" in place.status("token")["coldStart"]["reason"]
    assert place.deployment(place.pool) is None

    place.apply("hello")
    place.wait_for_free(2)
    assert place.status("hello")["coldStart"]["path"] == "Pool"
    assert place.deployment("fn-hello")["spec"]["replicas"] == 0  # type: ignore[index]

    # Any change that somebody makes to it is undone.
    place.kubectl("scale", "deployment", place.pool, "--replicas=0", namespace=place.name)
    place.wait_for_free(2)
    place.kubectl("delete", "deployment", place.pool, namespace=place.name)
    place.wait_for_free(2)

    place.operator.stop()
    place.delete("hello")
    place.start()
    eventually_sync(lambda: place.deployment(place.pool) is None, within=40)


def test_pools_that_are_turned_off_go(place: Namespace) -> None:
    place.apply("hello")
    eventually_sync(lambda: place.deployment(place.pool))
    place.operator.stop()
    place.start(POOL_SIZE="0")
    eventually_sync(lambda: place.deployment(place.pool) is None, within=40)
    assert "off" in place.status("hello")["coldStart"]["reason"]


def test_a_claimed_pod_becomes_the_functions_own(place: Namespace) -> None:
    function = place.apply("hello", memory="96Mi", cpu="250m")
    pod, other = place.wait_for_free(2)[:2]
    place.claim(function, pod, in_flight=1)
    assert place.specialize(function, pod, {"a": 1}) == {"echo": {"a": 1}}
    eventually_sync(lambda: place.is_adopted("hello", pod), within=60)
    place.claim(function)
    # The pool is full again, and larger for a while.
    free = place.wait_for_free(3)
    assert other["metadata"]["name"] in {one["metadata"]["name"] for one in free}

    def resized() -> bool:
        (now,) = (one for one in place.pods("kappa.run/function=hello") if not is_going(one))
        assert memory(now) == ("95Mi", "96Mi")
        return bool(now["status"]["containerStatuses"][0]["restartCount"] == 0)

    eventually_sync(resized)
    assert place.invoke(pod, {"b": 2}) == {"echo": {"b": 2}}
    status = eventually_sync(lambda: (s := place.status("hello")).get("readyReplicas") and s)
    conditions = {condition["type"]: condition["status"] for condition in status["conditions"]}
    assert conditions == {"Ready": "True", "CodeAvailable": "True", "Progressing": "False"}

    # From here on it is a pod like any other.
    place.kubectl("rollout", "restart", "deployment", "fn-hello", namespace=place.name)
    place.kubectl("rollout", "status", "deployment", "fn-hello", "--timeout=60s", namespace=place.name)
    eventually_sync(lambda: place.is_gone(pod), within=60)


def test_a_burst_is_adopted_as_a_whole_and_goes_with_the_scale(place: Namespace) -> None:
    function = place.apply("hello", scaling={"maxReplicas": 5, "keepWarm": "3s"})
    place.operator.stop()
    place.start(POOL_SIZE="4")
    pods = place.wait_for_free(4)[:4]
    place.claim(function, *pods, in_flight=4)
    for pod in pods:
        place.specialize(function, pod)
    eventually_sync(lambda: place.is_adopted("hello", *pods), within=90)
    place.gateway.say()
    eventually_sync(lambda: all(place.is_gone(pod) for pod in pods), within=60)
    assert place.deployment("fn-hello")["spec"]["replicas"] == 0  # type: ignore[index]


def test_a_pod_whose_gateway_died_goes_and_its_invocation_ends(place: Namespace) -> None:
    function = place.apply("hello")
    pod = place.wait_for_free(1)[0]
    place.specialize(function, pod)
    began = time.monotonic()
    eventually_sync(lambda: place.is_gone(pod), within=35)
    assert time.monotonic() - began < 30
    assert not place.pods("kappa.run/function=hello")
    place.wait_for_free(2)


def test_a_pod_of_an_earlier_spec_is_not_adopted(place: Namespace) -> None:
    function = place.apply("hello")
    pod = place.wait_for_free(1)[0]
    place.specialize(function, pod)
    place.apply("hello", timeout="7s")
    place.claim(function, pod)
    eventually_sync(lambda: place.is_gone(pod), within=30)
    assert place.operator.said("a pool pod is retired")


def test_a_pod_of_a_deleted_function_goes(place: Namespace) -> None:
    place.apply("other")
    function = place.apply("hello")
    pod = place.wait_for_free(1)[0]
    place.specialize(function, pod)
    place.delete("hello")
    place.claim(function, pod)
    eventually_sync(lambda: place.is_gone(pod), within=30)


def test_no_more_than_max_replicas_are_adopted(place: Namespace) -> None:
    function = place.apply("hello", scaling={"maxReplicas": 1})
    pods = place.wait_for_free(2)[:2]
    place.claim(function, *pods, in_flight=2)
    for pod in pods:
        place.specialize(function, pod)

    def one_is_left() -> bool:
        left = [pod for pod in pods if not place.is_gone(pod)]
        return len(left) == 1 and place.is_adopted("hello", left[0])

    eventually_sync(one_is_left, within=60)


def test_a_pod_that_says_it_is_anothers_is_not_believed(place: Namespace) -> None:
    victim, function = place.apply("victim"), place.apply("hello")
    pod = place.wait_for_free(1)[0]
    place.claim(victim, pod)
    place.specialize(function, pod)
    eventually_sync(lambda: place.is_gone(pod), within=35)
    assert not place.pods("kappa.run/function")


@pytest.mark.parametrize("moment", ["a pool pod is taken over", "scaled", "a pool pod is adopted"])
def test_an_operator_that_is_killed_leaves_its_work_to_the_next(place: Namespace, moment: str) -> None:
    function = place.apply("hello", scaling={"keepWarm": "2s"})
    pod = place.wait_for_free(1)[0]
    place.claim(function, pod, in_flight=1)
    place.specialize(function, pod)
    eventually_sync(lambda: place.operator.said(moment), every=0.002)
    place.operator.stop(signal.SIGKILL)
    # Meanwhile the ReplicaSet's own pod may come up: then both are there until the first one is not needed any more.
    place.start()
    eventually_sync(lambda: place.is_adopted("hello", pod), within=90)


def test_a_crashed_pod_from_a_pool_is_replaced(place: Namespace) -> None:
    body = "    if event:\n        os.kill(1, signal.SIGKILL)\n    return 1\n"
    code = {"inline": f"import os, signal\ndef handler(event, context):\n{body}"}
    function = place.apply("hello", code=code)
    pod = place.wait_for_free(1)[0]
    place.claim(function, pod, in_flight=1)
    place.specialize(function, pod)
    eventually_sync(lambda: place.is_adopted("hello", pod), within=60)
    place.kubectl.exec_last(pod["metadata"]["name"], "/bin/sh", "-c", "kill -TERM 1", namespace=place.name)
    eventually_sync(lambda: place.is_gone(pod), within=60)
    eventually_sync(lambda: [p for p in place.pods("kappa.run/function=hello") if is_ready(p)], within=60)
