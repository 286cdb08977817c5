"""The gateway's Kubernetes backend against a real API server, kubelet and garbage collector."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from kubectl import Kubectl
from waiting import eventually as until

from kappa_core import names
from kappa_core.function import Function
from kappa_gateway.cluster import KubernetesBackend
from kappa_gateway.pods.platform import Peer, Pod, PoolPod
from kappa_kube.client import Client
from kappa_kube.connection import Connection

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
REGISTRY, TAG = os.environ.get("KAPPA_TEST_REGISTRY", "kappa"), os.environ.get("KAPPA_TEST_TAG", "dev")
IMAGE = f"{REGISTRY}/runtime-python:{TAG}"


class Sink:
    def __init__(self) -> None:
        self.functions: dict[str, Function] = {}
        self.pods: dict[str, Pod] = {}
        self.seen: list[Pod] = []
        self.lists = 0

    def replace_functions(self, functions: Iterable[Function]) -> None:
        self.functions = {function.metadata.name: function for function in functions}
        self.lists += 1

    def put_function(self, function: Function) -> None:
        self.functions[function.metadata.name] = function

    def remove_function(self, namespace: str, name: str) -> None:
        self.functions.pop(name, None)

    def replace_pods(self, pods: Iterable[Pod]) -> None:
        self.pods = {pod.name: pod for pod in pods}
        self.lists += 1

    def put_pod(self, pod: Pod) -> None:
        self.pods[pod.name] = pod
        self.seen.append(pod)

    def remove_pod(self, namespace: str, name: str) -> None:
        self.pods.pop(name, None)

    def replace_pool_pods(self, pods: Iterable[PoolPod]) -> None:
        assert not list(pods)

    def put_pool_pod(self, pod: PoolPod) -> None:
        raise AssertionError("pools are off")

    def remove_pool_pod(self, namespace: str, name: str) -> None:
        raise AssertionError("pools are off")

    def replace_peers(self, peers: Iterable[Peer]) -> None:
        raise AssertionError("it is alone")


@pytest.fixture(scope="module")
def crd(kubectl: Kubectl) -> None:
    if names.CRD_NAME not in kubectl("get", "crd", "--output=name"):
        kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        kubectl("wait", "--for=condition=Established", f"crd/{names.CRD_NAME}", "--timeout=30s")


@pytest.fixture
async def follow(crd: None, kubeconfig: str) -> AsyncIterator[Callable[..., Any]]:
    tasks = []

    async def start(*namespaces: str) -> Sink:
        sink = Sink()
        tasks.append(asyncio.create_task(KubernetesBackend(namespaces, kubeconfig=kubeconfig).run(sink)))
        await until(lambda: sink.lists == 2, "the first lists")
        return sink

    yield start
    for task in tasks:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def function(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        # no operator is called that, so an installed one leaves it alone
        "metadata": {"name": name, "labels": {"kappa.run/operator": "nobody"}},
        "spec": {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x"}, **spec},
    }


def pod(name: str) -> dict[str, Any]:
    container = {
        "name": "function",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-m", "http.server", "8080"],
        "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": {names.LABEL_FUNCTION: "hello"},
            "annotations": {names.ANNOTATION_CONCURRENCY: "3"},
        },
        "spec": {
            "automountServiceAccountToken": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 1000,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
        },
    }


async def test_functions_come_change_and_go(kubectl: Kubectl, namespace: str, follow: Any) -> None:
    await asyncio.to_thread(kubectl.apply, function("early", timeout="3s"), namespace=namespace)
    sink = await follow(namespace)
    assert sink.functions["early"].spec.timeout == "3s"
    await asyncio.to_thread(kubectl.apply, function("early", timeout="4s"), function("late"), namespace=namespace)
    await until(lambda: "late" in sink.functions and sink.functions["early"].spec.timeout == "4s", "the changes")
    assert sink.functions["early"].metadata.generation == 2
    assert sink.functions["early"].metadata.namespace == namespace
    await asyncio.to_thread(kubectl, "delete", "functions.kappa.run", "early", namespace=namespace)
    await until(lambda: set(sink.functions) == {"late"}, "the delete")


async def test_a_pod_from_its_creation_to_its_end(kubectl: Kubectl, namespace: str, follow: Any) -> None:
    sink = await follow(namespace)
    before = time.time()
    await asyncio.to_thread(kubectl.apply, pod("p"), namespace=namespace)
    await until(lambda: "p" in sink.pods and "ready" in sink.pods["p"].phases, "the pod, ready", within=60)
    ready = sink.pods["p"]
    assert sink.seen[0].host is None, "it was reported before it had an address"
    assert (ready.function, ready.concurrency, ready.port, ready.protocol) == ("hello", 3, 8080, "lambda")
    _, writer = await asyncio.open_connection(ready.host, ready.port)
    writer.close()
    phases = ready.phases
    order = [phases[phase] for phase in ("created", "scheduled", "started", "ready")]
    assert order == sorted(order)
    assert before - 1 <= phases["created"] <= phases["ready"] <= time.time() + 1
    assert any(at % 1 for at in order), "better than Kubernetes' whole seconds"
    await asyncio.to_thread(kubectl, "delete", "pod", "p", "--wait=false", namespace=namespace)
    await until(lambda: "p" not in sink.pods or sink.pods["p"].terminating, "that it terminates")
    await until(lambda: "p" not in sink.pods, "its end", within=60)
    assert any(seen.terminating for seen in sink.seen)


async def test_the_whole_cluster_and_a_list_of_namespaces(
    kubectl: Kubectl, make_namespace: Callable[[], str], follow: Any
) -> None:
    first, second, other = make_namespace(), make_namespace(), make_namespace()
    for namespace in (first, second, other):
        await asyncio.to_thread(kubectl.apply, function(f"in-{namespace}"), namespace=namespace)
    some, everything = await follow(first, second), await follow()
    assert set(some.functions) == {f"in-{first}", f"in-{second}"}
    assert set(everything.functions) >= {f"in-{first}", f"in-{second}", f"in-{other}"}


async def test_a_place_that_is_too_old_is_answered_with_410_as_an_event(crd: None, kubeconfig: str) -> None:
    """What the reflector's new list rests on, and the contract tests' fake imitates.

    The API server knows no Functions from before their CRD came, so version 1 is too old however young the cluster is.
    Of pods it may still know everything.
    """
    async with Connection("kappa-test", kubeconfig=kubeconfig) as connection:
        client = Client(connection, "kappa-test")
        query = {"resourceVersion": "1", "timeoutSeconds": "5"}
        async with aclosing(client.watch("/apis/kappa.run/v1alpha1/functions", query, 10)) as events:
            async for event in events:
                assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
                break
            else:
                pytest.fail("the server sent nothing")
