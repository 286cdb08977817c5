"""Which connections `networkPolicy.enabled` allows, computed from the rendered policies.

Few test clusters enforce policies.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from kappa_core import adoption, manifests, names
from kappa_core.function import Function
from kappa_core.observed import pod_facts
from kappa_core.pool_manifest import pool_labels

CHART = Path(__file__).parents[3] / "charts" / "kappa"
SYSTEM, TEAM, OTHER = "kappa-system", "team-a", "team-b"


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: Mapping[str, str]


class Policies:
    """Kubernetes' rules: a pod that no policy selects is open; a selected one accepts what a rule of a policy allows.

    Ports are numbers and peers are pods, as in the chart.
    """

    def __init__(self, objects: list[dict[str, Any]]) -> None:
        self.policies = [each for each in objects if each["kind"] == "NetworkPolicy"]

    def let(self, source: Pod, target: Pod, port: int) -> bool:
        return self._passes("Egress", source, target, port) and self._passes("Ingress", target, source, port)

    def _passes(self, direction: str, pod: Pod, peer: Pod, port: int) -> bool:
        rules_key, peers_key = ("egress", "to") if direction == "Egress" else ("ingress", "from")
        own = [
            each["spec"]
            for each in self.policies
            if each["metadata"]["namespace"] == pod.namespace
            and direction in each["spec"]["policyTypes"]
            and selects(each["spec"]["podSelector"], pod.labels)
        ]
        rules = [rule for spec in own for rule in spec.get(rules_key, [])]
        return not own or any(lets(rule, peers_key, port, peer, pod.namespace) for rule in rules)


def lets(rule: Mapping[str, Any], peers_key: str, port: int, peer: Pod, namespace: str) -> bool:
    if "ports" in rule and not any(
        each["port"] == port and each.get("protocol", "TCP") == "TCP" for each in rule["ports"]
    ):
        return False
    return peers_key not in rule or any(is_peer(each, peer, namespace) for each in rule[peers_key])


def is_peer(selector: Mapping[str, Any], peer: Pod, namespace: str) -> bool:
    if "namespaceSelector" in selector:
        if not selects(selector["namespaceSelector"], {"kubernetes.io/metadata.name": peer.namespace}):
            return False
    elif peer.namespace != namespace:
        return False
    return selects(selector.get("podSelector", {}), peer.labels)


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    wanted = selector.get("matchLabels", {})
    if any(labels.get(key) != value for key, value in wanted.items()):
        return False
    for each in selector.get("matchExpressions", []):
        assert each["operator"] == "In"
        if labels.get(each["key"]) not in each["values"]:
            return False
    return True


@pytest.fixture(scope="module")
def render() -> Callable[..., list[dict[str, Any]]]:
    program = shutil.which("helm", path=f"/usr/local/kubebuilder/bin:{os.environ.get('PATH', '')}")
    assert program, "this test needs helm in PATH; leave it out with: pytest -m 'not helm'"

    def render(*values: str) -> list[dict[str, Any]]:
        command = [program, "template", "kappa", str(CHART), "--namespace", SYSTEM]
        for value in ("networkPolicy.enabled=true", f"networkPolicy.functionNamespaces={{{TEAM}}}", *values):
            command += ["--set", value]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return [each for each in yaml.safe_load_all(done.stdout) if each]

    return render


def part(objects: list[dict[str, Any]], kind: str, name: str) -> Pod:
    (found,) = [each for each in objects if each["kind"] == kind and each["metadata"]["name"] == name]
    return Pod(SYSTEM, found["spec"]["template"]["metadata"]["labels"])


def taken_over(pod: Pod) -> Pod:
    """A pool's pod once it is a function's."""
    facts = pod_facts({"metadata": {"namespace": pod.namespace, "name": "p", "uid": "u", "labels": dict(pod.labels)}})
    function = Function.model_validate(
        {
            "metadata": {"name": "hello", "namespace": pod.namespace},
            "spec": {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": "x"}},
        }
    )
    labels = {**pod.labels, **adoption.takeover(facts, function, "r")["metadata"]["labels"]}
    return replace(pod, labels={key: value for key, value in labels.items() if value is not None})


FREE = Pod(TEAM, pool_labels("python3.13"))
OWN = Pod(TEAM, manifests.own_labels("hello"))
"""Of a Function's Deployment."""
STRANGER = Pod(TEAM, {"app": "shop"})


@pytest.mark.helm
def test_pods_of_functions_are_reached_by_kappa_alone_before_and_after_they_leave_a_pool(render: Any) -> None:
    objects = render()
    policies = Policies(objects)
    gateway, operator = (part(objects, "Deployment", f"kappa-{name}") for name in ("gateway", "operator"))
    for pod in (FREE, OWN, taken_over(FREE), replace(FREE, labels=pool_labels("python3.13", "second"))):
        assert policies.let(gateway, pod, names.AGENT_PORT)
        assert policies.let(operator, pod, names.AGENT_PORT)
        assert not policies.let(STRANGER, pod, names.AGENT_PORT)
        assert not policies.let(OWN, pod, names.AGENT_PORT)
    assert policies.let(gateway, taken_over(FREE), 9000), "an image with protocol http listens where it likes"


@pytest.mark.helm
def test_the_gateways_internal_port_is_for_the_operator_other_gateways_and_free_pods(render: Any) -> None:
    objects = render()
    policies = Policies(objects)
    gateway, operator = (part(objects, "Deployment", f"kappa-{name}") for name in ("gateway", "operator"))
    port = names.GATEWAY_INTERNAL_PORT
    assert policies.let(operator, gateway, port)
    assert policies.let(gateway, gateway, port)
    assert policies.let(FREE, gateway, port)
    assert policies.let(replace(FREE, namespace=OTHER), gateway, port)
    # functions' code, which could read there what other Functions there are
    assert not policies.let(OWN, gateway, port)
    assert not policies.let(taken_over(FREE), gateway, port)
    assert not policies.let(STRANGER, gateway, port)
    assert policies.let(STRANGER, gateway, names.GATEWAY_PORT)


@pytest.mark.helm
def test_without_pools_it_is_for_the_operator_alone(render: Any) -> None:
    objects = render("pools.size=0")
    policies = Policies(objects)
    gateway, operator = (part(objects, "Deployment", f"kappa-{name}") for name in ("gateway", "operator"))
    port = names.GATEWAY_INTERNAL_PORT
    assert policies.let(operator, gateway, port)
    assert not any(policies.let(pod, gateway, port) for pod in (gateway, FREE, OWN, STRANGER))


@pytest.mark.helm
def test_the_queue_is_reached_by_gateways_alone(render: Any) -> None:
    objects = render()
    policies = Policies(objects)
    gateway, operator = (part(objects, "Deployment", f"kappa-{name}") for name in ("gateway", "operator"))
    nats = part(objects, "StatefulSet", "kappa-nats")
    assert policies.let(gateway, nats, 4222)
    assert policies.let(nats, nats, 6222)
    assert not any(policies.let(pod, nats, 4222) for pod in (operator, FREE, OWN, STRANGER))
