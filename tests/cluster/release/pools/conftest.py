"""The warm pools of the installed chart, and what tests of them have in common."""

import base64
import json
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from kubectl import Kubectl
from nacl.signing import SigningKey
from waiting import eventually_sync

from kappa_core import names, wire

SYSTEM = "kappa-system"
POOL = "pool-python3-13"


@dataclass(frozen=True)
class Pools:
    """The pool of a namespace, and cold starts from it."""

    kubectl: Kubectl

    def free(self, namespace: str) -> list[dict[str, Any]]:
        """Its pods that are ready and, by their own readiness answer, have no function."""
        pods = self.kubectl.items("pods", f"{names.LABEL_POOL}=python3.13", namespace=namespace)
        return [pod for pod in pods if _is_ready(pod) and _is_nobodys(pod)]

    def wait_for_free(self, namespace: str, count: int = 2) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = eventually_sync(
            lambda: (pods := self.free(namespace))[count - 1 :] and pods, within=60
        )
        return found

    def wanted(self, namespace: str) -> int:
        return int(self.kubectl.get("deployments", POOL, namespace=namespace)["spec"]["replicas"])

    def wait_until_cold(self, function: Any) -> None:
        """Its next invocation can take a pod: its code was tried, it has no pods, and the pool is full."""
        eventually_sync(function.is_verified, within=60)
        assert function.get()["status"]["coldStart"]["path"] == "Pool", function.get()["status"]
        self.wait_for_free(function.namespace)

    def cold_start(self, answer: Any) -> tuple[str, dict[str, float]]:
        """(path, phase → milliseconds); the path is empty for a warm answer."""
        path, *phases = answer.headers.get(wire.COLD_START, "").split(";")
        return path, {name: float(value) for name, _, value in (phase.partition("=") for phase in phases)}

    def is_adopted(self, function: Any, *uids: str) -> bool:
        """Whether its Deployment is complete with pods from the pool alone, resized, and its own ones are gone."""
        pods = self.kubectl.items("pods", f"kappa.run/function={function.name}", namespace=function.namespace)
        assert pods
        for pod in pods:
            metadata = pod["metadata"]
            assert metadata["name"].startswith(f"{POOL}-"), "a twin is there"
            assert names.LABEL_POOL not in metadata["labels"]
            (owner,) = metadata.get("ownerReferences", []) or [{"name": ""}]
            assert owner["name"] == f"fn-{function.name}-{metadata['labels'].get('pod-template-hash')}"
            given = pod["status"]["containerStatuses"][0]["resources"]["limits"]["memory"]
            assert given == function.spec.get("memory", "128Mi")
        deployment = self.kubectl.get("deployments", f"fn-{function.name}", namespace=function.namespace)
        status = deployment["status"]
        assert deployment["spec"]["replicas"] == status["readyReplicas"] == status["replicas"] == len(pods)
        assert not uids or {pod["metadata"]["uid"] for pod in pods} == set(uids)
        return True

    def has_its_place(self, function: Any, name: str) -> bool:
        """Whether that pod is the function's Deployment's, or on its way out; and the Deployment has what it wants."""
        if pod := self.kubectl.find("pods", name, namespace=function.namespace):
            metadata = pod["metadata"]
            owners = [owner["name"] for owner in metadata.get("ownerReferences", [])]
            expected = [f"fn-{function.name}-{metadata['labels'].get('pod-template-hash')}"]
            assert "deletionTimestamp" in metadata or owners == expected, owners
        deployment = self.kubectl.get("deployments", f"fn-{function.name}", namespace=function.namespace)
        wanted = deployment["spec"]["replicas"]
        ready = deployment["status"].get("readyReplicas", 0)
        assert wanted == ready == len(function.pods()), deployment["status"]
        return True


@pytest.fixture
def pools(kubectl: Kubectl) -> Pools:
    return Pools(kubectl)


@pytest.fixture
def one_pod() -> dict[str, Any]:
    """A `scaling` with which a Function takes one pod and keeps it. With `maxReplicas: 1`, a pod that the Deployment
    has begun would leave no room for a claim."""
    return {"maxReplicas": 4, "keepWarm": "2m"}


@pytest.fixture
def pool_key(kubectl: Kubectl) -> Callable[[], SigningKey]:
    """The gateways' key, from the Secret that the chart made, as it is now."""

    def read() -> SigningKey:
        secret = kubectl.get("secrets", "kappa-pools", namespace=SYSTEM)
        return SigningKey(base64.b64decode(base64.b64decode(secret["data"]["private-key"])))

    return read


def _is_ready(pod: dict[str, Any]) -> bool:
    conditions = {each["type"]: each["status"] for each in pod["status"].get("conditions", [])}
    return conditions.get("Ready") == "True" and "deletionTimestamp" not in pod["metadata"]


def _is_nobodys(pod: dict[str, Any]) -> bool:
    url = f"http://{pod['status']['podIP']}:8080{wire.READY_PATH}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(json.load(answer)["state"] == wire.POOL)
    except OSError:
        return False
