"""The generated CRD in a real API server: what it takes and refuses, what kubectl shows of it.

The CRD is installed under a group of the test's own, so that Kappa, if it is installed, is left alone.
"""

import copy
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import function_constraints
import pytest
import yaml
from function_constraints import Case, Manifest
from kubectl import Kubectl
from kubernetes import client, config
from pydantic import ValidationError
from waiting import eventually_sync

from kappa_core.crd import crd
from kappa_core.function import Function

pytestmark = pytest.mark.cluster

CASES = function_constraints.cases()


@dataclass(frozen=True)
class Api:
    """Functions of the copied CRD in one namespace; nothing is stored, except by `store`."""

    group: str
    namespace: str
    objects: client.CustomObjectsApi

    def dry_run(self, manifest: Manifest) -> str | None:
        """None where the API server takes the manifest, else its message."""
        body = {**manifest, "apiVersion": f"{self.group}/v1alpha1"}
        try:
            if "status" in manifest:
                self._replace_status(body)
            else:
                self.objects.create_namespaced_custom_object(
                    self.group, "v1alpha1", self.namespace, "functions", body, dry_run="All", field_validation="Strict"
                )
        except client.ApiException as refused:
            if refused.status not in (400, 422):
                raise
            message: str = json.loads(refused.body)["message"]
            return message
        return None

    def store(self, manifest: Manifest) -> Manifest:
        body = {**manifest, "apiVersion": f"{self.group}/v1alpha1"}
        stored: Manifest = self.objects.create_namespaced_custom_object(
            self.group, "v1alpha1", self.namespace, "functions", body
        )
        return stored

    def _replace_status(self, body: Manifest) -> None:
        stored = self.objects.get_namespaced_custom_object(
            self.group, "v1alpha1", self.namespace, "functions", "stored"
        )
        self.objects.replace_namespaced_custom_object_status(
            self.group,
            "v1alpha1",
            self.namespace,
            "functions",
            "stored",
            {**stored, "status": body["status"]},
            dry_run="All",
            field_validation="Strict",
        )


@pytest.fixture(scope="module")
def api(kubeconfig: str, kubectl: Kubectl, make_namespace: Callable[[], str]) -> Iterator[Api]:
    group = f"crd-{secrets.token_hex(4)}.kappa.test"
    copied = copy.deepcopy(crd())
    copied["metadata"]["name"] = f"functions.{group}"
    copied["spec"]["group"] = group
    namespace = make_namespace()
    kubectl("apply", "--server-side", "--filename", "-", stdin=yaml.safe_dump(copied))
    try:
        kubectl("wait", "--for=condition=Established", f"crd/functions.{group}", "--timeout=30s")
        with config.new_client_from_config(kubeconfig) as connection:
            found = Api(group, namespace, client.CustomObjectsApi(connection))
            smallest = function_constraints.smallest()
            eventually_sync(lambda: found.dry_run(smallest) is None or None)
            found.store({**smallest, "metadata": {"name": "stored"}})
            yield found
    finally:
        kubectl("delete", "crd", f"functions.{group}", "--wait=false")


@pytest.mark.parametrize("case", [case for case in CASES if case.accepted], ids=str)
def test_the_api_server_accepts(api: Api, case: Case) -> None:
    assert api.dry_run(case.manifest) is None


@pytest.mark.parametrize("case", [case for case in CASES if not case.accepted], ids=str)
def test_the_api_server_refuses_and_names_the_field(api: Api, case: Case) -> None:
    message = api.dry_run(case.manifest)
    assert message is not None
    assert f"{case.says}: " in message
    if " rule " in case.constraint:
        assert case.constraint.partition("rule ")[2] in message


def test_every_constraint_of_the_schema_is_put_to_the_api_server() -> None:
    version = crd()["spec"]["versions"][0]
    of_schema = set(function_constraints.constraints(version["schema"]["openAPIV3Schema"]))
    tried = {(case.constraint, case.accepted) for case in CASES}
    assert {(constraint, accepted) for constraint in of_schema for accepted in (True, False)} == tried


def test_the_model_and_the_api_server_agree(api: Api) -> None:
    """Each leaf of manifests that use every field, replaced by values of every kind: one verdict on both sides."""
    differing = []
    tried = 0
    for what, manifest in mutations():
        tried += 1
        message = api.dry_run(manifest)
        try:
            Function.model_validate(manifest)
        except ValidationError as error:
            problem: str | None = str(error)
        else:
            problem = None
        if (message is None) != (problem is None):
            differing.append(f"{what}\n  API server: {message}\n  model: {problem}")
    assert tried > 500
    assert not differing, "\n".join(differing)


FULL: list[Manifest] = [
    {
        "runtime": "python3.13",
        "handler": "main.handler",
        "code": {"configMap": {"name": "code"}},
        "env": [
            {"name": "A", "value": "b"},
            {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": True}}},
            {"name": "F", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP", "apiVersion": "v1"}}},
            {"name": "R", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "1m"}}},
        ],
        "envFrom": [{"prefix": "P_", "secretRef": {"name": "s"}}, {"configMapRef": {"name": "c", "optional": False}}],
        "memory": "256Mi",
        "cpu": "250m",
        "timeout": "10s",
        "concurrency": 2,
        "scaling": {"minReplicas": 1, "maxReplicas": 5, "keepWarm": "1m"},
        "async": {
            "maxAttempts": 2,
            "maxAge": "1h",
            "onSuccess": {"function": {"name": "audit"}},
            "onFailure": {"nats": {"subject": "orders.failed"}},
            "deadLetter": {"http": {"url": "https://example.com:8443/hook?team=a"}},
        },
        "serviceAccountName": "reader",
        "podTemplate": {
            "labels": {"team": "a"},
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "runtimeClassName": "gvisor",
        },
    },
    {
        "code": {
            "image": {
                "ref": "hello:1",
                "protocol": "http",
                "port": 80,
                "pullPolicy": "Always",
                "command": ["a"],
                "args": [],
            }
        },
    },
    {
        "runtime": "python3.13",
        "handler": "main.handler",
        "code": {"archive": {"url": "s3://b/k.zip", "sha256": "ab" * 32}},
    },
]
# fmt: off
VALUES: list[Any] = [
    None, "", "x", "7", "1h", "128Mi", "1e3", "1E", "30s\n", "ü", 0, 1, -1, 7, 40_000_000, 2**40, 1.5, True, False,
    [], ["x"], {}, {"a": "b"}, {"a": None}, {"a": 1},
]
# fmt: on


def mutations() -> Iterator[tuple[str, Manifest]]:
    """(what was changed, the manifest): each of FULL with one place replaced, removed, or given an unknown field."""
    for spec in FULL:
        manifest = {"apiVersion": "kappa.run/v1alpha1", "kind": "Function", "metadata": {"name": "case"}, "spec": spec}
        yield "nothing", manifest
        for place in places(spec):
            for value in [*VALUES, "TAKEN AWAY", "GIVEN AN UNKNOWN FIELD"]:
                changed = copy.deepcopy(manifest)
                parent: Any = changed["spec"]
                for step in place[:-1]:
                    parent = parent[step]
                if value == "TAKEN AWAY":
                    del parent[place[-1]]
                elif value != "GIVEN AN UNKNOWN FIELD":
                    parent[place[-1]] = value
                elif isinstance(parent[place[-1]], dict):
                    parent[place[-1]]["unknown"] = "x"
                else:
                    continue
                yield f"{'.'.join(map(str, place))} = {value!r}", changed


def places(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, part in steps:
        yield (*here, step)
        yield from places(part, (*here, step))


def test_the_api_server_fills_in_the_models_defaults(api: Api) -> None:
    stored = api.store({**function_constraints.smallest(), "metadata": {"name": "defaults"}})
    golden = function_constraints.TABLE.parent / "defaulted-spec.yaml"
    assert stored["spec"] == yaml.safe_load(golden.read_text(encoding="utf-8"))
    read = Function.from_cluster({**stored, "apiVersion": "kappa.run/v1alpha1"})
    assert read.spec == Function.model_validate(function_constraints.smallest()).spec


def test_an_unknown_field_is_refused_by_kubectl_and_named(api: Api, kubectl: Kubectl) -> None:
    manifest = function_constraints.smallest()
    manifest["apiVersion"] = f"{api.group}/v1alpha1"
    manifest["spec"]["memroy"] = "1Gi"
    with pytest.raises(AssertionError, match=r'unknown field "spec\.memroy"'):
        kubectl.apply(manifest, namespace=api.namespace)


def test_kubectl_shows_the_columns(api: Api, kubectl: Kubectl) -> None:
    manifest = function_constraints.smallest()
    api.store({**manifest, "metadata": {"name": "shown"}})
    condition = {
        "type": "Ready", "status": "True", "reason": "Deployed",
        "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    status = {
        "conditions": [condition], "replicas": 2, "url": "http://gateway/fn/default/shown",
        "coldStart": {"path": "Pool", "reason": "A cold start claims a warm pod."},
    }  # fmt: skip
    resource = f"functions.{api.group}"
    kubectl(
        "patch", resource, "shown", "--subresource=status", "--type=merge", "--patch", json.dumps({"status": status}),
        namespace=api.namespace,
    )  # fmt: skip
    header, row = kubectl("get", resource, "shown", namespace=api.namespace).splitlines()
    assert header.split() == ["NAME", "RUNTIME", "READY", "REPLICAS", "URL", "AGE"]
    assert row.split()[:-1] == ["shown", "python3.13", "True", "2", "http://gateway/fn/default/shown"]
    header, row = kubectl("get", resource, "shown", "-o", "wide", namespace=api.namespace).splitlines()
    assert header.split()[-2:] == ["REASON", "COLD-START"]
    assert row.split()[-2:] == ["Deployed", "Pool"]


def test_kubectl_get_all_and_the_short_names_find_functions(api: Api, kubectl: Kubectl) -> None:
    served = json.loads(kubectl("get", "--raw", f"/apis/{api.group}/v1alpha1"))["resources"]
    functions = next(resource for resource in served if resource["name"] == "functions")
    assert functions["shortNames"] == ["fn", "fns"]
    assert functions["singularName"] == "function"
    eventually_sync(lambda: f"function.{api.group}/stored" in kubectl("get", "all", namespace=api.namespace), every=0.5)


def test_kubectl_explain_says_what_a_field_does_its_unit_and_its_default(api: Api, kubectl: Kubectl) -> None:
    def explained() -> str:
        text = kubectl("explain", f"functions.{api.group}.spec.scaling.keepWarm".replace(f".{api.group}", ""),
                       f"--api-version={api.group}/v1alpha1")  # fmt: skip
        return " ".join(text.split())

    text = eventually_sync(explained)  # OpenAPI is published a moment after the CRD is served
    assert "FIELD: keepWarm <string>" in text
    assert "How long a pod stays after it was last needed" in text
    assert "as a duration such as 30s, 5m or 1h" in text
    assert "Default: 5m." in text
