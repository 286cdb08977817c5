"""What the chaos in a cluster is made of: the collector, the functions, and ways to kill pods."""

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chaos import GATEWAY, OPERATOR, POD, QUEUE, Kill, PlannedKill
from kubectl import Kubectl

SYSTEM = "kappa-system"
SUPPORT = Path(__file__).resolve().parents[2] / "support"
REGISTRY = os.environ.get("KAPPA_TEST_REGISTRY", "kappa")
TAG = os.environ.get("KAPPA_TEST_TAG", "dev")
PYTHON = "/opt/kappa/bin/python"
IMAGE = f"{REGISTRY}/gateway:{TAG}"
"""An image with Python that every cluster under test has."""
COLLECTOR = "collector"
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def collector() -> list[dict[str, Any]]:
    """Manifests of the server to which functions report their runs."""
    labels = {"app": COLLECTOR}
    container = {
        "name": COLLECTOR,
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": [PYTHON, "/code/chaos_collector.py", "8080"],
        "securityContext": dict(RESTRICTED),
        "readinessProbe": {"httpGet": {"path": "/runs", "port": 8080}, "periodSeconds": 1},
        "volumeMounts": [{"name": "code", "mountPath": "/code"}],
    }
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": COLLECTOR},
            "data": {"chaos_collector.py": (SUPPORT / "chaos_collector.py").read_text()},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": COLLECTOR},
            "spec": {"selector": labels, "ports": [{"port": 8080}]},
        },
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": COLLECTOR},
            "spec": {
                "selector": {"matchLabels": labels},
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "containers": [container],
                        "volumes": [{"name": "code", "configMap": {"name": COLLECTOR}}],
                        "automountServiceAccountToken": False,
                    },
                },
            },
        },
    ]


def function(name: str, namespace: str, *, work: float, max_attempts: int, **spec: Any) -> dict[str, Any]:
    """A Function that reports its runs to the collector. Each run takes `work` seconds. A Function named web is a web
    server."""
    source = (SUPPORT / "chaos_function.py").read_text()
    env = {"COLLECTOR": f"{COLLECTOR}.{namespace}.svc:8080", "WORK": str(work)}
    if name == "web":
        image = {"ref": IMAGE, "protocol": "http", "pullPolicy": "IfNotPresent", "command": [PYTHON, "-c", source]}
        what: dict[str, Any] = {"code": {"image": image}}
    else:
        what = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": source}}
    return {
        "apiVersion": "kappa.run/v1alpha1",
        "kind": "Function",
        "metadata": {"name": name},
        "spec": {
            **what,
            "env": [{"name": key, "value": value} for key, value in env.items()],
            "async": {"maxAttempts": max_attempts},
            "timeout": "60s",
            **spec,
        },
    }


@dataclass(frozen=True)
class Killer:
    """Kills pods, each in one of two ways: its deletion by force, or SIGKILL for its first process where this machine
    is the node, so that the kubelet restarts the container in place."""

    kubectl: Kubectl
    namespace: str
    """Where the functions are."""

    def __call__(self, planned: PlannedKill) -> Kill | None:
        """None where nothing of that kind lives."""
        namespace, selector = self._where(planned.what)
        pods = {
            pod["metadata"]["name"]: pod["metadata"]["uid"]
            for pod in self.kubectl.items("pods", selector, namespace=namespace)
            if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") == "Running"
        }
        name = planned.among(list(pods))
        if name is None:
            return None
        ends = frozenset({name}) if planned.what == POD else frozenset()
        first = first_processes(pods[name]) if planned.hard else []
        at = time.time()
        if first:
            for pid in first:
                os.kill(pid, signal.SIGKILL)
            return Kill(at, planned.what, name, ends)
        command = ("delete", "pod", name, "--grace-period=0", "--force", "--wait=false", "--ignore-not-found")
        self.kubectl(*command, namespace=namespace)
        # The kubelet lets a pod finish that is gone from the API.
        return Kill(at, planned.what, name, ends, linger=90.0)

    def _where(self, what: str) -> tuple[str, str]:
        if what == POD:
            return self.namespace, "kappa.run/function"
        component = {GATEWAY: "gateway", OPERATOR: "operator", QUEUE: "nats"}[what]
        return SYSTEM, f"app.kubernetes.io/name=kappa,app.kubernetes.io/component={component}"


def first_processes(pod_uid: str) -> list[int]:
    """Process 1 of each container of a pod, where they are processes of this machine that may be killed."""
    found = []
    names = (f"pod{pod_uid}", f"pod{pod_uid.replace('-', '_')}")
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            cgroups, status = (folder / "cgroup").read_text(), (folder / "status").read_text()
        except OSError:
            continue
        if not any(name in cgroups for name in names):
            continue
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        if fields["Name"] != "pause" and fields.get("NSpid", "").split()[-1:] == ["1"]:
            found.append(int(folder.name))
    return found if os.geteuid() == 0 else []


@pytest.fixture
def killer(kubectl: Kubectl, namespace: str) -> Callable[[PlannedKill], Kill | None]:
    return Killer(kubectl, namespace)


@pytest.fixture
def functions(kubectl: Kubectl, namespace: str) -> Callable[..., None]:
    """Applies the collector and the given functions: name → arguments of `function`."""

    def apply(max_attempts: int, **wanted: Mapping[str, Any]) -> None:
        kubectl.apply(*collector(), namespace=namespace)
        kubectl("rollout", "status", f"deployment/{COLLECTOR}", "--timeout=60s", namespace=namespace)
        kubectl.apply(
            *(function(name, namespace, max_attempts=max_attempts, **more) for name, more in wanted.items()),
            namespace=namespace,
        )

    return apply


@pytest.fixture
def collected(kubectl: Kubectl, namespace: str) -> Callable[[], str]:
    """The collector's list of runs, read through the API server's proxy, as this machine may not reach the
    collector."""
    path = f"/api/v1/namespaces/{namespace}/services/{COLLECTOR}:8080/proxy/runs"
    return lambda: str(kubectl("get", "--raw", path))
