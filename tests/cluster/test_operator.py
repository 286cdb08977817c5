"""The operator as a process beside a real cluster, in namespaces of its own.

It serves only Functions that name it (the label `kappa.run/operator`), so one that is installed does not mind.
"""

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubectl import Kubectl
from operator_process import RUNTIME, Gateway, Operator
from waiting import eventually_sync

pytestmark = pytest.mark.cluster

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = "functions.kappa.run"
GOOD = "def handler(event, context):\n    return 'ok'\n"


@pytest.fixture(scope="module", autouse=True)
def crd(kubectl: Kubectl) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    kubectl("wait", "--for=condition=Established", f"crd/{FUNCTIONS}", "--timeout=30s")


@pytest.fixture(scope="module")
def shared(make_namespace: Callable[[], str]) -> str:
    """One namespace for the tests that can share one operator: each uses names of its own."""
    return make_namespace()


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def operator(
    shared: str, kubeconfig: str, gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operator]:
    log = tmp_path_factory.mktemp("operator") / "log"
    process = Operator(shared, kubeconfig, log, GATEWAYS=json.dumps([gateway.url]))
    eventually_sync(lambda: process.said("demand stream connected"))
    yield process
    assert process.stop() == 0, log.read_text()


def function(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    if "image" not in spec.get("code", {}):
        spec = {"runtime": "python3.13", "handler": "main.handler", "code": {"inline": GOOD}, **spec}
    return {
        "apiVersion": "kappa.run/v1alpha1",
        "kind": "Function",
        "metadata": {"name": name, "namespace": namespace, "labels": {"kappa.run/operator": namespace}},
        "spec": spec,
    }


class Cluster:
    """What a user sees of one namespace."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self.kubectl, self.namespace = kubectl, namespace

    def apply(self, name: str, **spec: Any) -> None:
        self.kubectl.apply(function(self.namespace, name, **spec))

    def function(self, name: str) -> dict[str, Any]:
        got: dict[str, Any] = self.kubectl.get("functions", name, namespace=self.namespace)
        return got

    def condition(self, name: str, kind: str = "Ready") -> dict[str, Any]:
        conditions = self.function(name).get("status", {}).get("conditions", [])
        return next((c for c in conditions if c["type"] == kind), {})

    def condition_for(self, name: str, reason: str) -> dict[str, Any] | None:
        """The Ready condition, once it has this reason."""
        condition = self.condition(name)
        return condition if condition.get("reason") == reason else None

    def deployment(self, name: str) -> dict[str, Any]:
        got: dict[str, Any] = self.kubectl.get("deployments", f"fn-{name}", namespace=self.namespace)
        return got

    def pods(self, name: str) -> list[dict[str, Any]]:
        got: list[dict[str, Any]] = self.kubectl.items("pods", f"kappa.run/function={name}", namespace=self.namespace)
        return got

    def events(self, name: str) -> list[str]:
        events = self.kubectl.items("events", namespace=self.namespace)
        return [event["reason"] for event in events if event["involvedObject"]["name"] == name]


@pytest.fixture
def cluster(kubectl: Kubectl, shared: str, operator: Operator) -> Cluster:
    return Cluster(kubectl, shared)


def test_a_function_is_ready_its_code_tried_and_the_pod_let_go(cluster: Cluster) -> None:
    cluster.apply("good")
    eventually_sync(lambda: cluster.condition("good").get("status") == "True", within=10)
    eventually_sync(lambda: cluster.condition("good", "CodeAvailable").get("reason") == "CodeLoaded")
    eventually_sync(lambda: cluster.deployment("good")["spec"]["replicas"] == 0)
    eventually_sync(lambda: cluster.function("good")["status"]["replicas"] == 0)
    eventually_sync(lambda: "Deployed" in cluster.events("good"))
    status = cluster.function("good")["status"]
    assert status["observedGeneration"] == 1
    assert status["url"].endswith(f"/fn/{cluster.namespace}/good")
    assert status["coldStart"]["path"] == "Deployment"


def test_it_leaves_no_mark_on_users_objects(cluster: Cluster) -> None:
    cluster.kubectl.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "marks", "namespace": cluster.namespace},
            "data": {"main.py": GOOD},
        }
    )
    cluster.apply("unmarked", code={"configMap": {"name": "marks"}})
    eventually_sync(lambda: cluster.condition("unmarked", "CodeAvailable").get("reason") == "CodeLoaded")
    config_map = cluster.kubectl.get("configmaps", "marks", namespace=cluster.namespace)
    for item in (cluster.function("unmarked"), config_map, cluster.deployment("unmarked")):
        assert "finalizers" not in item["metadata"]
        assert not [key for key in item["metadata"].get("annotations", {}) if "kopf" in key]


IMAGE = {"ref": "localhost:1/no/such:image", "protocol": "http"}
BROKEN: dict[str, tuple[dict[str, Any], str, list[str]]] = {
    "unknown-runtime": ({"runtime": "cobol85"}, "UnknownRuntime", ["'cobol85'", "python3.13"]),
    "no-config-map": ({"code": {"configMap": {"name": "absent"}}}, "ConfigMapNotFound", ["'absent'", "Create it"]),
    "no-image": ({"code": {"image": IMAGE}}, "ImagePullFailed", ["localhost:1/no/such:image", "imagePullSecrets"]),
    "no-module": ({"code": {"inline": "import nonsense\n" + GOOD}}, "InitFailed", ["No module named 'nonsense'"]),
    "no-handler": ({"handler": "main.absent"}, "InitFailed", ["absent"]),
    "bad-syntax": ({"code": {"inline": "def handler(:\n"}}, "InitFailed", ["Syntax"]),
    "no-secret": (
        {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}]},
        "ConfigMissing",
        ['secret "absent" not found'],
    ),
    "no-config-key": (
        {"env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "absent", "key": "k"}}}]},
        "ConfigMissing",
        ["spec.env[0] (A)", "'absent'"],
    ),
    "not-restricted": (
        {"podTemplate": {"containerSecurityContext": {"allowPrivilegeEscalation": True}}},
        "PodRejected",
        ["allowPrivilegeEscalation"],
    ),
    "bad-template": ({"podTemplate": {"tolerations": [{"operator": "Sometimes"}]}}, "InvalidSpec", ["tolerations"]),
    "too-big": ({"memory": "100Ti"}, "Unschedulable", ["Insufficient memory"]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_shows_within_seconds(cluster: Cluster, name: str) -> None:
    spec, reason, words = BROKEN[name]
    cluster.apply(name, **spec)
    condition = eventually_sync(lambda: cluster.condition_for(name, reason))
    assert condition["status"] == "False"
    for word in words:
        assert word in condition["message"]
    eventually_sync(lambda: reason in cluster.events(name))
    cluster.kubectl("delete", FUNCTIONS, name, namespace=cluster.namespace)


def test_a_function_heals_when_what_was_missing_comes(cluster: Cluster) -> None:
    cluster.apply("healing", code={"configMap": {"name": "late"}})
    eventually_sync(lambda: cluster.condition("healing").get("reason") == "ConfigMapNotFound")
    cluster.kubectl("create", "configmap", "late", f"--from-literal=main.py={GOOD}", namespace=cluster.namespace)
    eventually_sync(lambda: cluster.condition("healing").get("status") == "True", within=5)
    eventually_sync(lambda: "Recovered" in cluster.events("healing"))


def test_new_code_in_a_config_map_rolls_the_pods(cluster: Cluster) -> None:
    cluster.kubectl("create", "configmap", "rolling", f"--from-literal=main.py={GOOD}", namespace=cluster.namespace)
    cluster.apply("rolling", code={"configMap": {"name": "rolling"}}, scaling={"minReplicas": 1})
    first = eventually_sync(lambda: {p["metadata"]["uid"] for p in cluster.pods("rolling")})
    patch = json.dumps({"data": {"main.py": GOOD + "# new\n"}})
    cluster.kubectl("patch", "configmap", "rolling", "--type=merge", "-p", patch, namespace=cluster.namespace)
    eventually_sync(
        lambda: (now := {p["metadata"]["uid"] for p in cluster.pods("rolling")}) and not now & first, within=60
    )
    cluster.kubectl("delete", FUNCTIONS, "rolling", namespace=cluster.namespace)


def test_drift_is_corrected(cluster: Cluster) -> None:
    def image(name: str) -> str:
        return str(cluster.deployment(name)["spec"]["template"]["spec"]["containers"][0]["image"])

    cluster.apply("drift")
    eventually_sync(lambda: cluster.condition("drift", "CodeAvailable").get("reason") == "CodeLoaded")
    eventually_sync(lambda: cluster.deployment("drift")["spec"]["replicas"] == 0)
    uid = cluster.deployment("drift")["metadata"]["uid"]
    cluster.kubectl("delete", "deployment", "fn-drift", namespace=cluster.namespace)
    eventually_sync(lambda: cluster.deployment("drift")["metadata"]["uid"] != uid, within=5)
    assert cluster.deployment("drift")["spec"]["replicas"] == 0, "it comes back as it was scaled"
    cluster.kubectl("set", "image", "deployment/fn-drift", "function=evil:1", namespace=cluster.namespace)
    eventually_sync(lambda: image("drift") == RUNTIME, within=5)
    cluster.kubectl("scale", "deployment/fn-drift", "--replicas=3", namespace=cluster.namespace)
    eventually_sync(lambda: cluster.deployment("drift")["spec"]["replicas"] == 0, within=5)
    cluster.kubectl("label", "deployment/fn-drift", "kappa.run/function-", namespace=cluster.namespace)
    eventually_sync(
        lambda: cluster.deployment("drift")["metadata"]["labels"].get("kappa.run/function") == "drift", within=5
    )


def test_somebody_elses_deployment_stays_theirs(cluster: Cluster) -> None:
    cluster.kubectl("create", "deployment", "fn-taken", "--image=theirs:1", "--replicas=0", namespace=cluster.namespace)
    cluster.apply("taken")
    eventually_sync(lambda: cluster.condition("taken").get("reason") == "DeploymentConflict")
    theirs = cluster.deployment("taken")
    assert theirs["spec"]["template"]["spec"]["containers"][0]["image"] == "theirs:1"
    assert "ownerReferences" not in theirs["metadata"]
    cluster.kubectl("delete", FUNCTIONS, "taken", namespace=cluster.namespace)
    cluster.kubectl("delete", "deployment", "fn-taken", namespace=cluster.namespace)


def test_demand_brings_pods_and_its_end_takes_them_away(cluster: Cluster, gateway: Gateway) -> None:
    cluster.apply("busy", scaling={"keepWarm": "1s", "maxReplicas": 3})
    eventually_sync(lambda: cluster.condition("busy", "CodeAvailable").get("reason") == "CodeLoaded")
    eventually_sync(lambda: cluster.deployment("busy")["spec"]["replicas"] == 0)
    demand = {"namespace": cluster.namespace, "name": "busy"}
    gateway.say({**demand, "waiting": 1})
    eventually_sync(lambda: cluster.deployment("busy")["spec"]["replicas"] == 1, within=2, every=0.02)
    gateway.say({**demand, "in_flight": 9})
    eventually_sync(lambda: cluster.deployment("busy")["spec"]["replicas"] == 3, within=2)
    gateway.say()
    eventually_sync(lambda: cluster.deployment("busy")["spec"]["replicas"] == 0, within=10)


def test_before_some_pods_go_the_busy_one_is_marked(cluster: Cluster, gateway: Gateway) -> None:
    cluster.apply("sparing", scaling={"keepWarm": "0s", "maxReplicas": 2})
    eventually_sync(lambda: cluster.condition("sparing").get("status") == "True")
    demand = {"namespace": cluster.namespace, "name": "sparing"}
    gateway.say({**demand, "in_flight": 2})
    # Both ready: one that is still starting goes first, whatever it costs.
    eventually_sync(lambda: cluster.deployment("sparing")["status"].get("readyReplicas") == 2)
    busy = cluster.pods("sparing")[0]["metadata"]["name"]
    gateway.say({**demand, "in_flight": 1, "pods": {busy: 1}})
    eventually_sync(lambda: [pod["metadata"]["name"] for pod in cluster.pods("sparing")] == [busy], within=60)
    gateway.say()


def test_deleting_a_function_leaves_nothing(cluster: Cluster) -> None:
    cluster.apply("gone", scaling={"minReplicas": 1})
    eventually_sync(lambda: cluster.pods("gone"))
    cluster.kubectl("delete", FUNCTIONS, "gone", namespace=cluster.namespace)
    kinds = ("deployments", "replicasets", "pods")
    of_it = "kappa.run/function=gone"
    eventually_sync(
        lambda: not any(cluster.kubectl.items(kind, of_it, namespace=cluster.namespace) for kind in kinds), within=60
    )


def test_the_longest_name_works(cluster: Cluster) -> None:
    name = "n" * 63
    cluster.apply(name)
    eventually_sync(lambda: cluster.condition(name, "CodeAvailable").get("reason") == "CodeLoaded")
    cluster.kubectl("delete", FUNCTIONS, name, namespace=cluster.namespace)


def test_a_function_created_again_under_the_same_name_works(cluster: Cluster) -> None:
    for _ in range(3):
        cluster.apply("again")
        eventually_sync(lambda: cluster.condition("again").get("status") == "True", within=10)
        cluster.kubectl("delete", FUNCTIONS, "again", namespace=cluster.namespace)


def test_health_and_metrics(operator: Operator) -> None:
    assert operator.get("/healthz") == (200, "ok\n")
    eventually_sync(lambda: operator.get("/readyz") == (200, "leading\n"))
    metrics = operator.get("/metrics")[1]
    for name in ("leader 1.0", "demand_streams 1.0", "reconcile_duration_seconds_count", "queue_depth", "scale_total"):
        assert f"kappa_operator_{name}" in metrics


def test_the_lease_passes_on_quickly_when_given_up_and_in_time_when_lost(
    namespace: str, kubectl: Kubectl, kubeconfig: str, tmp_path: Path
) -> None:
    times = {"LEASE_DURATION": "4", "RENEW_DEADLINE": "3", "RETRY_PERIOD": "0.5", "VERIFY_CONCURRENCY": "0"}
    cluster = Cluster(kubectl, namespace)
    one = Operator(namespace, kubeconfig, tmp_path / "one", "one", **times)
    others: list[Operator] = []
    try:
        eventually_sync(lambda: one.said("leading"))
        two = Operator(namespace, kubeconfig, tmp_path / "two", "two", **times)
        others.append(two)
        eventually_sync(lambda: two.said("standing by"))
        eventually_sync(lambda: two.get("/readyz") == (200, "standing by\n"))
        assert one.stop() == 0
        eventually_sync(lambda: two.said("leading"), within=3)
        three = Operator(namespace, kubeconfig, tmp_path / "three", "three", **times)
        others.append(three)
        eventually_sync(lambda: three.said("standing by"))
        two.stop(signal.SIGKILL)
        cluster.apply("orphan")
        eventually_sync(lambda: three.said("leading"), within=10)
        eventually_sync(lambda: cluster.condition("orphan").get("status") == "True", within=10)
        patch = json.dumps({"spec": {"holderIdentity": "thief"}})
        kubectl("patch", "lease", "kappa-operator", "--type=merge", "-p", patch, namespace=namespace)
        assert three.process.wait(10) == 1, "it stops at once, and not as if all were well"
        assert three.said("leading no more, stopping")
    finally:
        for process in (one, *others):
            process.stop()


def test_a_restart_rolls_no_pods_and_sees_what_happened_meanwhile(
    namespace: str, kubectl: Kubectl, kubeconfig: str, tmp_path: Path
) -> None:
    cluster = Cluster(kubectl, namespace)
    first = Operator(namespace, kubeconfig, tmp_path / "first")
    try:
        cluster.apply("kept", scaling={"minReplicas": 1})
        cluster.apply("deleted")
        eventually_sync(lambda: cluster.condition("kept").get("reason") == "Running", within=60)
        before = cluster.deployment("kept")
    finally:
        assert first.stop() == 0
    cluster.apply("made")
    kubectl("delete", FUNCTIONS, "deleted", namespace=namespace)
    kubectl("delete", "deployment", "fn-made", "--ignore-not-found", namespace=namespace)
    started = time.monotonic()
    second = Operator(namespace, kubeconfig, tmp_path / "second")
    try:
        eventually_sync(lambda: cluster.condition("made").get("status") == "True", within=15)
        assert time.monotonic() - started < 15
        after = cluster.deployment("kept")
        assert after["metadata"]["generation"] == before["metadata"]["generation"]
        eventually_sync(lambda: not kubectl.items("deployments", "kappa.run/function=deleted", namespace=namespace))
    finally:
        assert second.stop() == 0


def chart_rules(block: str) -> list[dict[str, Any]]:
    """A block of RBAC rules as the chart has it, for the Lease's default name."""
    text = (ROOT / "charts/kappa/templates/_rules.tpl").read_text()
    rules = text.split(f'define "kappa.{block}"')[1].split("-}}", 1)[1].split("{{- end")[0]
    parsed: list[dict[str, Any]] = yaml.safe_load(re.sub(r"\{\{.*?\}\}", "kappa", rules))
    return parsed


def test_the_charts_rights_are_enough(
    namespace: str, kubectl: Kubectl, kubeconfig: str, gateway: Gateway, tmp_path: Path
) -> None:
    rules = [*chart_rules("operatorRules"), *chart_rules("operatorOwnRules")]
    meta = {"name": "operator", "namespace": namespace}
    rbac = "rbac.authorization.k8s.io"
    kubectl.apply(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
        {
            "apiVersion": f"{rbac}/v1",
            "kind": "RoleBinding",
            "metadata": meta,
            "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", **meta}],
        },
    )
    config = json.loads(kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": kubectl("create", "token", "operator", namespace=namespace)}
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    cluster = Cluster(kubectl, namespace)
    limited = Operator(namespace, str(tmp_path / "kubeconfig"), tmp_path / "log", GATEWAYS=json.dumps([gateway.url]))
    try:
        kubectl("create", "configmap", "code", f"--from-literal=main.py={GOOD}", namespace=namespace)
        cluster.apply("modest", code={"configMap": {"name": "code"}}, scaling={"keepWarm": "0s"})
        eventually_sync(lambda: cluster.condition("modest", "CodeAvailable").get("reason") == "CodeLoaded", within=40)
        demand = {"namespace": namespace, "name": "modest"}
        gateway.say({**demand, "in_flight": 2})
        eventually_sync(lambda: cluster.deployment("modest")["status"].get("readyReplicas") == 2)
        busy = cluster.pods("modest")[0]["metadata"]["name"]
        gateway.say({**demand, "in_flight": 1, "pods": {busy: 1}})
        eventually_sync(lambda: cluster.deployment("modest")["spec"]["replicas"] == 1)
        gateway.say()
        eventually_sync(lambda: "Deployed" in cluster.events("modest"))
    finally:
        gateway.say()
        assert limited.stop() == 0
    assert "forbidden" not in (tmp_path / "log").read_text().lower()


def test_without_a_cluster_it_says_so(tmp_path: Path, namespace: str) -> None:
    absent = Operator(namespace, str(tmp_path / "no-kubeconfig"), tmp_path / "log")
    assert absent.process.wait(20) == 1
    text = (tmp_path / "log").read_text()
    absent.stop()
    assert "no way to the cluster" in text
    assert "Traceback" not in text
